"""A pipeline whose processes are killed between two stages goes on from the same commit, nothing twice."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import git, repository
from helpers.house import House
from helpers.wait import wait_until

from agentflow.states import NodeState

STAGES = [
    {"stage": "build", "agents": ["backend"]},
    {"stage": "check", "agents": ["tester"]},
    {"stage": "tell", "agents": ["docs"]},
]


def task(place: Path, name: str, role: str, *, gate: bool = False) -> dict[str, object]:
    """A task that notes its attempts; it waits for the file gate-NAME, and fails while fail-NAME is there."""
    wait = f"while [ ! -e {place}/gate-{name} ]; do sleep 0.05; done; " if gate else ""
    script = f"echo {name} >> {place}/made; {wait}test ! -e {place}/fail-{name} && echo {name} > {name}.txt"
    return {
        "id": name, "role": role, "prompt": "x", "expect": "none", "retries": 0,
        "artifacts": [f"{name}.txt"], "runner": {"command": ["sh", "-c", script]},
    }  # fmt: skip


@pytest.fixture
def project(house: House, tmp_path: Path) -> House:
    """Two tasks build, two check, one tells; the second to build waits for its gate."""
    write(house, tmp_path, init=True)
    return house


def write(house: House, place: Path, *, init: bool = False, **policy: object) -> None:
    tasks = [
        task(place, "a", "backend"),
        task(place, "b", "backend", gate=True),
        task(place, "t", "tester"),
        task(place, "u", "tester"),
        task(place, "d", "docs"),
    ]
    spec = {"feature": "Pipe", "target": "pipe", "stages": STAGES, "policy": policy, "tasks": tasks}
    text = yaml.safe_dump(spec)
    if init:
        repository(house.cwd, {"README.md": "hello\n", "feature.yaml": text})
    else:
        (house.cwd / "feature.yaml").write_text(text)


def state(house: House, run_id: str, node: str) -> NodeState:
    return house.ledger().node(run_id, node).state


def reached(house: House, run_id: str, node: str, wanted: NodeState) -> None:
    wait_until(lambda: state(house, run_id, node) is wanted, timeout=60, what=f"{node} is {wanted}")


def made(place: Path) -> str:
    return "".join(sorted((place / "made").read_text().split()))


def check(project: House, place: Path, result: dict[str, Any]) -> None:
    """The whole feature landed, each task once, and each stage began at the checkpoint before it."""
    assert result["state"] == "landed"
    assert made(place) == "abdtu"
    landed = set(git(project.cwd, "ls-tree", "--name-only", "pipe").split())
    assert {f"{name}.txt" for name in "abtud"} <= landed
    points = {
        point["name"]: point["commit"] for point in project.json("checkpoints", result["run"], "--json")
    }
    nodes = result["nodes"]
    assert nodes["t"]["base"] == nodes["u"]["base"] == points["stage:build"]
    assert nodes["d"]["base"] == points["stage:check"]
    for stage in ("build", "check", "tell"):
        ref = f"refs/agentflow/runs/{result['run']}/checkpoints/stages/{stage}"
        assert git(project.cwd, "rev-parse", ref).strip() == points[f"stage:{stage}"]


@pytest.mark.parametrize("fault", ["worker", "redis", "everything"])
def test_a_fault_between_two_stages(project: House, tmp_path: Path, fault: str) -> None:
    running = project.start("run", "--json")
    run_id = project.new_run()
    reached(project, run_id, "a", NodeState.SUCCEEDED)
    reached(project, run_id, "b", NodeState.RUNNING)
    # What runs finishes and nothing starts: the run comes to rest between its stages.
    running.send_signal(signal.SIGINT)
    wait_until(lambda: project.ledger().run(run_id).state == "draining", timeout=60, what="it drains")
    (tmp_path / "gate-b").touch()
    project.result_of(running, code=130)
    assert made(tmp_path) == "ab"
    break_it(project, fault)
    check(project, tmp_path, project.finished("resume", run_id))


def break_it(house: House, fault: str) -> None:
    """SIGKILL for one process, or for all that lives here."""
    status = house.status()
    assert status is not None
    victims = {"worker": [status.worker], "redis": [status.server]}
    for pid in victims.get(fault, [process.pid for process in house.processes()]):
        house.kill(pid)


def test_a_worker_dies_as_the_last_task_of_a_stage_has_settled(project: House, tmp_path: Path) -> None:
    """It has recorded the end of the stage and sent nothing of the next one."""
    mark = tmp_path / "died"
    project.env |= {"AGENTFLOW_FAILPOINT": "settle.recorded@b", "AGENTFLOW_FAILPOINT_MARK": str(mark)}
    running = project.start("run", "--json")
    # Else it dies with the worker and runs again.
    reached(project, project.new_run(), "a", NodeState.SUCCEEDED)
    (tmp_path / "gate-b").touch()
    check(project, tmp_path, project.result_of(running))
    assert mark.exists()


def test_the_submitter_dies_and_a_stage_fails(project: House, tmp_path: Path) -> None:
    """Later stages do not start, what waits in the stage is cancelled; a rollback leads back to before it."""
    write(project, tmp_path, on_failure="stop", max_concurrent=1)
    (tmp_path / "fail-t").touch()
    running = project.start("run", "--json")
    run_id = project.new_run()
    reached(project, run_id, "b", NodeState.RUNNING)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (tmp_path / "gate-b").touch()
    wait_until(lambda: project.ledger().is_closed(run_id), timeout=60, what="the run has ended")
    assert [state(project, run_id, name) for name in "abtud"] == [
        NodeState.SUCCEEDED,
        NodeState.SUCCEEDED,
        NodeState.FAILED,
        NodeState.CANCELLED,
        NodeState.SKIPPED,
    ]
    assert made(tmp_path) == "abt"
    done = project.json("rollback", run_id, "--to", "build", "--json")
    assert (done["to"], done["undone"], done["kept"]) == ("stage:build", [], ["a", "b"])
    shown = set(git(project.cwd, "ls-tree", "--name-only", done["ref"]).split())
    assert {"a.txt", "b.txt"} == {name for name in shown if name.endswith(".txt")}
    (tmp_path / "fail-t").unlink()
    (tmp_path / "made").write_text("a\nb\n")
    check(project, tmp_path, project.finished("resume", run_id))
