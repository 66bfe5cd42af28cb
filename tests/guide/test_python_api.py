"""A feature from Python: tasks as objects, run to a landed branch."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from helpers.cli import git, repository

import agentflow
from agentflow import Task
from agentflow.config import load_config
from agentflow.errors import SpecError
from agentflow.local import service

AGENT = {"command": ["sh", "-c", 'echo "by $1" > "$1.txt"', "sh", "{task}"]}


@pytest.fixture
def home(tmp_path, monkeypatch):
    runtime = tempfile.mkdtemp(prefix="afg-")
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setenv("AGENTFLOW_GRACE_S", "1")
    yield tmp_path
    service.down(load_config())
    shutil.rmtree(runtime, ignore_errors=True)


def tasks() -> list[Task]:
    common = {"runner": AGENT, "acceptance": ["test -f api.txt"], "retries": 0}
    return [
        Task(id="api", role="backend-engineer", artifacts=["api.txt"], **common),
        Task(id="docs", role="writer", needs=["api"], artifacts=["docs.txt"], **common),
    ]


@pytest.mark.usefixtures("home")
def test_the_plan_is_a_value_to_look_at():
    plan = agentflow.plan(tasks(), feature="Two files")
    assert [(n.id, n.role, n.needs) for n in plan.nodes] == [
        ("api", "backend", ()),
        ("docs", "docs", ("api",)),
    ]


def test_what_is_wrong_is_said_before_anything_runs(home):
    wrong = Task(id="a", role="backend", prompt="x", needs=["nobody"])
    with pytest.raises(SpecError) as caught:
        agentflow.run([wrong], repo=home)
    assert "there is no such task" in caught.value.explain()


def test_a_run_returns_its_result_and_lands(home: Path):
    place = repository(home / "project", {"README.md": "hello\n"})
    result = agentflow.run(tasks(), repo=place, feature="Two files")
    assert (result.state, result.completed, result.failed_nodes) == ("landed", 2, ())
    assert git(place, "show", f"{result.branch}:docs.txt") == "by docs\n"
    assert result.nodes["docs"].checkpoint in git(place, "for-each-ref", "--format=%(refname)").split()
    assert result.cpu_s > 0
    assert result.peak_memory_mb > 0
