"""A run from plan to landing over MCP: the SDK's client, the real server, a real worker."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest
from helpers.cli import git, repository
from helpers.house import House
from helpers.mcp_client import Agent, Progress, agent, token_in
from mcp.shared.exceptions import MCPError

SPEC = """\
feature: Two files
tasks:
  - id: a
    role: backend
    artifacts: [a.txt]
    runner: {type: command, command: [sh, -c, "echo a > a.txt"]}
  - id: b
    role: docs
    needs: [a]
    artifacts: [b.txt]
    runner: {type: command, command: [sh, -c, "echo b > b.txt"]}
"""
STUCK = """\
feature: One that takes long
tasks:
  - id: slow
    role: backend
    artifacts: [a.txt]
    runner: {type: command, command: [sh, -c, "sleep 600"]}
"""
RED = """\
feature: Red
tasks:
  - id: red
    role: backend
    artifacts: [a.txt]
    retries: 0
    runner: {type: command, command: [sh, -c, "echo a > a.txt"]}
    acceptance: ["test -f never.txt"]
"""
TOOLS = {
    "spawn_workers", "get_status", "kill_all", "drain", "scale_workers",
    "plan", "run_start", "run_status", "run_wait", "run_pause", "run_resume", "run_cancel", "run_land",
    "why", "events",
}  # fmt: skip


@pytest.fixture
def project(house: House) -> House:
    """A house in a repository with one commit."""
    house.cwd = repository(house.cwd / "project", {"README.md": "hello\n"})
    return house


@pytest.fixture
def client(project: House) -> Iterator[Agent]:
    """A client of the server in that repository, on the newest protocol revision."""
    with agent(project) as found:
        yield found


def test_every_tool_has_portable_schemas_and_hints(client: Agent) -> None:
    assert set(client.tools) == TOOLS
    for tool in client.tools.values():
        assert tool.annotations
        assert tool.annotations.destructive_hint == (
            True if tool.name in ("kill_all", "drain", "run_cancel", "run_land") else
            None if tool.annotations.read_only_hint else False
        )  # fmt: skip
        assert tool.description
        assert tool.output_schema
        assert tool.input_schema["additionalProperties"] is False
        for schema in (tool.input_schema, tool.output_schema):
            jsonschema.Draft202012Validator.check_schema(schema)
    required = {name: client.tools[name].input_schema.get("required", []) for name in TOOLS}
    assert required["spawn_workers"] == ["feature", "workers"]
    assert required["scale_workers"] == ["target_workers"]
    answers = {name: set((tool.output_schema or {})["properties"]) for name, tool in client.tools.items()}
    assert answers["get_status"] == {"orchestrator_running", "tasks", "workers", "queues"}
    assert answers["kill_all"] == {"status", "workers_killed"}
    assert answers["drain"] == {"status", "workers_killed", "snapshot"}
    assert answers["scale_workers"] == {"status", "target", "spawned"}


def test_a_spec_is_planned_started_waited_for_and_landed(project: House, client: Agent) -> None:
    planned = client.call("plan", spec=SPEC)
    assert planned["waves"] == [["a"], ["b"]]
    started = client.call("run_start", spec=planned["spec"])
    run, progress = started["run"], Progress()
    assert started["total"] == 2

    done = client.call("run_wait", progress, run=run, timeout_s=60)
    assert (done["state"], done["finished"], done["succeeded"]) == ("ready_to_land", True, 2)
    assert "run_land" in done["next"]
    told = [value for value, _total, _message in progress.told]
    assert told == sorted(set(told)), "progress must increase with each notification"
    assert progress.told[-1] == (2.0, 2.0, "2/2 nodes; ready to land")

    # What came out is in the repository already; no branch has moved.
    assert git(project.cwd, "show", f"refs/agentflow/runs/{run}/result:b.txt") == "b\n"
    assert git(project.cwd, "branch", "--list", "agentflow/*") == ""

    asked = client.refused("run_land", run=run)
    assert "AF-MCP-001" in asked
    assert "moves the branch agentflow/two-files" in asked
    assert git(project.cwd, "branch", "--list", "agentflow/*") == ""
    landed = client.call("run_land", run=run, confirm_token=token_in(asked))
    assert (landed["state"], landed["branch"]) == ("landed", "agentflow/two-files")
    assert git(project.cwd, "show", "agentflow/two-files:b.txt") == "b\n"
    assert client.call("run_land", run=run)["state"] == "landed", "landing twice needs no confirmation"


def test_looking_back_at_a_run(client: Agent) -> None:
    run = client.call("run_start", spec=SPEC)["run"]
    client.call("run_wait", run=run, timeout_s=60)

    assert client.call("why", node="a")["why"].startswith("succeeded in attempt 1")
    first = client.call("events", limit=3)
    assert first["more"]
    rest = client.call("events", run=run, after=first["last"], limit=500)
    kinds = [event["kind"] for event in first["events"] + rest["events"]]
    assert (kinds[0], kinds[-1], rest["more"]) == ("run.opened", "run.finished", False)

    assert {node["id"] for node in client.call("run_status")["nodes"]} == {"a", "b", "@integrate"}
    assert json.loads(client.read(f"agentflow://runs/{run}")) == client.call("run_status", run=run)
    assert [line["run"] for line in json.loads(client.read("agentflow://runs"))["runs"]] == [run]


def test_a_wait_that_is_too_short_says_so_and_a_cancel_needs_its_token(client: Agent) -> None:
    run = client.call("run_start", spec=STUCK)["run"]
    other = client.call("run_start", spec=STUCK)["run"]
    waited = client.call("run_wait", run=run, timeout_s=0.2)
    assert (waited["finished"], waited["state"]) == (False, "open")

    # A wait holds nothing up, and one that the client gives up leaves the server as it was.
    given_up, waiting = (client.start("run_wait", run=run, timeout_s=600) for _ in range(2))
    assert client.call("run_status", run=run)["state"] == "open"
    given_up.cancel()

    token = token_in(client.refused("run_cancel", run=run))
    # Good for these arguments only, and used up by the attempt to use it.
    assert "AF-MCP-002" in client.refused("run_cancel", run=other, confirm_token=token)
    assert "AF-MCP-002" in client.refused("run_cancel", run=run, confirm_token=token)
    assert client.call("run_status", run=run)["state"] == "open"

    assert client.confirmed("run_cancel", run=run)["state"] in ("cancelling", "cancelled")
    assert (waiting.result(60).structured_content or {})["state"] == "cancelled"
    assert client.confirmed("run_cancel", run=other)["run"] == other
    client.call("run_wait", run=other, timeout_s=60)


def test_a_run_is_paused_and_goes_on(client: Agent) -> None:
    run = client.call("run_start", spec=STUCK)["run"]
    paused = client.call("run_pause", run=run, reason="lunch")
    assert (paused["run"], paused["state"]) == (run, "paused")
    assert paused["next"] == "nothing starts (paused by its user: lunch) until run_resume"
    assert client.call("run_pause", run=run)["state"] == "paused"
    assert client.call("run_resume", run=run)["state"] == "open"
    assert client.confirmed("run_cancel", run=run)["state"] in ("cancelling", "cancelled")
    ended = client.call("run_wait", run=run, timeout_s=60)
    assert (ended["state"], "run_resume" in ended["next"]) == ("cancelled", True)
    assert "cannot be paused: it is cancelled" in client.refused("run_pause", run=run)


def test_a_failed_node_says_why(client: Agent) -> None:
    run = client.call("run_start", spec=RED)["run"]
    done = client.call("run_wait", run=run, timeout_s=60)
    assert (done["state"], done["failed_nodes"]) == ("failed", ["red"])
    assert done["nodes"][0]["id"] == "red", "what needs a look comes first"
    assert "test -f never.txt" in client.call("why", run=run, node="red")["feedback"]
    assert "cannot land" in client.refused("run_land", run=run)


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_bad_arguments_are_told_with_a_way_out(project: House, era: str) -> None:
    with agent(project, era) as client:
        for tool, arguments, said in (
            ("spawn_workers", {"feature": "x", "workers": 0}, "workers: input should be greater than"),
            ("spawn_workers", {"feature": "x", "workers": 201}, "less than or equal to 200 (got 201)"),
            ("spawn_workers", {"workers": 1}, "feature: is missing"),
            ("scale_workers", {"target_workers": 501}, "less than or equal to 500"),
            ("scale_workers", {"target_workers": "many"}, "valid integer"),
            ("spawn_workers", {"feature": "x", "workers": 200}, "AF-FLEET-005"),
            ("scale_workers", {"target_workers": 1, "task_type": "wizard"}, "there is no role 'wizard'"),
            ("run_wait", {"timeout_s": 1e9}, "less than or equal to 3600"),
            ("events", {"after": "yesterday"}, "match pattern"),
            ("run_status", {"name": "x"}, "run_status has no argument 'name'"),
            ("run_status", {"run": "nobody"}, "there is no run 'nobody'"),
            ("run_cancel", {"run": "nobody"}, "there is no run 'nobody'"),
            ("why", {"node": "x"}, "no run is known here"),
            ("plan", {}, "nothing was given"),
            ("plan", {"words": "x", "spec": "y"}, "given together: words, spec"),
            ("plan", {"spec": "feature: x"}, "the key 'tasks' is missing"),
            ("run_start", {"file": "absent.yaml"}, "there is no file absent.yaml"),
        ):  # fmt: skip
            text = client.refused(tool, **arguments)
            assert said in text, (tool, text)
            assert "fix:" in text
        with pytest.raises(MCPError, match="there is no run 'nobody'"):
            client.read("agentflow://runs/nobody")
    assert not project.ledger().runs()
