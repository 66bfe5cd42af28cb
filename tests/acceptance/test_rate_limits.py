"""`rate_limits` and `breaker` of the configuration, through the real worker against a scripted model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.bad_input import RIGHT, Project
from helpers.house import House, open_house

from agentflow.errors import Exit
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer

TURNS = [
    {"calls": [{"write": {"path": "app.py", "content": RIGHT}}]},
    {"calls": [{"finish": {"summary": "The answer is 42."}}]},
]
LIMITS = {
    "AGENTFLOW_RATE_LIMITS_PROVIDERS": "{127.0.0.1: {rpm: 1}}",
    "AGENTFLOW_RATE_LIMITS_CALLS_PER_AGENT": "2",
    "AGENTFLOW_RATE_WINDOW_MS": "2000",
    "AGENTFLOW_BREAKER_PROVIDER": "2",
    "AGENTFLOW_BREAKER_COOL_DOWN": "6",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house"), LIMITS) as found:
        yield found


@pytest.fixture
def project(house: House, tmp_path: Path) -> Project:
    return Project(house, tmp_path)


def script(*turns: dict[str, Any], repeat: bool = False) -> Script:
    rule = {"name": "fix", "when": ["# Your task (fix"], "turns": list(turns), "repeat": repeat}
    return Script.model_validate({"replies": [rule]})


def model(server: ScriptedServer) -> dict[str, Any]:
    return {"type": "openai", "base_url": server.url, "model": "scripted", "max_retries": 0}


def test_a_configured_limit_is_waited_for_between_two_calls(project: Project) -> None:
    with ScriptedServer(script(*TURNS), record=True) as server:
        result = project.run(project.feature(model(server)), code=Exit.OK)
    project.check_landed(result)
    assert len(server.requests) == 2
    reason = "provider: 127.0.0.1 allows 1 call in 2 s, all are used"
    throttled = [e.reason for e in project.events(result) if e.kind == "node.throttled"]
    assert reason in throttled
    assert project.house.ledger().node(result["run"], "fix").failures == 0


def test_calls_of_one_agent_are_limited(project: Project) -> None:
    with ScriptedServer(script({"calls": [{"list": {}}]}, repeat=True), record=True) as server:
        result = project.failed(
            project.feature(model(server)), what="limit: the agent made its 2 calls", fix="calls_per_agent"
        )
    assert len(server.requests) == result["calls"] == 2


def test_a_provider_that_is_away_is_left_alone_until_a_trial(project: Project) -> None:
    fault = {"kind": "status", "status": 500, "times": 2}
    with ScriptedServer(script({**TURNS[0], "fault": fault}, TURNS[1]), record=True) as server:
        result = project.run(project.feature(model(server), retries=3), code=Exit.OK)
    project.check_landed(result)
    assert len(server.requests) == 4
    kinds = [e.kind for e in project.events(result) if e.kind.startswith("breaker")]
    assert kinds == ["breaker.opened", "breaker.closed"]
    assert any("breaker: " in e.reason for e in project.events(result) if e.kind == "node.delayed")
    assert project.house.ledger().node(result["run"], "fix").failures == 2
