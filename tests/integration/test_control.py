"""Pause, cancel, drain and kill with real workers: also where those are stopped, or there are none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from helpers.ledgers import RUN, states
from helpers.wait import wait_until
from helpers.workers import Stage, Worker, noop_plan, stage

from agentflow import control, runs
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan
from agentflow.runs import closing
from agentflow.states import RunState
from agentflow.store import keys
from agentflow.store.records import INTEGRATE
from agentflow.tasks.abandoned import Abandoned
from agentflow.tasks.context import Context
from agentflow.tasks.maintenance import Reconciler

LONG_S = 120.0


@pytest.fixture
def home(redis_url, tmp_path) -> Iterator[Stage]:
    with stage(redis_url, tmp_path) as found:
        yield found


def running(home: Stage, *nodes: str) -> None:
    wait_until(lambda: all(states(home.ledger)[n] == "running" for n in nodes), timeout=60)


def nothing_is_held(home: Stage, run_id: str = RUN) -> None:
    client = home.ledger.client
    assert not [lease for lease in home.ledger.leases() if lease[0] == run_id]
    assert not client.exists(keys.part(run_id, "locks"))
    assert home.ledger.in_flight() == {}


@contextmanager
def stopped(worker: Worker) -> Iterator[None]:
    """A worker that is asleep for a while."""
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.process.send_signal(signal.SIGCONT)


@contextmanager
def followed(home: Stage, run_id: str = RUN) -> Iterator[threading.Thread]:
    """Somebody follows the run."""

    def follow() -> None:
        for _ in runs.follow(run_id, config=home.config):
            pass

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive(), "whoever follows is let go at the end"


def with_patience(plan: Plan) -> Plan:
    """Nodes with a queue timeout that does not pass by itself."""
    nodes = tuple(n.model_copy(update={"queue_timeout_s": 3600.0}) for n in plan.nodes)
    return plan.model_copy(update={"nodes": nodes})


def test_a_paused_run_keeps_its_followers_and_goes_on(home):
    home.start()
    home.submit(noop_plan({"a": [], "b": ["a"], "c": ["b"]}, seconds={"a": 5.0}))
    running(home, "a")
    with followed(home) as follower:
        assert runs.pause(RUN, config=home.config) is RunState.PAUSED
        wait_until(lambda: states(home.ledger)["b"] == "parked", timeout=60)
        assert home.ledger.node(RUN, "a").attempt == 1, "what ran has gone on"
        assert follower.is_alive()
        assert runs.resume(RUN, config=home.config) is RunState.OPEN
        home.wait_closed()


@pytest.mark.parametrize("role", ["", "implementer"])
def test_a_pause_of_a_role_or_the_fleet_holds_for_runs_that_come_later(home, role):
    home.start()
    assert control.pause(home.config, role=role, reason="no model")
    assert not control.pause(home.config, role=role, reason="no model")
    home.submit(noop_plan({"a": [], "b": ["a"]}))
    wait_until(lambda: states(home.ledger)["a"] == "parked", timeout=60)
    assert home.ledger.why(RUN, "a").endswith(": no model")
    assert control.resume(home.config, role=role)
    assert not control.resume(home.config, role=role)
    home.wait_closed()
    assert home.ledger.run(RUN).state is RunState.READY_TO_LAND


def test_a_drained_role_is_waited_for(home):
    home.start()
    home.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"a": 5.0}))
    running(home, "a")
    assert control.drain_role(home.config, "implementer", reason="new model", timeout_s=60) == 0
    assert states(home.ledger)["a"] == "succeeded"
    assert control.resume(home.config, role="implementer")
    home.wait_closed()


def test_a_role_is_cancelled_in_every_run_and_what_runs_is_ended(home):
    home.start()
    for run_id in ("one", "two"):
        home.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"a": LONG_S}), run_id)
    wait_until(lambda: all(states(home.ledger, r)["a"] == "running" for r in ("one", "two")), timeout=60)
    done = control.cancel_role(home.config, "implementer", reason="by its operator")
    assert (done.attempts, done.runs) == (2, ("one", "two"))
    for run_id in ("one", "two"):
        home.wait_closed(run_id)
    for run_id in ("one", "two"):
        assert states(home.ledger, run_id)["b"] == "cancelled"
        nothing_is_held(home, run_id)


def test_a_killed_role_is_done_again_later_and_nothing_is_counted(home):
    home.start()
    home.submit(noop_plan({"a": []}, seconds=LONG_S))
    running(home, "a")
    assert control.kill_role(home.config, "implementer", reason="stop").attempts == 1
    node = home.ledger.node(RUN, "a")
    assert (node.state, node.reason) == ("parked", "paused: role implementer: stop")
    assert control.kill_role(home.config, "implementer", reason="stop").attempts == 0
    control.resume(home.config, role="implementer")
    running(home, "a")
    node = home.ledger.node(RUN, "a")
    assert (node.attempt, node.failures, node.losses) == (2, 0, 0)
    control.kill_run(home.config, RUN)


def test_a_killed_run_holds_nothing(home):
    home.start()
    home.submit(noop_plan({"a": [], "b": [], "c": ["a"]}, seconds=LONG_S))
    running(home, "a", "b")
    done = control.kill_run(home.config, RUN)
    assert done.state == "cancelled"
    assert set(states(home.ledger).values()) == {"cancelled", "failed"}
    nothing_is_held(home)
    assert control.kill_run(home.config, RUN).state == "cancelled"


def test_a_run_is_killed_whose_worker_does_not_answer(home):
    worker = home.start()
    home.submit(noop_plan({"a": [], "b": ["a"]}, seconds=LONG_S))
    running(home, "a")
    with stopped(worker):
        done = control.kill_run(home.config, RUN)
        assert (done.state, done.attempts) == ("cancelled", 1)
        nothing_is_held(home)
    home.submit(noop_plan({"x": []}), "later")
    home.wait_closed("later")
    assert states(home.ledger)["a"] == "cancelled", "the worker is back, and its token is void"


def test_a_run_is_cancelled_without_any_worker(home):
    home.submit(noop_plan({"a": [], "b": ["a"]}))
    assert runs.cancel(RUN, config=home.config) is RunState.CANCELLED
    assert states(home.ledger) == {"a": "cancelled", "b": "cancelled", INTEGRATE: "failed"}
    assert runs.cancel(RUN, config=home.config) is RunState.CANCELLED


def test_a_run_is_cancelled_whose_workers_have_died(home):
    worker = home.start()
    home.submit(noop_plan({"a": []}, seconds=LONG_S))
    running(home, "a")
    worker.kill()
    with followed(home):
        runs.cancel(RUN, config=home.config)
        home.wait_closed()
    assert home.ledger.run(RUN).state is RunState.CANCELLED
    nothing_is_held(home)


def test_timeouts_hold_while_every_worker_is_stopped(home):
    worker = home.start(slots=1)
    home.submit(with_patience(noop_plan({"a": [], "b": [], "c": ["b"]}, seconds=LONG_S)))
    running(home, "a")
    with stopped(worker), followed(home):
        home.ledger.client.hset(keys.node(RUN, "b"), "queue_ms", 1)
        wait_until(lambda: states(home.ledger)["b"] == "failed", timeout=60)
        assert home.ledger.node(RUN, "b").code == "AF-QUEUE-001"
        assert states(home.ledger)["c"] == "skipped"
        home.ledger.client.hset(keys.run(RUN), "timeout_ms", 1)
        home.wait_closed()
    run = home.ledger.run(RUN)
    assert (run.state, run.reason) == (RunState.FAILED, "the run's timeout of 0.001 s passed")
    nothing_is_held(home)


def test_what_is_parked_too_long_fails_and_the_rest_goes_on(home):
    home.start()
    plan = with_patience(noop_plan({"a": [], "b": []}, seconds=LONG_S))
    plan = plan.model_copy(
        update={"nodes": tuple(n.model_copy(update={"role_limit": 1}) for n in plan.nodes)}
    )
    home.submit(plan)
    wait_until(lambda: {"running", "parked"} <= set(states(home.ledger).values()), timeout=60)
    first, late = sorted(("a", "b"), key=lambda n: states(home.ledger)[n], reverse=True)
    home.ledger.client.hset(keys.node(RUN, late), "queue_ms", 1)
    wait_until(lambda: states(home.ledger)[late] == "failed", timeout=60)
    assert "role limit" in home.ledger.node(RUN, late).reason
    assert states(home.ledger)[first] == "running"
    control.kill_run(home.config, RUN)


def test_a_run_whose_submitter_died_before_its_first_message_is_carried_to_its_end(home):
    open_in_ledger(
        home.ledger, RUN, noop_plan({"a": [], "b": [], "c": ["a", "b"]}), project="", repo="", root=""
    )
    home.start()
    home.wait_closed()
    assert home.ledger.run(RUN).state is RunState.READY_TO_LAND


def test_a_run_whose_plan_cannot_be_read_is_closed(home):
    open_in_ledger(home.ledger, RUN, noop_plan({"a": [], "b": ["a"]}), project="", repo="", root="")
    home.ledger.client.set(keys.part(RUN, "plan"), "{")
    leader = Reconciler(Context(home.config, home.app), "me")
    leader._abandoned = Abandoned(Context(home.config, home.app), "me", patience_s=0.0)
    leader._abandoned.note(RUN, ValueError("no plan"))
    leader.scan()
    run = home.ledger.run(RUN)
    assert run.state is RunState.FAILED
    assert run.reason.startswith("its plan cannot be read: ")
    assert states(home.ledger) == {"a": "cancelled", "b": "cancelled", INTEGRATE: "failed"}


@pytest.mark.breaks_store("a run is left without its record")
def test_a_run_without_a_record_is_taken_off_the_list(home):
    home.ledger.client.sadd(keys.OPEN, "ghost")
    found = Abandoned(Context(home.config, home.app), "me", patience_s=0.0)
    found.note("ghost", ValueError("nothing"))
    found.end()
    assert home.ledger.open_runs() == []
    assert home.ledger.system_events(1)[0]["kind"] == "ledger.abandoned"


def test_one_leads_also_where_two_have_one_name(home):
    open_in_ledger(home.ledger, RUN, noop_plan({"a": []}), project="", repo="", root="")
    one, two = (Reconciler(Context(home.config, home.app), "me@here") for _ in range(2))
    one.scan()
    holder = home.ledger.client.get(keys.LEADER)
    two.scan()
    assert home.ledger.client.get(keys.LEADER) == holder
    two.resign()
    assert home.ledger.client.get(keys.LEADER) == holder
    one.resign()
    assert home.ledger.client.get(keys.LEADER) is None


def test_whoever_loses_the_lead_in_a_scan_does_no_more(home, monkeypatch):
    leader = Reconciler(Context(home.config, home.app), "me@here")
    done = []

    def asleep() -> None:
        done.append("due")
        home.ledger.client.set(keys.LEADER, "another@there|1")

    monkeypatch.setattr(leader, "_due", asleep)
    monkeypatch.setattr(leader, "_count_slots", lambda: done.append("slots"))
    leader.scan()
    assert done == ["due"]
    home.ledger.client.delete(keys.LEADER)


def test_a_lost_wake_is_found_by_the_leader(home):
    open_in_ledger(home.ledger, RUN, noop_plan({"a": []}), project="", repo="", root="")
    home.ledger.pause("fleet", "x")
    home.ledger.claim(RUN, "a", worker="w", ttl_ms=1000)
    home.ledger.client.delete(keys.PAUSED)
    assert states(home.ledger)["a"] == "parked"
    Reconciler(Context(home.config, home.app), "me").scan()
    assert states(home.ledger)["a"] == "ready"


def test_closing_is_left_to_whoever_is_faster(home):
    home.submit(noop_plan({"a": []}))
    home.ledger.control(RUN, "cancel", "no")
    taken = home.ledger.claim(RUN, INTEGRATE, worker="w", ttl_ms=60_000)
    canvas_of = lambda run: runs.canvas_of(home.ledger, run, home.config)  # noqa: E731
    assert closing.conclude(home.ledger, RUN, config=home.config, canvas_of=canvas_of) is RunState.CANCELLING
    home.ledger.requeue(RUN, INTEGRATE, taken.fence, reason="the worker is leaving")
    assert closing.conclude(home.ledger, RUN, config=home.config, canvas_of=canvas_of) is RunState.CANCELLED
