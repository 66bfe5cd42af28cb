"""What `agentflow status` says of all that goes on, and the end of an event stream."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.cli.looking import overlap, overview_lines
from agentflow.cli.main import _events_as_flag
from agentflow.monitor import (
    Event,
    Overview,
    RunRecord,
    WorkerRecord,
    WorkerStatus,
    event_as_dict,
    fleet_told,
    run_finished,
    worker_state,
)  # fmt: skip
from agentflow.states import NodeState, RunState

NOW = 1_000_000


def worker(name: str, **fields: Any) -> WorkerRecord:
    values: dict[str, Any] = {
        "pid": 7,
        "host": "h",
        "slots": 8,
        "roles": ("backend",),
        "schema": "1",
        "seen_ms": NOW,
    }
    return WorkerRecord(name=name, **values | fields)


def seen(*records: WorkerRecord) -> tuple[WorkerStatus, ...]:
    return tuple(WorkerStatus(record, worker_state(record, NOW)) for record in records)


def run(name: str, state: RunState, **fields: Any) -> RunRecord:
    values: dict[str, Any] = {
        "feature": "F", "project": "p", "repo": "/r", "root": "/r", "base": "b", "target": "t",
        "opened_ms": NOW, "nodes_total": 4, "nodes_left": 1,
    }  # fmt: skip
    return RunRecord(id=name, state=state, **values | fields)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "idle"),
        ({"busy": 2}, "working"),
        ({"state": "draining", "busy": 2}, "draining"),
        ({"state": "draining", "seen_ms": NOW - 6000}, "dead"),
    ],
)
def test_the_state_of_a_worker(fields: dict[str, Any], state: str) -> None:
    assert worker_state(worker("w", **fields), NOW) == state


def test_processes_and_slots_are_told_apart_and_the_dead_serve_nothing() -> None:
    workers = seen(
        worker("a", busy=3), worker("b"), worker("c", seen_ms=0, busy=8), worker("d", state="draining")
    )
    assert fleet_told(workers) == "3 processes (1 draining, 1 idle, 1 working), 3/24 slots taken"
    assert fleet_told(()) == "no worker"


def test_the_overview_names_every_worker_queue_and_state_and_what_to_type() -> None:
    overview = Overview(
        workers=seen(worker("a", busy=3), worker("evil\x1b[2J", seen_ms=0)),
        queues={"gpu": 2},
        runs=(run("r3", RunState.OPEN), run("r2", RunState.READY_TO_LAND), run("r1", RunState.FAILED)),
        nodes={"r3": {NodeState.RUNNING: 3, NodeState.PARKED: 1}},
    )
    lines = overview_lines(overview)
    assert lines[0] == "workers  1 process (1 working), 3/8 slots taken"
    assert lines[1:3] == [
        "worker   a  working  3/8 slots  process 7 on h", "worker   evil  dead  0/8 slots  process 7 on h"
    ]  # fmt: skip
    assert "queue    gpu: 2 messages waiting" in lines
    assert "nodes    1 parked, 3 running (of open runs)" in lines
    assert [line.split()[:2] for line in lines if line.startswith("r") and line[1].isdigit()] == [
        ["r3", "open"], ["r2", "ready_to_land"], ["r1", "failed"]
    ]  # fmt: skip
    assert lines[-1] == "next: agentflow land r2"
    told = overview.as_dict()
    assert told["tasks"] == {"running": 3, "parked": 1}
    assert told["ready_to_land"] == [{"run": "r2", "command": "agentflow land r2"}]
    assert [w["state"] for w in told["workers"]] == ["working", "dead"]


@pytest.mark.parametrize(("left", "ended"), [(5, 0), (3, 2), (1, 4), (0, 4)])
def test_the_integration_is_not_counted_among_the_nodes(left: int, ended: int) -> None:
    assert run("r", RunState.OPEN, nodes_left=left).nodes_ended == ended


def test_a_closing_is_no_end_of_the_stream() -> None:
    closing = event_as_dict(Event("1-0", "r1", "run.finished", NOW, state="ready_to_land"))
    assert (closing["kind"], closing["v"]) == ("run.closed", 1)
    end = run_finished(run("r1", RunState.LANDED, closed_ms=NOW, result="c", branch="b"), 0)
    assert end == {
        "v": 1, "run": "r1", "kind": "run.finished", "at_ms": NOW, "state": "landed", "exit_code": 0,
        "branch": "b", "commit": "c",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("known", "now", "count"),
    [
        ("", "", 0),
        ("", "abc", 0),
        ("abc", "abcd", 3),
        ("abcd", "cdef", 2),
        ("abc", "xyz", 0),
        ("aab", "abab", 2),
    ],
)
def test_what_was_seen_of_a_capped_list(known: str, now: str, count: int) -> None:
    as_entries = [[{"kind": letter} for letter in word] for word in (known, now)]
    assert overlap(*as_entries) == count


def test_events_ndjson_is_events() -> None:
    assert _events_as_flag(["run", "--events", "ndjson", "x.yaml"]) == ["run", "--events", "x.yaml"]
    assert _events_as_flag(["run", "--events=ndjson"]) == ["run", "--events"]
    assert _events_as_flag(["run", "--events", "x.yaml", "ndjson"]) == ["run", "--events", "x.yaml", "ndjson"]
