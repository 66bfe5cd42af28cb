"""Modes of artifacts in whole runs: real workers, real git, agents that ask for more while they work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import git, repository
from helpers.wait import wait_until
from helpers.workers import Stage, stage

from agentflow import Spec, Task, plan, runs
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer
from agentflow.runs import SubmitOptions
from agentflow.states import NodeState
from agentflow.store.events import EventLog

LOG = "# Changes\n"


@pytest.fixture
def scene(redis_url, tmp_path) -> Iterator[Stage]:
    (tmp_path / "home").mkdir()
    with stage(redis_url, tmp_path / "home") as found:
        found.start()
        yield found


@pytest.fixture
def project(tmp_path) -> Path:
    return repository(tmp_path / "project", {"log.md": LOG, "src/a.py": "x = 1\n", "src/b.py": "y = 1\n"})


def submit(scene: Stage, project: Path, *tasks: Task, **more: Any) -> str:
    spec = Spec(feature="modes", tasks=tasks, **more)
    return runs.submit(plan(spec, config=scene.config).spec, config=scene.config, repo=project)


def shell(script: str) -> dict[str, Any]:
    return {"command": ["sh", "-c", script]}


def task(name: str, artifacts: list[Any], script: str, **more: Any) -> Task:
    return Task(id=name, role="implementer", artifacts=artifacts, runner=shell(script), **more)


def landed(scene: Stage, project: Path, run: str, path: str) -> str:
    scene.wait_closed(run, seconds=150)
    result = runs.finish(run, config=scene.config)
    assert (result.state, result.reason) == ("landed", "")
    return git(project, "show", f"{result.branch}:{path}")


def waits_for(place: Path) -> str:
    return f"while [ ! -e {place} ]; do sleep 0.02; done"


def test_two_append_at_the_same_time_and_the_landed_file_has_both(scene, project, tmp_path):
    """Each of them goes on only when the other one is at work: they do run together."""
    a, b = tmp_path / "a", tmp_path / "b"
    log = {"path": "log.md", "mode": "append"}
    run = submit(
        scene,
        project,
        task("one", [log, "one.txt"], f"touch {a}; {waits_for(b)}; echo one >> log.md; touch one.txt"),
        task("two", [log], f"touch {b}; {waits_for(a)}; echo two >> log.md"),
        task(
            "copy", ["copy.md", {"path": "log.md", "mode": "read"}], "cp log.md copy.md", needs=["one", "two"]
        ),
    )
    text = landed(scene, project, run, "log.md")
    assert text.startswith(LOG)
    assert sorted(text[len(LOG) :].split()) == ["one", "two"]
    node = scene.ledger.node(run, "copy")
    assert git(project, "show", "agentflow/modes:copy.md") == text, f"it read both: {node.edges}"


def test_a_reader_keeps_a_writer_waiting_and_a_write_outside_of_its_artifacts_is_refused(
    scene, project, tmp_path
):
    go, started = tmp_path / "go", tmp_path / "started"
    tree = {"path": "src/**", "mode": "read"}
    run = submit(
        scene,
        project,
        task("reads", [tree, "doc.md"], f"touch {started}; {waits_for(go)}; cat src/*.py > doc.md"),
        task("first", ["first.md"], f"{waits_for(started)}; touch first.md"),
        task("writes", ["src/a.py"], "echo 'x = 2' > src/a.py", needs=["first"]),
        task("cheats", [tree, "ok.md"], "touch ok.md; echo 'y = 2' > src/b.py", retries=0, optional=True),
    )
    wait_until(lambda: scene.ledger.node(run, "writes").state is NodeState.PARKED, timeout=90)
    reason = scene.ledger.node(run, "writes").reason
    assert reason in ("lock: src/a.py is held for reads", "lock: src/a.py is held for cheats")
    go.touch()
    assert landed(scene, project, run, "doc.md") == "x = 1\ny = 1\n"
    assert "outside of the declared artifacts" in scene.ledger.node(run, "cheats").reason


def test_undeclared_work_that_collides_is_done_again_on_top(scene, project, tmp_path):
    """Predicted (both declare nothing), detected when it settles, run again on a base that has the other."""
    a, b = tmp_path / "a", tmp_path / "b"
    run = submit(
        scene,
        project,
        task("one", [], f"touch {a}; {waits_for(b)}; echo 'z = 1' >> src/a.py"),
        task("two", [], f"touch {b}; {waits_for(a)}; echo 'z = 2' >> src/a.py"),
    )
    text = landed(scene, project, run, "src/a.py")
    assert sorted(text.split("\n")) == ["", "x = 1", "z = 1", "z = 2"]
    nodes = scene.ledger.nodes(run)
    assert sorted(nodes[name].conflicts for name in ("one", "two")) == [0, 1]
    late = next(nodes[name] for name in ("one", "two") if nodes[name].conflicts)
    assert late.edges == ("two" if late.id == "one" else "one",)


# -- asking while at work --------------------------------------------------------------------------------


@contextmanager
def agent(**turns: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """An agent behind a model; of each node, the calls of its turns."""
    rules = [
        {"name": node, "when": [f"# Your task ({node},"], "turns": [{"calls": [call]} for call in calls]}
        for node, calls in turns.items()
    ]
    with ScriptedServer(Script.model_validate({"replies": rules}), record=True) as server:
        yield {"type": "openai", "base_url": server.url, "model": "scripted", "backoff_s": 0.01}


FINISH = {"finish": {"summary": "done"}}


def test_an_agent_is_given_a_file_and_its_work_in_it_is_taken(scene, project):
    calls = [
        {"write": {"path": "src/b.py", "content": "y = 2\n"}},
        {"request_artifact": {"path": "src/b.py"}},
        {"write": {"path": "src/b.py", "content": "y = 2\n"}},
        {"request_artifact": {"path": ".github/workflows/x.yml"}},
        {"request_artifact": {"path": "**"}},
        FINISH,
    ]
    with agent(asks=calls) as mind:
        asks = Task(id="asks", role="implementer", prompt="Do it.", artifacts=["src/a.py"], runner=mind)
        run = submit(scene, project, asks)
        assert landed(scene, project, run, "src/b.py") == "y = 2\n"
    said = (scene.config.data_dir / "runs" / run / "logs" / "asks.1.log").read_text()
    assert "not among the files that you may write: src/a.py; ask for it with `request_artifact`" in said
    assert "granted: you may write src/b.py until you finish" in said
    assert "refused: it configures people's tools" in said
    assert "refused: the whole tree is never given" in said
    assert [e.reason for e in EventLog(scene.ledger.client).read(run) if e.kind == "node.extended"] == [
        "w:src/b.py"
    ]


def test_an_agent_that_asks_for_a_held_file_ends_and_comes_back_behind_its_holder(scene, project, tmp_path):
    """It never waits inside: it gives back what it holds (`other` goes on with that), then has both files."""
    started, go = tmp_path / "started", tmp_path / "go"
    calls = [
        {"request_artifact": {"path": "src/b.py", "wait": True}},
        {"edit": {"path": "src/b.py", "old": "owner = 1\n", "new": "owner = 1\nasks = 1\n"}},
        FINISH,
    ]
    with agent(asks=calls) as mind:
        run = submit(
            scene,
            project,
            task("owner", ["src/b.py"], f"touch {started}; {waits_for(go)}; echo 'owner = 1' >> src/b.py"),
            task("first", ["first.md"], f"{waits_for(started)}; touch first.md"),
            Task(
                id="asks",
                role="implementer",
                prompt="Do it.",
                artifacts=["src/a.py"],
                runner=mind,
                needs=["first"],
            ),
        )
        parked = NodeState.PARKED
        wait_until(
            lambda: scene.ledger.node(run, "asks").state is parked, timeout=90, what="it stands in line"
        )
        assert scene.ledger.node(run, "asks").reason == "lock: src/b.py is held for owner"
        go.touch()
        assert landed(scene, project, run, "src/b.py") == "y = 1\nowner = 1\nasks = 1\n"
    node = scene.ledger.node(run, "asks")
    assert (node.attempt, node.failures, node.losses) == (2, 0, 0)
    assert node.edges == ("owner",)


def test_a_file_that_was_written_before_it_was_asked_for_is_merged_or_done_again(scene, project, tmp_path):
    """`asks` began before `early` settled, so its base is older than the file that it is given."""
    started, done = tmp_path / "started", tmp_path / "done"
    slow = ["sh", "-c", f"touch {started}; {waits_for(done)}"]
    calls = [
        {"run": {"command": slow, "timeout": 60}},
        {"request_artifact": {"path": "src/b.py"}},
        {"edit": {"path": "src/b.py", "old": "y = 1", "new": "y = 1  # asked"}},
        FINISH,
    ]
    again = [
        calls[0],
        calls[1],
        {"edit": {"path": "src/b.py", "old": "y = 7", "new": "y = 7  # asked"}},
        FINISH,
    ]
    rules = [
        {
            "name": "again",
            "when": ["# Your task (asks,", "changed the same lines"],
            "turns": [{"calls": [c]} for c in again],
        },
        {"name": "asks", "when": ["# Your task (asks,"], "turns": [{"calls": [c]} for c in calls]},
    ]
    with ScriptedServer(Script.model_validate({"replies": rules})) as server:
        mind = {"type": "openai", "base_url": server.url, "model": "scripted", "backoff_s": 0.01}
        spec = Spec(
            feature="modes",
            tasks=(
                Task(id="asks", role="implementer", prompt="Do it.", artifacts=["src/a.py"], runner=mind),
                task("early", ["src/b.py"], f"{waits_for(started)}; echo 'y = 7' > src/b.py"),
            ),
        )
        made = plan(spec, config=scene.config).spec
        run = runs.submit(made, config=scene.config, repo=project, options=SubmitOptions(allow_run=True))
        settled = NodeState.SUCCEEDED
        wait_until(lambda: scene.ledger.node(run, "early").state is settled, timeout=90)
        done.touch()
        assert landed(scene, project, run, "src/b.py") == "y = 7  # asked\n"
    assert scene.ledger.node(run, "asks").conflicts == 1
