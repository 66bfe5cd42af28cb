"""Agents that go wrong: the run says how, nothing of it reaches the repository, and it can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.bad_input import RIGHT, TARGET, Project
from helpers.repos import git, untouched

from agentflow.errors import Exit

AGENT = Path(__file__).with_name("agent.py")


def agent(project: Project, mode: str) -> dict[str, Any]:
    return {"command": ["{python}", str(AGENT), mode, str(project.place)]}


def repair(project: Project) -> None:
    (project.place / "repaired").touch()


def left_alive(project: Project) -> list[int]:
    """What the agent started and still runs."""
    pids = [int(word) for word in (project.place / "pids").read_text().split()]
    assert pids
    return [pid for pid in pids if psutil.pid_exists(pid)]


BAD: dict[str, dict[str, str]] = {
    "nothing": {
        "what": "the agent changed nothing",
        "why": "ignored files do not count",
        "fix": "`output: report`",
    },
    "ignored": {
        "what": "check.py` ended with exit code 1",
        "why": "No module named 'secret_local'",
        "fix": "agentflow logs",
    },
    "deletes": {"what": "every file was deleted", "fix": "keep what the task does not name"},
    "deletes_all": {"what": "the workspace itself was deleted", "fix": "keep what the task does not name"},
    "replaces": {"what": "the workspace itself was deleted or replaced", "fix": "keep what"},
    "writes_100_mb": {"what": "101 MiB were written; at most 100 MiB are taken", "fix": ".gitignore"},
    "never_ends": {"what": "was ended at its deadline", "fix": "raise the task's `timeout:`"},
}


@pytest.mark.parametrize("mode", BAD)
def test_the_run_fails_in_clear_words_and_can_be_resumed(project: Project, mode: str) -> None:
    limit = {"timeout": 3} if mode == "never_ends" else {}
    result = project.failed(project.feature(agent(project, mode), **limit), **BAD[mode])
    assert mode != "never_ends" or not left_alive(project)
    repair(project)
    project.resume(result["run"])


def test_an_undeclared_path_is_refused_by_name_and_shown(project: Project) -> None:
    file = project.feature(agent(project, "strays"), artifacts=["app.py"])
    what = "files outside of the declared artifacts were changed: check.py, new.txt"
    result = project.failed(file, what=what, fix="change only app.py")
    told = project.house.run("why", result["run"], "fix").stdout.splitlines()
    assert told[0] == f"fix is failed: policy: {what}"
    assert told[1].startswith("  fix: change only app.py")
    ended = project.house.run("resume", result["run"], code=Exit.FAILED).stdout.splitlines()
    place = ended.index(f"  failed: fix after 2 attempts: policy: {what}")
    assert ended[place + 1].startswith("    fix: change only app.py")


def test_children_that_an_agent_leaves_are_ended(project: Project) -> None:
    before = untouched(project.repo, target=TARGET)
    result = project.run(project.feature(agent(project, "leaves_children")), code=Exit.OK)
    project.check_landed(result)
    assert not left_alive(project)
    assert untouched(project.repo, target=TARGET) == before


def test_100_mb_of_output_are_capped(project: Project) -> None:
    result = project.run(project.feature(agent(project, "prints_100_mb")), code=Exit.OK)
    project.check_landed(result)
    assert len(project.log(result, "1.log")) < 12 << 20


def test_the_refused_work_is_kept_but_not_in_the_branches(project: Project) -> None:
    """A red attempt's commit can be looked at; the repository's branches never held it."""
    result = project.failed(project.feature(agent(project, "ignored")), what="exit code 1")
    (store,) = project.house.home.glob(f"repos/{project.project_id()}*.git")
    ref = f"refs/agentflow/{result['run']}/nodes/fix/1"
    assert "secret_local" in git(store, "show", f"{ref}:app.py")
    assert "secret_local.py" not in git(store, "ls-tree", "--name-only", ref)
    assert git(project.repo, "log", "--all", "--format=%s") == "first"


def test_a_second_attempt_is_told_and_lands(project: Project) -> None:
    """The agent does it right when its prompt says how the first attempt failed."""
    script = (
        "import sys\n"
        "told = 'the answer is 41.5' in open(sys.argv[1]).read()\n"
        f"open('app.py', 'w').write({RIGHT!r} if told else {RIGHT.replace('42', '41.5')!r})\n"
    )
    runner = {"command": ["{python}", "-c", script, "{prompt_file}"]}
    result = project.run(project.feature(runner, retries=1), code=Exit.OK)
    project.check_landed(result)
    assert result["nodes"]["fix"]["attempts"] == 2
