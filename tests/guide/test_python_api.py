"""agentflow from Python: read it as a tutorial. docs/python.md is its summary."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import git, repository
from helpers.wait import wait_until

import agentflow
from agentflow import Spec, Task
from agentflow.config import load_config
from agentflow.errors import SpecError
from agentflow.local import service
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer

# Any program can be an agent. This one writes one file; its name is that of the task.
AGENT = {"command": ["sh", "-c", 'echo "by $1" > "$1.txt"', "sh", "{task}"]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of its own; `agentflow.shutdown()` ends what runs for it."""
    runtime = tempfile.mkdtemp(prefix="afg-")
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setenv("AGENTFLOW_GRACE_S", "1")
    yield tmp_path
    service.down(load_config())
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def project(home: Path) -> Path:
    """A repository with one commit."""
    return repository(home / "project", {"README.md": "hello\n"})


def tasks() -> list[Task]:
    common = {"runner": AGENT, "acceptance": ["test -f api.txt"], "retries": 0}
    return [
        Task(id="api", role="backend-engineer", artifacts=["api.txt"], **common),
        Task(id="docs", role="writer", needs=["api"], artifacts=["docs.txt"], **common),
    ]


@pytest.mark.usefixtures("home")
def test_a_plan_is_a_value_to_look_at() -> None:
    # `plan` takes tasks, a Spec, a feature file (a Path) or its text. Nothing runs.
    plan = agentflow.plan(tasks(), feature="Two files")
    assert plan.order() == ["api", "docs"]
    assert plan.waves() == [["api"], ["docs"]]
    assert plan.cycle() == []
    assert [(n.id, n.role, n.needs) for n in plan.nodes] == [
        ("api", "backend", ()),
        ("docs", "docs", ("api",)),
    ]
    text = "feature: One\ntasks:\n  - {id: a, role: backend, prompt: Write a.}\n"
    assert agentflow.plan(text).order() == ["a"]

    # Also a line of verbs, as it is typed after `agentflow run`.
    assert agentflow.plan('review "the API" AND test "the API"').order() == ["review", "test"]


def test_what_is_wrong_is_said_before_anything_runs(home: Path) -> None:
    wrong = [
        Task(id="a", role="backend", prompt="x", needs=["nobody", "b"]),
        Task(id="b", role="qa", needs=["a"]),
    ]
    with pytest.raises(SpecError) as caught:
        agentflow.run(wrong, repo=home)
    assert "there is no such task" in caught.value.explain()
    # What a traceback shows below the error.
    assert caught.value.__notes__ == [caught.value.explain()]

    # Who wants to look at a broken plan asks for no check: the problems are a list then.
    broken = agentflow.plan(Spec(feature="A circle", tasks=wrong), check=False)
    assert broken.cycle() == ["a", "b", "a"]
    assert {problem.code for problem in broken.problems} >= {"AF-SPEC-021", "AF-SPEC-022"}
    with pytest.raises(SpecError):
        broken.order()


def test_a_run_returns_its_result_and_lands(project: Path) -> None:
    result = agentflow.run(tasks(), repo=project, feature="Two files")
    assert (result.ok, result.state) == (True, "landed")
    assert (result.total, result.completed, result.failed, result.failed_nodes) == (2, 2, 0, ())
    assert git(project, "show", f"{result.branch}:docs.txt") == "by docs\n"

    # What it took, in all and by task; a checkpoint is a ref of the repository.
    assert result.duration_s > 0
    assert (result.cpu_s > 0, result.peak_memory_mb > 0) == (True, True)
    assert (result.calls, result.cost_usd) == (0, 0.0)  # of a model: these agents asked none
    assert (result.tasks["docs"].state, result.tasks["docs"].attempts) == ("succeeded", 1)
    assert result.tasks["docs"].checkpoint in git(project, "for-each-ref", "--format=%(refname)").split()


def test_a_failed_run_is_a_result_too(project: Path) -> None:
    sick = Task(id="sick", role="qa", runner={"command": ["false"]}, retries=0)
    result = agentflow.run([sick, *tasks()], repo=project)
    assert (result.ok, result.state, result.failed_nodes) == (False, "failed", ("sick",))
    assert "exit code 1" in result.tasks["sick"].reason
    # The others were not held up by it; `agentflow resume` goes on from here.
    assert result.tasks["docs"].state == "succeeded"


def test_a_run_can_be_watched_while_it_goes_on(project: Path) -> None:
    # `watch` calls back from a thread for each transition of a node or a run; stop it, or use `with`.
    seen: list[tuple[str, str]] = []
    with agentflow.watch("docs", lambda event: seen.append((event.kind, event.state))) as watching:
        # `submit` returns the id at once; the run goes on by itself and does not land.
        run_id = agentflow.submit(tasks(), repo=project, feature="Two files")
        assert agentflow.status(run_id).total == 2
        wait_until(lambda: ("node.settled", "succeeded") in seen, timeout=60)
    assert seen == [("node.ready", "ready"), ("node.started", "running"), ("node.settled", "succeeded")]
    assert watching.error is None

    # Of a run by its id the past is told as well.
    kinds: list[str] = []
    wait_until(lambda: agentflow.status(run_id).run.state == "ready_to_land", timeout=60)
    with agentflow.watch([run_id], lambda event: kinds.append(event.kind)):
        pass
    assert (kinds[0], kinds[-1]) == ("run.opened", "run.finished")
    assert agentflow.result(run_id).completed == 2

    # A callback that raises ends its watch; the error comes out of `stop`.
    with pytest.raises(ZeroDivisionError), agentflow.watch([run_id], lambda _event: 1 // 0):
        pass


def test_shutdown_ends_what_was_begun(project: Path) -> None:
    # With `wait` the runs that this process began come to their end first, as an executor's work does.
    run_id = agentflow.submit(tasks(), repo=project)
    assert agentflow.shutdown(wait=True) is True
    assert service.status(load_config()) is None
    # Without, what runs is handed back: the run stays open for `agentflow resume`.
    assert agentflow.status(run_id).run.state == "ready_to_land"
    slow = Task(id="slow", role="qa", runner={"command": ["sleep", "60"]}, output="report")
    other = agentflow.submit([slow], repo=project)
    wait_until(lambda: agentflow.status(other).run.running == 1, timeout=60)
    assert agentflow.shutdown(wait=False) is True
    assert agentflow.status(other).run.state == "draining"


def test_words_are_planned_by_a_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Text that is no feature file goes to the planner's model. Here a server with a script answers.
    answer = {
        "feature": "Two files", "goal": "", "validate": ["test -f docs.txt"],
        "tasks": [
            {"id": name, "role": role, "prompt": f"Write {name}.txt.", "needs": needs, "output": "change",
             "artifacts": [f"{name}.txt"], "acceptance": [f"test -f {name}.txt"]}
            for name, role, needs in (("api", "backend", []), ("docs", "docs", ["api"]))
        ],
    }  # fmt: skip
    rule = {"name": "plan", "when": ["Write an API"], "turns": [{"text": json.dumps(answer)}]}
    with ScriptedServer(Script.model_validate({"replies": [rule]})) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("AGENTFLOW_MODEL", "scripted")
        plan = agentflow.plan("Write an API and document it", repo=project)
    assert plan.waves() == [["api"], ["docs"]]
    assert plan.yaml.startswith("# Planned by scripted")
    assert agentflow.plan(plan.yaml, repo=project).spec == plan.spec
    # It is a plan like any other: change it, save it, run it.
    worked = Spec.model_validate(plan.spec.model_dump(by_alias=True) | {"runner": AGENT})
    assert agentflow.run(worked, repo=project).completed == 2
