"""Pause, kill, failures and retry from the command line: real repositories, workers and agents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.cli import git, repository
from helpers.house import House, open_house
from helpers.wait import wait_until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One data directory, server and worker for all tests of this file."""
    with open_house(tmp_path_factory.mktemp("steering")) as found:
        yield found


@pytest.fixture
def house(place: House, tmp_path: Path) -> House:
    """The command line in a fresh repository."""
    found = House(repository(tmp_path / "project", {"README.md": "hello\n"}), place.home, tmp_path)
    found.env = dict(place.env)
    return found


def feature(house: House, *tasks: dict[str, object], **policy: object) -> None:
    """Write a feature file; each task has a shell script (`$1` is its id), and writes `ID.txt`."""
    full = [
        {
            "role": "backend",
            "prompt": "x",
            "artifacts": [f"{t['id']}.txt"],
            **t,
            "runner": agent(str(t["runner"])),
        }
        for t in tasks
    ]
    written = {"feature": "Some files", "policy": {"retries": 0, **policy}, "tasks": full}
    (house.cwd / "feature.yaml").write_text(yaml.safe_dump(written))


def agent(script: str) -> dict[str, object]:
    return {"command": ["sh", "-c", script, "sh", "{task}"]}


WRITES = 'echo "by $1" > "$1.txt"'


def waits_for(gate: Path) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.05; done; {WRITES}"


def states(house: House, run_id: str) -> dict[str, str]:
    return {n["id"]: n["state"] for n in house.json("status", run_id, "--json")["nodes"]}


def started(house: House, *nodes: str) -> str:
    """Start the feature file, detached; its id, when these nodes run."""
    run_id = house.json("run", "--detach", "--json")["run"]
    wait_until(lambda: all(states(house, run_id)[n] == "running" for n in nodes), timeout=60)
    return str(run_id)


