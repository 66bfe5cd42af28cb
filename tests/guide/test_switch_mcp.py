"""A coding agent runs a feature on a team's machines over MCP, from words; read it as a tutorial.

For those who come from a server with spawn_workers, get_status, scale_workers, drain and kill_all: names
and fields are the same, and what happened still stands in the Redis list `system_events`.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Cli, git, repository
from helpers.house import open_house
from helpers.mcp_client import Progress, agent, token_in
from helpers.team_redis import TeamRedis, team_redis
from helpers.wait import wait_until

from agentflow.config import load_config
from agentflow.local import service
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer

WORDS = "Add a greeting in three languages, with an index of them"
LANGUAGES = ("english", "french", "german")


def task(name: str, *needs: str) -> dict[str, Any]:
    return {
        "id": name, "role": "backend", "prompt": f"Write {name}.txt.", "needs": list(needs),
        "output": "change", "artifacts": [f"{name}.txt"], "acceptance": [f"test -f {name}.txt"],
    }  # fmt: skip


# What the model answers when it is asked for a plan: a JSON that its request's schema allows.
PLAN = {
    "feature": "Greetings",
    "goal": "Greet in three languages.",
    "validate": ["test -f index.txt"],
    "tasks": [*map(task, LANGUAGES), task("index", *LANGUAGES)],
}


@pytest.fixture
def team_server() -> Iterator[TeamRedis]:
    """The team's Redis, on a port that every machine of the team reaches."""
    with team_redis() as found:
        yield found


@pytest.fixture
def project(tmp_path: Path, team_server: TeamRedis) -> Iterator[Cli]:
    """A repository whose agentflow.yaml names the team's Redis, a model that plans, an agent that works."""
    script = {"replies": [{"name": "plan", "when": [WORDS], "turns": [{"text": json.dumps(PLAN)}]}]}
    gate = tmp_path / "gate"
    # The agent works until the gate is open, so that there is something to look at meanwhile.
    work = f'until test -e {gate}; do sleep 0.05; done; echo "by $1" > "$1.txt"'
    with ScriptedServer(Script.model_validate(script)) as model, open_house(tmp_path / "house") as house:
        settings = {
            "redis": {"url": team_server.url()},
            "default_runner": "agent",
            "planner": {"runner": "model"},
            "runners": {
                "agent": {"type": "command", "command": ["sh", "-c", work, "sh", "{task}"]},
                "model": {"type": "openai", "base_url": model.url, "model": "scripted"},
            },
        }
        found = copy.copy(house)
        found.cwd = repository(
            house.cwd / "project", {"README.md": "# Greetings\n", "agentflow.yaml": json.dumps(settings)}
        )
        yield found
        # What keeps workers running on this machine goes last.
        service.down(load_config(found.cwd, environ=found.environ()))


def lrange(server: TeamRedis) -> list[dict[str, Any]]:
    """`redis-cli LRANGE system_events 0 -1`, newest first as it lies there."""
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if program:
        words = [program, "-p", str(server.port), "LRANGE", "system_events", "0", "-1"]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    else:
        with server.client() as client:
            lines = [str(line) for line in client.lrange("system_events", 0, -1)]  # type: ignore[union-attr]
    return [json.loads(line) for line in lines]


def all_drain(workers: dict[str, int]) -> bool:
    """Whether every worker process begins nothing any more."""
    return workers["total"] > 0 and workers.get("draining") == workers["total"]


def test_words_become_a_branch_and_the_fleet_does_as_it_is_told(
    project: Cli, team_server: TeamRedis, tmp_path: Path
) -> None:
    with agent(project) as client:
        # No worker is there yet. These two are processes on this machine; a team starts its own with
        # `agentflow worker --redis URL` on each of its machines.
        assert client.call("get_status")["orchestrator_running"] is False
        spawned = client.call("spawn_workers", feature="Greetings", workers=2)
        assert spawned["spawned"] == 2
        wait_until(lambda: client.call("get_status")["orchestrator_running"], timeout=60)

        # Words become a spec, as YAML that can be read and changed; nothing runs yet.
        planned = client.call("plan", words=WORDS)
        assert planned["waves"] == [list(LANGUAGES), ["index"]]
        assert planned["rounds"] == 1

        # The run goes through Redis: no worker opens a file of this repository.
        run = client.call("run_start", spec=planned["spec"])["run"]
        wait_until(lambda: client.call("get_status")["tasks"].get("running") == 3, timeout=60)

        # "Scale to 40": slots of the whole fleet; workers are started here where theirs do not suffice.
        scaled = client.call("scale_workers", target_workers=40)
        assert scaled["target"] == 40

        (tmp_path / "gate").touch()
        progress = Progress()
        assert client.call("run_wait", progress, run=run, timeout_s=120)["state"] == "ready_to_land"
        assert progress.told
        assert client.confirmed("run_land", run=run)["branch"] == "agentflow/greetings"
        assert git(project.cwd, "show", "agentflow/greetings:index.txt") == "by index\n"

        # Another run, and the fleet is drained in its middle: what runs finishes, nothing further starts.
        (tmp_path / "gate").unlink()
        # (What was done and verified is not done again, so it asks for something else.)
        changed = planned["spec"].replace(PLAN["goal"], "Greet once more.")
        second = client.call("run_start", spec=changed)["run"]
        wait_until(lambda: client.call("get_status")["tasks"].get("running") == 3, timeout=60)
        token = token_in(client.refused("drain"))
        draining = client.start("drain", confirm_token=token)
        # Every worker reads its orders with its next beat, within a second.
        wait_until(lambda: all_drain(client.call("get_status")["workers"]))
        (tmp_path / "gate").touch()
        drained = draining.result(60).structured_content or {}
        assert (drained["status"], drained["workers_killed"] >= 2) == ("drained", True)
        (left,) = drained["snapshot"]["runs"]
        assert (left["run"], left["done"], left["nodes"]["succeeded"]) == (second, 3, list(LANGUAGES))

        killed = client.confirmed("kill_all")
        assert killed["workers_killed"] >= 0
        wait_until(lambda: not client.call("get_status")["orchestrator_running"], timeout=60)

    # All of it stands in the list, in the order of things: `redis-cli LRANGE system_events 0 -1`.
    happened = lrange(team_server)[::-1]
    told = [entry["kind"] for entry in happened if entry["kind"].startswith("fleet.")]
    assert told == ["fleet.spawned", "fleet.scaled", "fleet.drained", "fleet.killed"]
    of_run = [(entry["kind"], entry.get("node")) for entry in happened if entry.get("run") == run]
    assert of_run[0][0] == "run.opened"
    assert {node for kind, node in of_run if kind == "node.started"} == {*LANGUAGES, "index", "@integrate"}
    whole = [kind for kind, _ in of_run if kind.startswith("run.")]
    assert whole == ["run.opened", "run.finished", "run.landed"]
