"""Coming back to a run: what was before in a line, what is rolled back, what has ended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import git, repository
from helpers.house import House, open_house
from helpers.wait import wait_until
from typer.testing import CliRunner

from agentflow.cli.main import app

WRITES = 'echo "by $1" > "$1.txt"'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One data directory, server and worker for all tests of this file."""
    with open_house(tmp_path_factory.mktemp("back")) as found:
        yield found


class Here(House):
    """What is typed runs in this very process, so that no interpreter starts for each command."""

    def run(
        self,
        *words: object,
        code: int | None = 0,
        timeout: float = 0,  # noqa: ARG002 (that of the whole test counts)
    ) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.cwd)
            for name, value in self.env.items():
                patch.setenv(name, value)
            done = CliRunner().invoke(app, [*map(str, words)])
        assert code in (None, done.exit_code), f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    def finished(self, *words: object, code: int | None = 0) -> dict[str, Any]:
        found = self.json(*words, "--json", code=code)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def house(place: House, tmp_path: Path) -> House:
    """The command line in a fresh repository."""
    found = Here(repository(tmp_path / "project", {"README.md": "hello\n"}), place.home, tmp_path)
    found.env = dict(place.env)
    return found


def feature(house: House, **scripts: str) -> None:
    """A feature of a line of nodes; each is a shell script (`$1` is its id) and needs the one before."""
    ids = list(scripts)
    tasks = [
        {
            "id": name, "role": "backend", "prompt": "x", "artifacts": [f"{name}.txt"], "expect": "none",
            "needs": ids[at - 1 : at] if at else [],
            "runner": {"command": ["sh", "-c", scripts[name], "sh", "{task}"]},
        }
        for at, name in enumerate(ids)
    ]  # fmt: skip
    spec = {"feature": "Some files", "policy": {"retries": 0}, "tasks": tasks}
    (house.cwd / "feature.yaml").write_text(yaml.safe_dump(spec))


def unless(repaired: Path) -> str:
    return f"[ -e {repaired} ] || exit 3; {WRITES}"


def test_who_comes_back_is_told_what_was_before_in_one_line(house: House, tmp_path: Path) -> None:
    feature(house, a=WRITES, b=unless(tmp_path / "repaired"), c=WRITES)
    failed = house.run("run", "--json", "--no-cache", code=1)
    run_id = json.loads(failed.stdout)["run"]
    assert "  a  succeeded" in failed.stderr

    watched = house.run("watch", run_id, code=1)
    before = "… 3 nodes ended before (1 succeeded, 1 failed, 1 skipped): b"
    assert before in watched.stderr
    assert "  a  " not in watched.stderr, "what was before is not told again"
    assert "failed: b after 1 attempt" in watched.stdout
    assert "  a  succeeded" in house.run("watch", run_id, "--from-start", code=1).stderr
    stream = [json.loads(line) for line in house.run("watch", run_id, "--events", code=1).stdout.splitlines()]
    told = [json.loads(line) for line in house.run("events", run_id).stdout.splitlines()]
    assert stream == told, "the stream for programs is whole"

    (tmp_path / "repaired").touch()
    resumed = house.run("resume", run_id)
    assert before in resumed.stderr
    assert "  a  " not in resumed.stderr
    for name in "bc":
        assert f"  {name}  succeeded" in resumed.stderr
    assert resumed.stdout.startswith("landed on agentflow/some-files")
    over = house.run("resume", run_id)
    assert f"run {run_id}: landed already; nothing is left to do" in over.stderr


def test_what_goes_on_now_is_told_to_who_watches(house: House, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    feature(house, a=WRITES, b=f"until [ -e {gate} ]; do sleep 0.05; done; {WRITES}")
    run_id = house.json("run", "--detach", "--json", "--no-cache")["run"]
    wait_until(
        lambda: house.ledger().node(run_id, "b").state == "running", timeout=60, what="b runs"
    )  # fmt: skip
    err = tmp_path / "err"
    with err.open("w") as stream:
        watching = house.start("watch", run_id, stderr=stream)
    wait_until(lambda: "running: b (" in err.read_text(), timeout=60, what="b is told")
    gate.touch()
    watching.communicate(timeout=120)
    lines = err.read_text().splitlines()
    assert lines[0] == "… 1 node ended before (1 succeeded)"
    assert "1/2 done · 1 running; running: b (" in lines[1]
    assert any("  b  succeeded" in line for line in lines)


def test_a_rollback_is_seen_by_who_looks(house: House) -> None:
    feature(house, a=WRITES, b=WRITES)
    run_id = house.finished("run", "--no-cache")["run"]
    assert house.json("runs", "--json")[0]["run"] == run_id == house.json("status", run_id, "--json")["run"]
    house.run("rollback", run_id, "--to", "a")
    told = house.run("status", run_id).stdout
    assert "1/2 nodes done (1 rolled back) in" in told
    assert f"next: agentflow resume {run_id} (does again what was undone)" in told
    seen = house.json("status", run_id, "--json")
    assert (seen["rolled_back"], seen["counts"]) == (1, {"succeeded": 1, "cancelled": 1})
    assert "cancelled, rolled back" in house.run("runs").stdout
    assert "… 2 nodes ended before (1 succeeded, 1 rolled back)" in house.run("resume", run_id).stderr
    assert "rolled back" not in house.run("status", run_id).stdout
    assert git(house.cwd, "show", "agentflow/some-files:b.txt") == "by b\n"


def test_the_result_is_a_checkpoint_to_go_back_to(house: House) -> None:
    feature(house, a=WRITES, b=WRITES)
    landed = house.finished("run", "--no-cache")
    run_id = landed["run"]
    assert house.json("checkpoints", run_id, "--json")[-1]["name"] == "result"
    done = house.json("rollback", run_id, "--to", "result", "--json")
    assert (done["commit"], done["undone"], done["kept"]) == (landed["commit"], [], ["a", "b"])
    assert git(house.cwd, "branch", "--list", "agentflow/*") == ""
    assert house.finished("resume", run_id)["commit"] == landed["commit"]


def test_a_run_that_has_ended_is_told_and_left_alone(house: House, tmp_path: Path) -> None:
    repaired = tmp_path / "repaired"
    feature(house, a=unless(repaired))
    failed = house.finished("run", "--no-cache", code=1)["run"]
    repaired.touch()
    landed = house.finished("run", "--no-cache")["run"]
    deeds = {"pause": "paused", "drain": "drained", "cancel": "cancelled", "kill": "killed"}
    for verb, deed in deeds.items():
        done = house.run(verb, landed, code=2)
        assert done.stdout == ""
        assert f"run {landed} cannot be {deed}: it has ended already (landed)" in done.stderr
        assert f"agentflow rollback {landed}" in done.stderr
    done = house.run("cancel", failed, code=2)
    assert "it has ended already (failed)" in done.stderr
    assert f"agentflow resume {failed}" in done.stderr
    assert [house.ledger().run(run_id).state for run_id in (failed, landed)] == ["failed", "landed"]

    feature(house, a="sleep 600")
    stopped = house.json("run", "--detach", "--json", "--no-cache")["run"]
    house.run("kill", stopped)
    for verb in ("cancel", "kill"):  # what they want holds already
        assert house.run(verb, stopped).stdout == f"{stopped}: cancelled\n"
    assert "it has ended already (cancelled)" in house.run("drain", stopped, code=2).stderr
