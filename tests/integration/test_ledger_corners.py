"""Corners of the ledger: what two runs wait for at once, what a broken run leaves, what begins anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.broken_scripts import rewritten
from helpers.ledgers import RUN, none_of, open_run, states, validate_fleet, validate_run, validate_store
from helpers.redis_server import RedisServer
from helpers.simulation.clock import BEGIN_US, SimulatedRedis, in_simulation

from agentflow.config.rates import BreakerSettings
from agentflow.spec.artifacts import Lock
from agentflow.states import NodeState, RunState
from agentflow.store import keys, validation
from agentflow.store.breakers import Breakers
from agentflow.store.budgets import Amount
from agentflow.store.governor import Call, Governor
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.records import INTEGRATE

OK, FAILED = NodeState.SUCCEEDED, NodeState.FAILED
HOUR_MS = 3_600_000


@pytest.fixture
def ledger(redis_client):
    return Ledger(redis_client)


@pytest.fixture
def clock(redis_server: RedisServer) -> Iterator[SimulatedRedis]:
    with (
        SimulatedRedis.from_url(redis_server.client_url, decode_responses=True) as client,
        rewritten(in_simulation),
    ):
        client.flushall()
        client.now_us = BEGIN_US
        yield client


def claim(ledger: Ledger, node: str, run: str = RUN) -> Claim:
    return ledger.claim(run, node, worker="w1", ttl_ms=60_000)


def granted(ledger: Ledger, node: str, run: str = RUN) -> int:
    taken = claim(ledger, node, run)
    assert taken.granted, taken.reason
    return taken.fence


def stand_in_line(ledger: Ledger, run: str, node: str, fence: int, lock: str) -> tuple[str, ...]:
    """End the attempt as one that waits for a further artifact (tasks/attempt.py: `_behind`)."""
    locks = (Lock(lock),)
    return ledger.requeue(run, node, fence, reason="lock", park=True, locks=locks, given=True).head


# -- further locks of exclusive runs -------------------------------------------------------------------


def two_exclusive(ledger: Ledger) -> tuple[int, int]:
    """`one` holds src, `two` holds lib; `b` of `one` has been given doc. The tokens of a and b of `one`."""
    open_run(
        ledger, {"a": [], "b": []}, locks={"a": ["src"], "b": ["src/b"]}, run_id="one", exclusive=["src"]
    )
    open_run(ledger, {"a": []}, locks={"a": ["lib"]}, run_id="two", exclusive=["lib"])
    return granted(ledger, "a", "one"), granted(ledger, "a", "two")


def test_whoever_ends_to_wait_for_a_lock_takes_it_for_its_run_too(ledger):
    one, two = two_exclusive(ledger)
    assert stand_in_line(ledger, "one", "a", one, "doc") == ("requeued", "parked")
    assert ledger.extend("two", "a", two, ["doc/x"]).holder == "one", "the run has it from here on"
    granted(ledger, "a", "one")
    none_of(validation.validate_fleet(ledger))


def test_no_run_waits_for_another_while_it_holds_something(ledger):
    one, _ = two_exclusive(ledger)
    # What another run holds is not waited for: it comes back without, and its agent is refused it.
    assert stand_in_line(ledger, "one", "a", one, "lib/x") == ("requeued", "ready")
    assert ledger.node("one", "a").reason == ""
    fence = granted(ledger, "a", "one")
    assert [lock.path for lock in ledger.node("one", "a").locks] == ["src"]
    answer = ledger.extend("one", "a", fence, ["lib/x"])
    assert (answer.verdict, answer.holder, answer.by) == ("queued", "two", "run")


def test_a_lock_that_a_node_and_another_run_have_is_refused_at_once(ledger):
    open_run(
        ledger,
        {"a": [], "b": []},
        locks={"a": ["src/a"], "b": ["lib/x"]},
        run_id="one",
        exclusive=["src"],
    )
    open_run(ledger, {"a": []}, locks={"a": ["lib"]}, run_id="two", exclusive=["lib"])
    fence = granted(ledger, "a", "one")
    granted(ledger, "b", "one"), granted(ledger, "a", "two")
    answer = ledger.extend("one", "a", fence, ["lib/x"])
    assert (answer.verdict, answer.holder, answer.by) == ("queued", "two", "run"), "not told to wait for `b`"


# -- isolation across runs -----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["settled", "lost", "drained"])
def test_the_end_of_a_suspect_wakes_those_of_other_runs(ledger, ending):
    for run in ("one", "two"):
        open_run(ledger, {"a": []}, run_id=run)
    for _ in range(2):
        for run, fence in {run: granted(ledger, "a", run) for run in ("one", "two")}.items():
            ledger.expire(run, "a", fence)
    fence = granted(ledger, "a", "one")
    assert claim(ledger, "a", "two").reason.startswith("isolation: ")
    if ending == "settled":
        answer = ledger.settle("one", "a", fence, OK)
    elif ending == "lost":
        answer = ledger.expire("one", "a", fence)
    else:
        answer = ledger.requeue("one", "a", fence, reason="the worker is leaving")
    assert answer.others == (("two", "a"),)
    assert states(ledger, "two")["a"] == "ready"
    none_of(validation.validate_fleet(ledger))


# -- a broken run --------------------------------------------------------------------------------------


def crowd(ledger: Ledger) -> None:
    """A run of which something runs, is woken, ready, parked, delayed, waits for room and for locks, and has
    money reserved; and another one that waits for its paths.
    """
    nodes = {"runs": [], "ready": [], "wide": [], "waits": [], "later": [], "woken": [], "after": ["runs"]}
    locks = {"runs": ["src"], "waits": ["src/x"], "later": ["lib"], "woken": ["lib/x"]}
    open_run(ledger, nodes, locks=locks, run_id="broken", exclusive=["src"], roles={"wide": "other"})
    ledger.set_limit("role:other", 1)
    open_run(ledger, {"z": []}, run_id="busy", roles={"z": "other"})
    fence = granted(ledger, "runs", "broken")
    granted(ledger, "z", "busy")
    assert ledger.reserve("broken", "runs", fence, "call", Amount(usd=5, tokens=7)).verdict == "reserved"
    assert claim(ledger, "waits", "broken").reason.startswith("lock: ")
    assert claim(ledger, "wide", "broken").reason.startswith("role limit: ")
    later = granted(ledger, "later", "broken")
    assert claim(ledger, "woken", "broken").reason.startswith("lock: ")
    ledger.requeue("broken", "later", later, reason="no", delay_ms=HOUR_MS)
    open_run(ledger, {"a": []}, run_id="fine", exclusive=["src"])
    assert claim(ledger, "a", "fine").reason == "exclusive: src is held by run broken"
    validate_fleet(ledger)


def without_hash(ledger: Ledger) -> None:
    ledger.client.delete(keys.run("broken"))


def without_order(ledger: Ledger) -> None:
    ledger.client.hset(keys.run("broken"), "order", "[{")


def without_a_node(ledger: Ledger) -> None:
    ledger.client.set(keys.node("broken", "runs"), "not a hash")
    ledger.client.hset(keys.run("broken"), "order", "{}")


@pytest.mark.parametrize("breaks", [without_hash, without_order, without_a_node])
def test_nothing_is_left_of_a_run_that_is_given_up(ledger, redis_client, breaks):
    crowd(ledger)
    breaks(ledger)
    answer = ledger.abandon("broken", "it cannot be read")
    assert ("fine", "a") in answer.others
    validate_store(redis_client)
    assert "broken" not in ledger.open_runs()
    assert not redis_client.exists(keys.part("broken", "locks"), keys.DELAYED)
    granted(ledger, "a", "fine")
    assert ledger.heal()[0] == ()


# -- healing -------------------------------------------------------------------------------------------


def test_a_stale_reservation_goes_and_those_of_the_present_attempt_stay(ledger):
    open_run(ledger, {"a": []})
    old = granted(ledger, "a")
    ledger.expire(RUN, "a", old)
    now = granted(ledger, "a")
    assert ledger.reserve(RUN, "a", now, "call", Amount(usd=5, tokens=7)).verdict == "reserved"
    # As a defect would leave it: money that is reserved for a token of before.
    assert ledger.reserve(RUN, "a", now, "gone", Amount(usd=3, tokens=4)).verdict == "reserved"
    budget = keys.part(RUN, "budget")
    record = ledger.client.hget(budget, f"hold:a|{now}|gone")
    ledger.client.hdel(budget, f"hold:a|{now}|gone")
    ledger.client.hset(budget, f"hold:a|{old}|gone", record)
    ledger.client.hset(keys.node(RUN, "a"), "holds", "call")
    assert ledger.heal()[0] == (f"{RUN}: budget was reserved for a, which does not run",)
    validate_run(ledger, RUN)
    ledger.settle(RUN, "a", now, OK)
    validate_run(ledger, RUN)
    assert ledger.purses(RUN)["run"].held == Amount()


# -- what begins anew ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["resume", "retry"])
def test_a_run_that_goes_on_counts_its_failures_anew(ledger, how):
    Breakers(ledger.client).configure(BreakerSettings(role=0, run=2, cool_down=60))
    open_run(ledger, {name: [] for name in "abcd"})
    for name in "ab":
        ledger.settle(RUN, name, granted(ledger, name), FAILED, reason="broken")
    assert ledger.run(RUN).state is RunState.PAUSED
    ledger.control(RUN, "cancel", "enough")
    ledger.settle(RUN, INTEGRATE, granted(ledger, INTEGRATE), FAILED)
    assert ledger.close(RUN, RunState.FAILED)
    assert ledger.reopen(RUN) if how == "resume" else ledger.retry(RUN, "a").head[0] == "again"
    ledger.settle(RUN, "a", granted(ledger, "a"), FAILED, reason="broken")
    assert ledger.run(RUN).state is RunState.OPEN, "the first since it goes on"


def test_whoever_resumes_a_paused_run_begins_its_count_anew(ledger):
    Breakers(ledger.client).configure(BreakerSettings(role=0, run=2, cool_down=60))
    open_run(ledger, {name: [] for name in "abcde"})
    for name in "ab":
        ledger.settle(RUN, name, granted(ledger, name), FAILED, reason="broken")
    assert ledger.control(RUN, "continue", "resumed")[0] == "open"
    ledger.settle(RUN, "c", granted(ledger, "c"), FAILED, reason="broken")
    assert ledger.run(RUN).state is RunState.OPEN
    ledger.settle(RUN, "d", granted(ledger, "d"), FAILED, reason="broken")
    assert "after 60 s" in ledger.run(RUN).reason, "as for the first time"


def test_a_node_that_is_done_again_is_no_failure_of_its_run_any_more(ledger):
    Breakers(ledger.client).configure(BreakerSettings(role=0, run=2, cool_down=60))
    open_run(ledger, {name: [] for name in "abc"})
    for _ in range(3):
        ledger.settle(RUN, "a", granted(ledger, "a"), FAILED, reason="broken")
        assert ledger.run(RUN).state is RunState.OPEN
        assert ledger.retry(RUN, "a").head[0] == "again"


def test_an_optional_node_that_never_began_is_done_again_while_others_went_on(ledger):
    open_run(ledger, {"a": [], "b": ["a"]}, optional=["a"], roles={"a": "other"})
    ledger.cancel_role(RUN, "other", "not now")
    assert states(ledger) == {"a": "cancelled", "b": "ready", INTEGRATE: "pending"}
    assert ledger.retry(RUN, "a").head[0] == "again"
    validate_run(ledger, RUN)


# -- slow buckets --------------------------------------------------------------------------------------


def test_a_bucket_that_fills_in_days_is_not_forgotten_before(clock):
    """The keys of the governor live for an hour after their last call: this one's is longer."""
    governor = Governor(clock)
    governor.configure({"runner:m": {"capacity": 2, "refill_rate": 1 / (10 * 3600)}})
    calls = [Call(("at:host/m", "runner:m"), node=name, fence=1) for name in "abc"]
    assert [governor.enter(call, 1, bound_ms=1000).verdict for call in calls] == [
        "granted",
        "granted",
        "wait",
    ]
    ttl = clock.pttl(keys.rate("runner:m"))
    assert 20 * HOUR_MS - 60_000 < ttl < 22 * HOUR_MS, "until it is full"
    governor.leave(calls[0], 1, took_ms=5, answered=True)
    assert clock.pttl(keys.rate("runner:m")) > 19 * HOUR_MS
