"""The fleet under its operator's hands: real worker processes on one machine."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from helpers.crews import Crewed, crewed
from helpers.ledgers import states, validate_run
from helpers.wait import wait_until
from helpers.workers import noop_plan

from agentflow import fleet
from agentflow.errors import InfraError, UsageError
from agentflow.local import service
from agentflow.store.orders import refuse_drained


@pytest.fixture
def crew(redis_url, tmp_path, monkeypatch):
    with crewed(redis_url, tmp_path, monkeypatch) as found:
        yield found


def wide(count, seconds):
    return noop_plan({f"n{i}": [] for i in range(count)}, seconds=seconds)


def test_a_killed_worker_is_replaced_and_its_attempt_given_back_at_once(crew: Crewed):
    (name,) = crew.spawn()
    crew.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"a": 2.0}))
    wait_until(crew.running)
    (worker,) = crew.live()
    assert worker.running in ((), ("run-1/a",))
    os.kill(worker.pid, signal.SIGKILL)
    # Its lease would have lasted longer than that.
    wait_until(lambda: crew.ledger.node("run-1", "a").losses == 1, timeout=1.4)
    crew.wait_closed(seconds=30)
    node = crew.ledger.node("run-1", "a")
    assert (node.state, node.failures) == ("succeeded", 0)
    assert node.worker != name
    kept = service.supervised(crew.config)
    assert kept
    assert [w["name"] for w in kept.workers] == [node.worker]
    validate_run(crew.ledger, "run-1")


def test_slots_go_up_and_down_while_a_run_goes_on(crew: Crewed):
    first = fleet.scale(crew.config, 1, wait=True)
    assert (first.spawned, first.target) == (1, 1)
    crew.submit(wide(40, 0.4))
    wait_until(crew.running)
    assert len(crew.running()) == 1
    up = fleet.scale(crew.config, 4, wait=True)
    assert (up.spawned, up.slots) == (1, 1)
    wait_until(lambda: len(crew.running()) == 4)
    down = fleet.scale(crew.config, 1)
    assert (down.spawned, down.dismissed, down.slots) == (0, 1, 4)
    wait_until(lambda: len(crew.live()) == 1 and len(crew.running()) <= 1)
    assert crew.ledger.limits() == {"fleet": 1}
    left = [n for n in crew.ledger.nodes("run-1").values() if n.failures or n.losses]
    assert not left, "what a dismissed worker has is finished, not given back"
    assert crew.kinds().count("fleet.scaled") == 3
    most = max(crew.ledger.in_flight().get("fleet", 0) for _ in range(20))
    assert most <= 1


def test_a_limit_of_one_role_leaves_the_others_alone(crew: Crewed):
    crew.spawn(slots=8)
    assert fleet.set_limits(crew.config, {"developer": 2}) == {"role:implementer": 2}
    crew.submit(wide(6, 2.0))
    wait_until(lambda: sorted(states(crew.ledger, "run-1").values()).count("parked") == 4)
    assert len(crew.running()) == 2
    assert fleet.set_limits(crew.config, {"role:implementer": 0}) == {}
    wait_until(lambda: len(crew.running()) >= 4)
    with pytest.raises(UsageError, match="no role 'implementor'") as caught:
        fleet.set_limits(crew.config, {"implementor": 1})
    assert "implementer" in caught.value.fix


def test_a_drained_fleet_finishes_what_runs_and_goes_on_when_told(crew: Crewed):
    crew.spawn(slots=2)
    crew.submit(noop_plan({"a": [], "b": [], "c": ["a", "b"], "d": ["c"]}, seconds={"a": 1.0, "b": 1.0}))
    wait_until(lambda: len(crew.running()) == 2)
    done = fleet.drain(crew.config, reason="new kernel", timeout_s=20)
    assert (done.status, done.workers_killed, done.left) == ("drained", 1, ())
    assert crew.live() == []
    assert states(crew.ledger, "run-1") == {
        "a": "succeeded", "b": "succeeded", "c": "ready", "d": "pending", "@integrate": "pending",
    }  # fmt: skip
    (run,) = done.snapshot["runs"]
    assert (run["run"], run["done"], run["total"]) == ("run-1", 2, 4)
    assert run["nodes"]["succeeded"] == ["a", "b"]
    assert done.snapshot["workers"] == []
    for refused in (lambda: refuse_drained(crew.ledger.client), crew.spawn):
        with pytest.raises(InfraError, match="drained: new kernel"):
            refused()
    late = crew.start("late", wait=False)
    wait_until(lambda: [w.state for w in crew.live()] == ["waiting"], timeout=20)
    assert states(crew.ledger, "run-1")["c"] == "ready"
    assert fleet.status(crew.config).drained
    assert fleet.resume(crew.config)
    assert not fleet.resume(crew.config)
    crew.wait_closed(seconds=20)
    assert crew.ledger.node("run-1", "d").worker == late.name
    assert {"fleet.drained", "fleet.resumed", "worker.left"} <= set(crew.kinds())


def test_kill_ends_every_worker_and_nothing_is_counted(crew: Crewed):
    crew.spawn(2, slots=1)
    by_hand = crew.start("by-hand", slots=1)
    stopped = psutil.Process(crew.start("stopped", slots=1).process.pid)
    crew.submit(wide(4, 3600.0))
    wait_until(lambda: len(crew.running()) == 4)
    stopped.suspend()
    done = fleet.kill(crew.config)
    assert (done.status, done.workers_killed, done.left) == ("killed", 4, ())
    assert done.attempts_ended == 4
    assert by_hand.process.wait(5) == -signal.SIGKILL
    assert crew.ledger.workers() == []
    assert crew.running() == []
    nodes = [crew.ledger.node("run-1", f"n{i}") for i in range(4)]
    assert {(n.state.value, n.failures, n.losses) for n in nodes} == {("ready", 0, 0)}
    # Nobody takes their places until somebody asks.
    wait_until(lambda: service.supervised(crew.config).workers == [])
    crew.spawn(slots=3)
    wait_until(lambda: len(crew.running()) == 3, timeout=20)
    assert len(crew.live()) == 1
    assert fleet.kill(crew.config).attempts_ended == 3


def test_no_more_processes_than_the_machine_may_have(crew: Crewed):
    with pytest.raises(UsageError, match="5 worker processes on this machine; 4 are allowed"):
        fleet.spawn(crew.config, 5)
    done = fleet.scale(crew.config, 500)
    assert done.spawned == 4
    kept = service.supervised(crew.config)
    assert [w["slots"] for w in kept.workers] == [125] * 4
    assert fleet.scale(crew.config, 500).spawned == 0
    fleet.await_workers(crew.config, done.workers)
    found = fleet.status(crew.config)
    assert (found.workers["slots"], found.workers["total"]) == (500, 4)
    assert found.orchestrator_running


def test_a_worker_that_leaves_because_it_is_idle_gets_no_successor(redis_url, tmp_path, monkeypatch):
    with crewed(redis_url, tmp_path, monkeypatch, AGENTFLOW_WORKER_IDLE_MINUTES="0.01") as crew:
        crew.spawn()
        wait_until(lambda: service.supervised(crew.config).workers == [])
        assert crew.live() == []
        last = crew.ledger.system_events()[0]
        assert (last["kind"], last["reason"]) == ("worker.left", "idle for 0.01 min")


def test_workers_come_with_what_waits(redis_url, tmp_path, monkeypatch):
    env = {
        "AGENTFLOW_FLEET_AUTOSCALE": "true", "AGENTFLOW_FLEET_MIN_WORKERS": "1",
        "AGENTFLOW_FLEET_MAX_WORKERS": "2", "AGENTFLOW_FLEET_SLOTS_PER_WORKER": "2",
    }  # fmt: skip
    with crewed(redis_url, tmp_path, monkeypatch, **env) as crew:
        fleet.spawn(crew.config, 0)
        wait_until(lambda: len(crew.live()) == 1, timeout=20)
        crew.submit(wide(8, 60.0))
        wait_until(lambda: len(crew.live()) == 2, timeout=20)
        wait_until(lambda: len(crew.running()) == 4)
        crew.ledger.control("run-1", "cancel", "seen enough")
        crew.wait_closed(seconds=30)
