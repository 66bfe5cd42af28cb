"""The MCP inspector, a client that is not ours, lists and calls every tool from its command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from helpers import inspector as npm
from helpers.cli import git, repository
from helpers.house import House
from helpers.inspector import Inspector
from helpers.mcp_client import token_in

IN_CI = os.environ.get("AGENTFLOW_CI") == "1"
SPEC = """\
feature: One file
tasks:
  - id: a
    role: backend
    artifacts: [a.txt]
    runner: {type: command, command: [sh, -c, "echo a > a.txt"]}
"""
STUCK = SPEC.replace("One file", "One that takes long").replace("echo a", "sleep 600; echo a")
TOOLS = {
    "spawn_workers", "get_status", "kill_all", "drain", "scale_workers",
    "plan", "run_start", "run_status", "run_wait", "run_pause", "run_resume", "run_cancel", "run_land",
    "why", "events",
}  # fmt: skip


@pytest.fixture(scope="session")
def program() -> Path:
    """The pinned inspector; where there is no Node or no npm registry, why the tests cannot run."""
    try:
        return npm.install()
    except npm.MissingError as why:
        if IN_CI:
            pytest.fail(str(why))
        pytest.skip(str(why))


@pytest.fixture
def project(house: House) -> House:
    """A house in a repository with one commit."""
    house.cwd = repository(house.cwd / "project", {"README.md": "hello\n", "feature.yaml": SPEC})
    return house


@pytest.fixture
def inspector(program: Path, project: House) -> Inspector:
    """The inspector on the server of that repository; each call starts a server of its own."""
    server = [sys.executable, "-m", "agentflow.cli.main", "-C", str(project.cwd), "mcp"]
    # Like any client of the SDK, it hands a server little of its environment: -e names what it needs.
    given = [word for name in project.env for word in ("-e", f"{name}={project.env[name]}")]
    return Inspector(program, server, given, project.environ())


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_tools_are_listed_and_their_schemas_are_portable(inspector: Inspector, era: str) -> None:
    found = inspector.ask("tools/list", "--strict", era=era)
    assert {tool["name"] for tool in found["result"]["tools"]} == TOOLS
    assert not found.get("schemaFindings"), "no error and no warning"
    assert inspector.ask("resources/list", era=era)["result"]["resources"][0]["uri"] == "agentflow://runs"


def test_a_run_is_planned_started_looked_at_and_landed(inspector: Inspector, project: House) -> None:
    assert inspector.call("plan", {"file": "feature.yaml"})["waves"] == [["a"]]
    run = inspector.call("run_start", {"file": "feature.yaml"})["run"]
    assert inspector.call("run_wait", {"run": run, "timeout_s": 60})["state"] == "ready_to_land"
    assert inspector.call("run_status", era="modern")["done"] == 1
    assert "succeeded" in inspector.call("why", {"node": "a"})["why"]
    assert inspector.call("events", {"limit": 1})["more"]
    asked = inspector.call("run_land", {"run": run}, error=True)["error"]
    # Each call is another process of the server: the token is not kept in one of them.
    landed = inspector.call("run_land", {"run": run, "confirm_token": token_in(asked)}, era="modern")
    assert landed["branch"] == "agentflow/one-file"
    assert git(project.cwd, "show", "agentflow/one-file:a.txt") == "a\n"
    contents = inspector.ask("resources/read", "--uri", f"agentflow://runs/{run}")["result"]["contents"]
    assert json.loads(contents[0]["text"])["state"] == "landed"

    stuck = inspector.call("run_start", {"spec": STUCK})["run"]
    token = token_in(inspector.call("run_cancel", {"run": stuck}, error=True)["error"])
    assert inspector.call("run_cancel", {"run": stuck, "confirm_token": token})["state"].startswith("cancel")


def test_the_fleet_is_looked_at_scaled_drained_and_killed(inspector: Inspector) -> None:
    assert set(inspector.call("get_status")) == {"orchestrator_running", "tasks", "workers", "queues"}
    spawned = inspector.call("spawn_workers", {"feature": "One file", "workers": 1})
    assert spawned["spawned"] == len(spawned["workers"]) == 1
    scaled = inspector.call("scale_workers", {"target_workers": 40})
    assert (set(scaled), scaled["target"]) == ({"status", "target", "spawned"}, 40)
    token = token_in(inspector.call("drain", error=True)["error"])
    drained = inspector.call("drain", {"confirm_token": token})
    assert set(drained) == {"status", "workers_killed", "snapshot"}
    token = token_in(inspector.call("kill_all", error=True)["error"])
    assert set(inspector.call("kill_all", {"confirm_token": token})) == {"status", "workers_killed"}
