"""Models that go wrong on the wire, through the real runner and a server whose faults are scripted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.bad_input import RIGHT, Project
from helpers.repos import untouched

from agentflow.errors import Exit
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer

GOOD_TURNS = [
    {"calls": [{"write": {"path": "app.py", "content": RIGHT}}]},
    {"calls": [{"finish": {"summary": "The answer is 42."}}]},
]
Serve = Callable[..., ScriptedServer]


def script(*turns: dict[str, Any], repeat: bool = False) -> Script:
    rule = {"name": "fix", "when": ["# Your task (fix"], "turns": list(turns), "repeat": repeat}
    return Script.model_validate({"replies": [rule]})


def with_fault(fault: Any) -> Script:
    """The right work, but that the first reply meets a fault."""
    return script({**GOOD_TURNS[0], "text": "Let me write it.", "fault": fault}, GOOD_TURNS[1])


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that works well until a test gives it another script."""
    with ScriptedServer(script(*GOOD_TURNS), record=True) as found:
        yield found


def model(server: ScriptedServer, **options: Any) -> dict[str, Any]:
    fast = {"max_retries": 1, "backoff_s": 0.01}
    return {"type": "openai", "base_url": server.url, "model": "scripted", **fast, **options}


BAD: dict[str, tuple[Any, dict[str, str]]] = {
    "no choices": (
        "no_choices",
        {"what": "answered without choices", "fix": "supports streamed chat completions"},
    ),
    "a cut stream": (
        "cut",
        {"what": "the model's answer was cut", "why": "without a finish_reason", "fix": "a short timeout"},
    ),
    "a connection that drops": ("drop", {"what": "the connection to the model", "fix": "agentflow resume"}),
    "a garbage chunk": (
        "garbage",
        {
            "what": "sent a chunk that is not part of an answer",
            "why": "JSONDecodeError",
            "fix": "nothing on the way rewrites the stream",
        },
    ),
    "an error in the stream": (
        {"kind": "error", "message": "the server is overloaded"},
        {"what": "broke off its answer", "why": "the server is overloaded", "fix": "agentflow resume"},
    ),
    "401": (
        {"status": 401, "message": "Incorrect API key provided"},
        {
            "what": "refused the key (HTTP 401)",
            "why": "Incorrect API key provided",
            "fix": "set a valid key",
        },
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_run_fails_in_clear_words_and_can_be_resumed(
    project: Project, server: ScriptedServer, name: str
) -> None:
    fault, said = BAD[name]
    good, server.script = server.script, with_fault(fault)
    result = project.failed(project.feature(model(server)), **said)
    tries = 1 if name == "401" else 2
    assert len(server.requests) == tries
    assert result["calls"] == tries
    assert project.transcript(result)[0]["ending"]
    server.script = good
    project.resume(result["run"])


def test_an_endless_tool_loop_ends_at_the_limit(project: Project, server: ScriptedServer) -> None:
    good, server.script = server.script, script({"calls": [{"list": {}}]}, repeat=True)
    result = project.failed(
        project.feature(model(server, max_turns=4)),
        what="limit: ",
        why="4",
        fix="max_turns",
    )
    assert len(server.requests) == result["calls"] == 4
    server.script = good
    project.resume(result["run"])


def test_a_limit_with_retry_after_is_waited_for(project: Project, server: ScriptedServer) -> None:
    server.script = with_fault({"status": 429, "retry_after": 1.5, "times": 1})
    begun = time.monotonic()
    result = project.run(project.feature(model(server)), code=Exit.OK)
    assert time.monotonic() - begun > 1.5
    project.check_landed(result)
    assert result["nodes"]["fix"]["attempts"] == 1
    waited = f"provider: {server.url.split('/')[2]}/scripted asks for a pause"
    assert waited in project.log(result, "1.log")
    assert [e.reason for e in project.events(result) if e.kind == "node.throttled"] == [waited]


def test_a_limit_that_lasts_gives_the_node_back_and_counts_nothing(
    project: Project, server: ScriptedServer
) -> None:
    server.script = with_fault({"status": 429, "retry_after": 6, "times": 1})
    result = project.run(project.feature(model(server)), code=Exit.OK)
    project.check_landed(result)
    (delayed,) = (e for e in project.events(result) if e.kind == "node.delayed")
    assert delayed.reason.startswith("provider: ")
    node = project.house.ledger().node(result["run"], "fix")
    assert (node.failures, node.losses, node.attempt) == (0, 0, 2)
    assert len(server.requests) == 3


def test_a_limit_in_the_middle_is_waited_for_and_nothing_is_said_twice(
    project: Project, server: ScriptedServer
) -> None:
    first, last = GOOD_TURNS
    server.script = script(first, {**last, "fault": {"status": 429, "retry_after": 6, "times": 1}})
    result = project.run(project.feature(model(server)), code=Exit.OK)
    project.check_landed(result)
    assert result["nodes"]["fix"]["attempts"] == 1
    assert len(server.requests) == 3
    assert not [e for e in project.events(result) if e.kind == "node.delayed"]


def test_limits_again_and_again_are_waited_out_without_a_retry(
    project: Project, server: ScriptedServer
) -> None:
    server.script = with_fault({"status": 429, "retry_after": 0, "times": 4})
    result = project.run(project.feature(model(server, max_retries=0)), code=Exit.OK)
    project.check_landed(result)
    assert project.house.ledger().node(result["run"], "fix").failures == 0
    assert len(server.requests) == 6


@pytest.mark.parametrize("fault", ["no_choices", "cut", "drop", "garbage", "error"])
def test_a_fault_that_passes_costs_a_call_and_no_attempt(
    project: Project, server: ScriptedServer, fault: str
) -> None:
    server.script = with_fault({"kind": fault, "times": 1})
    before = untouched(project.repo, target="agentflow/answer")
    result = project.run(project.feature(model(server)), code=Exit.OK)
    project.check_landed(result)
    assert untouched(project.repo, target="agentflow/answer") == before
    assert (result["nodes"]["fix"]["attempts"], result["calls"]) == (1, 3)


def test_no_server_at_all(project: Project, server: ScriptedServer) -> None:
    server.stop()
    project.failed(
        project.feature(model(server)),
        what="the connection to the model at http://127.0.0.1:",
        why="refused",
        fix="see that the endpoint is up",
    )