def test_a_run_is_paused_and_goes_on(house: House, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    feature(house, {"id": "a", "runner": waits_for(gate)}, {"id": "b", "runner": WRITES, "needs": ["a"]})
    run_id = started(house, "a")
    paused = house.run("pause", run_id)
    assert paused.stdout == f"{run_id}: paused\n"
    assert f"`agentflow resume {run_id}` ends the pause" in paused.stderr
    assert house.json("pause", run_id, "--json") == {"run": run_id, "state": "paused"}
    gate.touch()
    wait_until(lambda: states(house, run_id)["b"] == "parked", timeout=60)
    assert "the run is paused: paused by its user" in house.run("why", run_id, "b").stdout
    told = house.run("status", run_id).stdout
    assert f"next: agentflow resume {run_id}\n" in told
    assert house.run("resume", run_id, timeout=120).stdout.startswith("landed on agentflow/some-files")
    assert "cannot be paused: it has ended already (landed)" in house.run("pause", run_id, code=2).stderr


def test_a_paused_role_is_told_and_holds_nothing_else(house: House) -> None:
    feature(house, {"id": "a", "runner": WRITES}, {"id": "t", "role": "tester", "runner": WRITES})
    assert house.run("pause", "--role", "tester", "--reason", "no model").stdout == "role tester: paused\n"
    run_id = house.json("run", "--detach", "--json")["run"]
    wait_until(lambda: states(house, run_id) | {"@integrate": ""} == {
        "a": "succeeded", "t": "parked", "@integrate": ""
    }, timeout=60)  # fmt: skip
    assert "paused: role tester: no model" in house.run("why", run_id, "t").stdout
    assert (
        "role:tester is paused: no model (agentflow resume --role tester ends that)"
        in house.run("workers").stderr
    )
    assert house.json("resume", "--role", "tester", "--json")["resumed"]
    assert "was not paused" in house.run("resume", "--role", "tester").stderr
    house.run("watch", run_id, timeout=120)


def test_a_killed_run_leaves_no_process_and_no_workspace(house: House, tmp_path: Path) -> None:
    marker = tmp_path / "runs-here"
    feature(house, {"id": "a", "runner": f"trap '' TERM; echo $$ > {marker}; while :; do sleep 0.1; done"})
    run_id = started(house, "a")
    wait_until(marker.exists, timeout=60)
    agent_id = int(marker.read_text())
    assert house.json("kill", run_id, "--json")["state"] == "cancelled"
    wait_until(lambda: not Path(f"/proc/{agent_id}").exists(), timeout=30)
    wait_until(lambda: not list(house.home.glob(f"runs/{run_id}/work/*")), timeout=30)
    assert house.json("kill", run_id, "--json") == {"run": run_id, "state": "cancelled", "attempts": 0}


def test_a_failed_node_is_listed_and_done_again_alone(house: House, tmp_path: Path) -> None:
    gate = tmp_path / "repaired"
    feature(
        house,
        {"id": "good", "runner": WRITES},
        {"id": "bad", "runner": f'[ -e {gate} ] || {{ echo "no key" >&2; exit 3; }}; {WRITES}'},
        {"id": "after", "runner": WRITES, "needs": ["bad"]},
    )
    run_id = house.finished("run", code=1)["run"]
    found = house.json("failures", run_id, "--json")
    assert [(f["node"], f["attempts"], f["failures"], f["quarantined"]) for f in found] == [
        ("bad", 1, 1, False)
    ]
    assert "no key" in Path(found[0]["log"]).read_text()
    told = house.run("failures").stdout
    assert f"again: agentflow retry {run_id} bad" in told
    assert "it is succeeded" in house.run("retry", run_id, "good", code=2).stderr
    assert "no node 'nope' has failed" in house.run("retry", "nope", code=2).stderr

    gate.touch()
    assert house.json("retry", "bad", "--json") == {"run": run_id, "node": "bad", "state": "open"}
    result = house.finished("watch", run_id)
    assert result["state"] == "landed"
    assert {name: node["attempts"] for name, node in result["nodes"].items()} == {
        "good": 1,
        "bad": 2,
        "after": 1,
    }
    assert git(house.cwd, "ls-tree", "--name-only", "agentflow/some-files").split() == [
        "README.md", "after.txt", "bad.txt", "good.txt"
    ]  # fmt: skip
    assert "the run is landed" in house.run("retry", run_id, "good", code=2).stderr


def test_a_node_that_kills_its_worker_is_quarantined_and_the_rest_is_done(house: House) -> None:
    # Its shell is a child of the launcher, and that one of the worker.
    kills = "kill -9 $(ps -o ppid= -p $PPID); sleep 60"
    feature(house, {"id": "poison", "runner": kills}, {"id": "good", "runner": WRITES})
    house.env["AGENTFLOW_LIMITS_LOSSES"] = "3"
    result = house.finished("run", code=1)
    node = result["nodes"]["poison"]
    assert (node["state"], node["code"]) == ("failed", "AF-POISON-001")
    assert 3 <= node["losses"] <= 5, "those before the other node was settled were not in vain"
    assert result["nodes"]["good"]["state"] == "succeeded"
    told = house.run("failures", result["run"]).stdout
    assert "poison  (backend)  quarantined [AF-POISON-001] after" in told
    assert "worker lost" in told


def test_what_excludes_each_other_is_refused(house: House) -> None:
    for words, said in (
        (("pause", "x", "--fleet"), "RUN and --fleet exclude each other"),
        (("kill", "--role", "docs", "--fleet"), "--role and --fleet exclude each other"),
        (("pause", "--role", "nobody"), "there is no role 'nobody'"),
        (("pause",), "no run is open"),
        (("retry",), "which node?"),
        (("logs", "nope"), "has no node 'nope'"),
    ):
        assert said in house.run(*words, code=2).stderr, words


def test_a_paused_fleet_takes_runs_and_its_words_can_be_said_again(house: House) -> None:
    feature(house, {"id": "a", "runner": WRITES})
    for _ in range(2):
        assert house.json("pause", "--fleet", "--json") == {"fleet": True, "state": "paused"}
    run_id = house.json("run", "--detach", "--json")["run"]
    wait_until(lambda: states(house, run_id)["a"] == "parked", timeout=60)
    assert json.loads(house.run("workers", "--json").stdout)["paused"] == {"fleet": "by its operator"}
    assert "fleet is paused: by its operator" in house.run("status").stderr
    house.run("resume", "--fleet")
    assert "is paused" not in house.run("status").stderr
    house.run("watch", run_id, timeout=120)


def test_a_run_is_drained_and_waited_for(house: House, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    feature(house, {"id": "a", "runner": waits_for(gate)}, {"id": "b", "runner": WRITES, "needs": ["a"]})
    run_id = started(house, "a")
    waited = house.run("drain", run_id, "--timeout", "1s", code=1)
    assert waited.stdout == f"{run_id}: draining\n"
    assert "attempts that run: 1" in waited.stderr
    gate.touch()
    assert house.json("drain", run_id, "--json") == {"run": run_id, "state": "drained", "attempts": 0}
    assert states(house, run_id)["a"] == "succeeded"
    house.run("resume", run_id, timeout=120)


def test_words_to_a_role_without_any_run(house: House) -> None:
    assert house.run("cancel", "--role", "docs").stdout == "role docs: cancelled\n"
    assert house.run("drain", "--role", "docs", "--timeout", "1s").stdout == "role docs: drained\n"
    refused = house.run("drain", "--role", "docs", "--resume", code=2)
    assert "agentflow resume --role docs" in refused.stderr
    killed = house.json("kill", "--role", "docs", "--json")
    assert killed == {"role": "docs", "state": "paused", "attempts": 0}
    assert house.json("resume", "--role", "docs", "--json")["resumed"]
    assert house.json("cancel", "--fleet", "--json") == {
        "fleet": True, "state": "cancelled", "runs": [], "attempts": 0
    }  # fmt: skip
