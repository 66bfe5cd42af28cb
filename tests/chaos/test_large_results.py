"""Results of many megabytes travel as packs; one above the cap is refused, and nobody is harmed by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chaos import parts
from chaos.parts import Piece
from helpers.repos import git, make_repo
from helpers.workers import Stage, stage

from agentflow import runs
from agentflow.spec.reader import parse_spec

TARGET = "large"
#: Of one file: 100 MiB are taken from an attempt, its small file and this one together.
LARGEST_MIB = 99


def run_of(found: Stage, pieces: list[Piece], repo: Path) -> str:
    """Run the pieces over the stage's workers; the run's id when it has closed."""
    spec = parse_spec(parts.feature(pieces, TARGET), name="feature.yaml", config=found.config)
    run_id = runs.submit(spec, config=found.config, repo=repo)
    found.wait_closed(run_id, seconds=240)
    return run_id


@pytest.mark.timeout(600)
@pytest.mark.parametrize("megabytes", [8, pytest.param(LARGEST_MIB, marks=pytest.mark.slow)])
def test_a_large_file_arrives_whole(megabytes: int, redis_url: str, tmp_path: Path) -> None:
    """Made on one machine, built upon on another one, landed on a third."""
    repo = make_repo(tmp_path / "repo", {"readme.md": "r\n"})
    (tmp_path / "ann").mkdir()
    pieces = [Piece("n0", (), megabytes=megabytes), Piece("n1", ("n0",)), Piece("n2", ("n0",), megabytes=1)]
    with stage(redis_url, tmp_path / "ann") as found:
        for name in ("one", "two"):
            found.start(name, slots=1, env={"AGENTFLOW_HOME": str(tmp_path / name)})
        run_id = run_of(found, pieces, repo)
        assert runs.finish(run_id, config=found.config, repo=repo).state == "landed"
    expected = parts.tree_of(pieces, {"readme.md": b"r\n"}, tmp_path)
    assert git(repo, "rev-parse", f"{TARGET}^{{tree}}") == expected


@pytest.mark.timeout(600)
def test_a_file_above_the_cap_is_refused(redis_url: str, tmp_path: Path) -> None:
    """The node fails and says what to do, takes no room, and the worker goes on with the next run."""
    repo = make_repo(tmp_path / "repo", {"readme.md": "r\n"})
    (tmp_path / "ann").mkdir()
    config = {"distributed": {"max_pack_mb": 2}}
    with stage(redis_url, tmp_path / "ann") as found:
        home = tmp_path / "one"
        home.mkdir()
        found.config.data_dir.mkdir(exist_ok=True)
        (tmp_path / "ann" / "agentflow.yaml").write_text(json.dumps(config))
        worker = found.start("one", env={"AGENTFLOW_HOME": str(home)})
        run_id = run_of(found, [Piece("n0", (), megabytes=5)], repo)
        node = found.ledger.node(run_id, "n0")
        assert (node.state, node.code) == ("failed", "AF-POLICY-016")
        assert "max_pack_mb" in node.feedback
        assert not list(found.ledger.client.scan_iter(f"af:pack:{run_id}:*"))
        again = run_of(found, [Piece("n0", ())], repo)
        assert runs.finish(again, config=found.config, repo=repo).state == "landed"
        assert worker.process.poll() is None
