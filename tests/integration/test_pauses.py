"""Pauses of a run, a role and the fleet in the ledger: nothing starts, all goes on, and each says why."""

from __future__ import annotations

import pytest
from helpers.ledgers import RUN, open_run, states

from agentflow.config import load_config
from agentflow.monitor import Monitor
from agentflow.states import NodeState
from agentflow.store import keys
from agentflow.store.events import EventLog
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.records import INTEGRATE

OK = NodeState.SUCCEEDED


@pytest.fixture
def ledger(redis_client):
    return Ledger(redis_client)


def claim(ledger: Ledger, node: str, run: str = RUN) -> Claim:
    return ledger.claim(run, node, worker="w1", ttl_ms=60_000)


def done(ledger: Ledger, node: str, run: str = RUN) -> None:
    assert ledger.settle(run, node, claim(ledger, node, run).fence, OK).head[0] == "settled"


def test_a_paused_run_starts_nothing_and_what_runs_goes_on(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": []})
    running = claim(ledger, "a")
    assert ledger.control(RUN, "pause", "paused by its user")[0] == "paused"
    assert claim(ledger, "c").reason == "the run is paused: paused by its user"
    assert ledger.renew([(RUN, "a", running.fence)], ttl_ms=60_000) == {}
    assert ledger.settle(RUN, "a", running.fence, OK).ready == ("b",)
    assert not claim(ledger, "b").granted
    assert "paused by its user" in ledger.why(RUN, "b")
    state, answer = ledger.control(RUN, "continue", "resumed")
    assert (state, sorted(answer.woken)) == ("open", ["b", "c"])
    assert claim(ledger, "b").granted


def test_an_attempt_that_comes_back_in_a_paused_run_waits_with_the_reason(ledger):
    open_run(ledger, {"a": []})
    running = claim(ledger, "a")
    ledger.control(RUN, "pause", "lunch")
    assert ledger.requeue(RUN, "a", running.fence, reason="red", counter="failures").head[1] == "parked"
    assert ledger.node(RUN, "a").reason == "the run is paused: lunch"


def test_each_word_to_a_run_can_be_said_again(ledger):
    open_run(ledger, {"a": []})
    for verb, state in [
        ("pause", "paused"), ("pause", "paused"), ("drain", "draining"), ("drain", "draining"),
        ("pause", "paused"), ("continue", "open"), ("continue", "open"), ("cancel", "cancelling"),
        ("cancel", "cancelling"), ("pause", "cancelling"), ("continue", "cancelling"),
    ]:  # fmt: skip
        assert ledger.control(RUN, verb, verb)[0] == state
    events = [e.kind for e in EventLog(ledger.client).read(RUN) if e.kind.startswith("run.")]
    assert events == [
        "run.opened", "run.paused", "run.draining", "run.paused", "run.open", "run.cancelling"
    ]  # fmt: skip


def test_a_pause_that_nobody_asked_for_does_not_replace_a_users_nor_is_it_lifted_for_another_reason(ledger):
    open_run(ledger, {"a": []})
    ledger.control(RUN, "pause", "budget: run: all spent")
    assert ledger.control(RUN, "lift", "breaker: ")[0] == "paused"
    ledger.control(RUN, "pause", "breaker: model is down")
    assert ledger.run(RUN).reason == "budget: run: all spent"
    ledger.control(RUN, "pause", "paused by its user")
    assert ledger.run(RUN).reason == "paused by its user"
    assert ledger.control(RUN, "lift", "budget: ")[0] == "paused"
    ledger.control(RUN, "continue", "resumed")
    ledger.control(RUN, "pause", "budget: again")
    assert ledger.control(RUN, "lift", "budget: ")[0] == "open"
    ledger.control(RUN, "drain", "drained")
    assert ledger.control(RUN, "pause", "budget: again")[0] == "draining"


def test_who_is_at_rest(ledger):
    open_run(ledger, {"a": []})
    running = claim(ledger, "a")
    ledger.control(RUN, "pause", "paused by its user")
    assert not ledger.run(RUN).is_at_rest
    ledger.control(RUN, "continue")
    ledger.control(RUN, "pause", "budget: run: all spent")
    assert not ledger.run(RUN).is_at_rest, "an attempt still runs"
    ledger.requeue(RUN, "a", running.fence, reason="asked for more")
    run = ledger.run(RUN)
    assert run.is_at_rest
    assert not run.wants_worker


def test_the_time_of_a_pause_does_not_count(ledger, redis_client):
    open_run(ledger, {"a": []})
    redis_client.hset(keys.run(RUN), mapping={"timeout_ms": 60_000})
    ledger.control(RUN, "pause", "for a day")
    day = 24 * 3600 * 1000
    redis_client.hincrby(keys.run(RUN), "since_ms", -day)
    redis_client.hincrby(keys.run(RUN), "still_ms", -day)
    assert ledger.deadlines(RUN) is None, "not while it is paused"
    ledger.control(RUN, "continue", "resumed")
    assert ledger.deadlines(RUN) is None, "nor afterwards"


def test_a_paused_role_waits_in_every_run_and_the_others_go_on(ledger):
    for run in ("one", "two"):
        open_run(ledger, {"a": [], "b": []}, run_id=run, roles={"a": "coder", "b": "tester"})
    assert ledger.pause("role:coder", "its model is down")
    assert not ledger.pause("role:coder", "another reason")
    for run in ("one", "two"):
        assert claim(ledger, "a", run).reason == "paused: role coder: its model is down"
        done(ledger, "b", run)
    assert ledger.why("one", "a") == "is parked: paused: role coder: its model is down"
    answer = ledger.unpause("role:coder")
    assert sorted(answer.others) == [("one", "a"), ("two", "a")]
    assert ledger.unpause("role:coder") is None
    done(ledger, "a", "one")


def test_a_paused_fleet_starts_nothing_but_ends_runs(ledger):
    open_run(ledger, {"a": [], "b": []})
    done(ledger, "b")
    running = claim(ledger, "a")
    ledger.pause("fleet", "upgrade")
    assert ledger.pauses()["fleet"].reason == "upgrade"
    open_run(ledger, {"x": []}, run_id="later")
    assert claim(ledger, "x", "later").reason == "paused: the fleet: upgrade"
    ledger.settle(RUN, "a", running.fence, OK)
    assert claim(ledger, INTEGRATE).granted, "what is done may be closed"
    assert ledger.unpause("fleet").others == (("later", "x"),)


def test_what_is_woken_by_one_pause_waits_for_the_other(ledger):
    open_run(ledger, {"a": []}, roles={"a": "coder"})
    ledger.pause("fleet", "upgrade")
    ledger.pause("role:coder", "no model")
    claim(ledger, "a")
    assert ledger.unpause("fleet").others == ()
    assert ledger.node(RUN, "a").reason == "paused: role coder: no model"
    assert ledger.unpause("role:coder").others == ((RUN, "a"),)


def test_a_role_is_cancelled_with_what_needs_it(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": []}, roles={"a": "coder", "b": "tester", "c": "tester"})
    answer = ledger.cancel_role(RUN, "coder", "role coder was cancelled")
    assert answer.ended == ("a", "b")
    assert states(ledger) == {"a": "cancelled", "b": "cancelled", "c": "ready", INTEGRATE: "pending"}
    assert ledger.cancel_role(RUN, "coder", "again").head[0] == "none"


def test_what_stands_behind_another_when_its_role_goes_on_says_so(ledger):
    open_run(ledger, {"a": [], "b": []}, roles={"a": "docs", "b": "qa"}, locks={"a": ["src"], "b": ["src"]})
    first = claim(ledger, "b")
    assert claim(ledger, "a").reason == "lock: src is held for b"
    ledger.pause("role:docs", "lunch")
    ledger.requeue(RUN, "b", first.fence, reason="the worker is leaving")
    assert "lunch" in ledger.node(RUN, "a").reason
    again = claim(ledger, "b")
    ledger.unpause("role:docs")
    assert ledger.node(RUN, "a").reason == "lock: src is held for b"
    assert ledger.settle(RUN, "b", again.fence, OK).woken == ("a",)


def test_what_waited_for_room_says_that_its_role_is_paused_and_keeps_nobody_from_his_locks(ledger):
    open_run(
        ledger, {"a": [], "b": [], "c": []},
        roles={"a": "qa", "b": "docs", "c": "qa"}, locks={"b": ["src"], "c": ["src/x"]},
    )  # fmt: skip
    ledger.set_limit("fleet", 1)
    first = claim(ledger, "a")
    assert claim(ledger, "b").reason.startswith("fleet limit")
    assert claim(ledger, "c").reason.startswith("lock: src/x is held for b")
    ledger.pause("role:docs", "lunch")
    assert ledger.settle(RUN, "a", first.fence, OK).woken == ("c",)
    assert ledger.node(RUN, "b").reason == "paused: role docs: lunch"
    done(ledger, "c")
    assert ledger.unpause("role:docs").others == ((RUN, "b"),)


def test_what_holds_the_whole_run_is_named_before_what_a_node_was_told(ledger, redis_url):
    open_run(ledger, {"a": [], "b": [], "c": ["a"]}, roles={"a": "coder"})
    ledger.pause("role:coder", "no model")
    assert not claim(ledger, "a").granted
    ledger.control(RUN, "pause", "lunch")
    ledger.unpause("role:coder")
    held = "the run is paused: lunch"
    assert ledger.why(RUN, "a") == f"is parked: {held} (told before: paused: role coder: no model)"
    assert ledger.why(RUN, "b") == f"is ready, but {held}"
    assert ledger.why(RUN, "c") == "waits for a (parked)"
    ledger.client.set(keys.part(RUN, "plan"), '{"nodes": []}')
    seen = Monitor(load_config(None, {"redis.url": redis_url}, environ={"HOME": "/"})).status(RUN)
    assert [n.waits for n in seen.nodes if n.id in "ab"] == [f"waits: {held}"] * 2
    ledger.control(RUN, "drain", "home")
    assert ledger.why(RUN, "b") == "is ready, but the run is draining: home"
    ledger.control(RUN, "continue")
    assert ledger.why(RUN, "b").startswith("is ready")
    assert "the run is" not in ledger.why(RUN, "b")


def test_what_a_node_was_told_is_not_said_again_when_it_holds_the_whole_run(ledger):
    open_run(ledger, {"a": [], "b": []}, roles={"a": "coder"})
    ledger.pause("role:coder", "no model")
    assert not claim(ledger, "a").granted
    ledger.control(RUN, "pause", "paused: role coder: no model")
    assert ledger.why(RUN, "a") == "is parked: the run is paused: paused: role coder: no model"


def test_a_finished_run_that_is_paused_can_still_be_integrated_and_says_nothing_else(ledger):
    open_run(ledger, {"a": []})
    done(ledger, "a")
    ledger.control(RUN, "pause", "lunch")
    assert ledger.why(RUN, INTEGRATE).startswith("is ready; waits for a free slot")
