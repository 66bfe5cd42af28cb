"""Coming from a library of agents: the Python API with a pipeline, priorities and a checkpoint per task.

Tasks are objects, stages follow one another, what is more important goes first where there is one slot only,
and each task leaves a checkpoint that gives back exactly its tree. Agents are small programs here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import git, repository

import agentflow
from agentflow import Task

# The agent appends its task to a diary outside of the repository and writes the files that it may.
AGENT = 'echo "$1" >> "$2"; for file in $3; do echo "by $1" > "$file"; done'
STAGES = [
    {"stage": "design", "agents": ["architect"]},
    {"stage": "implement", "agents": ["backend", "frontend", "database"], "parallel": True},
    {"stage": "test", "agents": ["tester"]},
    {"stage": "review", "agents": ["reviewer"]},
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with one commit, and a data directory of its own."""
    runtime = tempfile.mkdtemp(prefix="afg-")
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setenv("AGENTFLOW_GRACE_S", "1")
    yield repository(tmp_path / "project", {"README.md": "hello\n"})
    agentflow.shutdown(wait=False)
    shutil.rmtree(runtime, ignore_errors=True)


def task(diary: Path, name: str, role: str, *, priority: str = "medium") -> Task:
    """One file of its own for each task; a review changes none."""
    report = role == "reviewer"
    files = [] if report else [f"{name}.txt"]
    command = ["sh", "-c", AGENT, "sh", "{task}", str(diary), " ".join(files)]
    return Task(
        id=name,
        role=role,
        prompt=f"Do {name}.",
        priority=priority,
        output="report" if report else "change",
        artifacts=files,
        acceptance=[f"test -f {file}" for file in files],
        runner={"command": command},
        retries=0,
    )


def tasks(diary: Path) -> list[Task]:
    """As somebody would write them down: in no order, without needs; the stages order them."""
    return [
        task(diary, "review", "reviewer", priority="critical"),
        task(diary, "e2e", "tester", priority="critical"),
        task(diary, "ui", "frontend", priority="low"),
        task(diary, "tables", "database", priority="critical"),
        task(diary, "api", "backend", priority="high"),
        task(diary, "design", "architect", priority="low"),
    ]


def test_stages_are_waves_of_one_dag(project: Path, tmp_path: Path) -> None:
    plan = agentflow.plan(tasks(tmp_path / "diary"), strategy="pipeline", stages=STAGES, repo=project)
    assert [sorted(wave) for wave in plan.waves()] == [
        ["design"],
        ["api", "tables", "ui"],
        ["e2e"],
        ["review"],
    ]
    assert plan.order()[0] == "design"
    assert plan.cycle() == []


def test_pipeline_priorities_and_checkpoints(project: Path, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    moments: list[tuple[str, str]] = []
    with agentflow.watch(["design", "api"], lambda event: moments.append((event.node, event.kind))):
        result = agentflow.run(
            tasks(diary), feature="Shop", strategy="pipeline", stages=STAGES, jobs=1, repo=project
        )
    assert (result.state, result.completed, result.failed) == ("landed", 6, 0)

    # Stage after stage, one task at a time; within a stage what is more important went first. That the
    # review is critical does not let it overtake its stage.
    assert diary.read_text().split() == ["design", "tables", "api", "ui", "e2e", "review"]
    assert moments.index(("design", "node.settled")) < moments.index(("api", "node.started"))

    # A checkpoint for each task that changed something: a ref, which holds its work and that of the
    # stages before it. Any of them can be checked out, as the exact tree that passed acceptance.
    before = {"README.md": "hello\n", "design.txt": "by design\n"}
    done = before | {f"{name}.txt": f"by {name}\n" for name in ("api", "tables", "ui")}
    expected = {
        "design": before,
        "api": before | {"api.txt": "by api\n"},
        "tables": before | {"tables.txt": "by tables\n"},
        "ui": before | {"ui.txt": "by ui\n"},
        "e2e": done | {"e2e.txt": "by e2e\n"},
    }
    checkpoints = {name: its.checkpoint for name, its in result.tasks.items() if its.checkpoint}
    assert sorted(checkpoints) == sorted(expected)
    for name, ref in checkpoints.items():
        assert git(project, "rev-parse", ref).strip() == result.tasks[name].commit
        assert restored(project, ref, tmp_path / "restored" / name) == expected[name]

    # The branch holds everything; the checkout of the user was not touched.
    assert restored(project, result.branch, tmp_path / "restored" / "branch") == expected["e2e"]
    assert git(project, "status", "--porcelain") == ""


def test_a_failed_stage_keeps_the_checkpoints_before_it(project: Path, tmp_path: Path) -> None:
    found = {its.id: its for its in tasks(tmp_path / "diary")}
    found["api"] = Task(id="api", role="backend", priority="high", runner={"command": ["false"]}, retries=0)
    plan = agentflow.plan(
        list(found.values()), feature="Shop", strategy="pipeline", stages=STAGES, repo=project
    )
    result = agentflow.run(plan, jobs=1, repo=project)
    assert (result.state, result.failed_nodes) == ("failed", ("api",))
    # Fail-fast: no later stage began. What was done is kept.
    assert {result.tasks[name].state for name in ("e2e", "review")} <= {"skipped", "cancelled"}
    design = result.tasks["design"].checkpoint
    assert restored(project, design, tmp_path / "restored") == {
        "README.md": "hello\n",
        "design.txt": "by design\n",
    }


def restored(project: Path, ref: str, place: Path) -> dict[str, str]:
    """The files of a checkpoint, as git gives them back into a directory of its own."""
    git(project, "worktree", "add", "--quiet", "--detach", str(place), ref)
    files = {
        path.relative_to(place).as_posix(): path.read_text()
        for path in place.rglob("*")
        if path.is_file() and path.name != ".git"
    }
    git(project, "worktree", "remove", str(place))
    return files
