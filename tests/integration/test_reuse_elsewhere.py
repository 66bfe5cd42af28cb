"""Verified work of another machine comes as a pack of the run that made it, and is judged here once more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.repos import git, make_repo
from helpers.workers import Stage, stage

from agentflow import runs
from agentflow.results import RunResult
from agentflow.spec.reader import parse_spec
from agentflow.transport import run_packs


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"README.md": "hello\n"})


def run(machine: Stage, repo: Path, place: Path) -> RunResult:
    """One node; its attempts and its trials are noted."""
    task = {
        "id": "a",
        "role": "backend",
        "prompt": "x",
        "acceptance": [["sh", "-c", f"echo >> {place}/judged; test -f a.txt"]],
        "runner": {"command": ["sh", "-c", f"echo >> {place}/made; echo a > a.txt"]},
    }
    text = json.dumps({"feature": "Letters", "target": "letters", "tasks": [task]})
    spec = parse_spec(text, name="feature.yaml", config=machine.config)
    run_id = runs.submit(spec, config=machine.config, repo=repo)
    for _ in runs.follow(run_id, config=machine.config, repo=repo):
        pass
    return runs.finish(run_id, config=machine.config, repo=repo)


def count(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("there", [True, False], ids=["its pack is there", "its pack is gone"])
def test_work_of_another_machine(redis_url: str, repo: Path, tmp_path: Path, *, there: bool) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with stage(redis_url, tmp_path / "one") as one:
        one.start("one")
        first = run(one, repo, tmp_path)
        one.workers[0].kill()
    git(repo, "branch", "-D", "letters")
    with stage(redis_url, tmp_path / "two") as two:
        if not there:
            run_packs(two.config, first.run).forget()
        two.start("two")
        second = run(two, repo, tmp_path)
    assert second.state == "landed"
    assert git(repo, "show", "letters:a.txt") == "a"
    # Once where it was made, once where somebody else's word was not taken.
    assert count(tmp_path / "judged") == 2
    if there:
        assert second.nodes["a"].reused == f"{first.run}/a"
        assert (second.commit, count(tmp_path / "made")) == (first.commit, 1)
    else:
        assert (second.nodes["a"].reused, count(tmp_path / "made")) == ("", 2)
