"""More of what the ledger promises: what is asked twice, comes late, was lost, or leads (see promises.py).

A client that lost an answer asks again; a message or a leader comes a second time; a ledger comes back
without the end of its log. `PROMISES` has those of `promises.py` too.
"""

from __future__ import annotations

from helpers.ledgers import RUN, open_run, states
from helpers.promises import BAD, OK, PROMISES, claim, end, granted, promise, spent, whole

from agentflow.states import NodeState, RunState
from agentflow.store import keys, restoring, scripts
from agentflow.store.budgets import Amount, Change, nano
from agentflow.store.fleet import Fleet
from agentflow.store.governor import Call, Governor
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE

__all__ = ["PROMISES"]

HOUR_MS = 3_600_000


# -- asked twice ---------------------------------------------------------------------------------------


@promise
def a_call_whose_answer_was_lost_is_counted_once(ledger: Ledger) -> None:
    governor = Governor(ledger.client)
    slow = {"capacity": 3, "refill_rate": 0.0001}
    governor.configure({"runner:m": {"tpm": 100}, "runner:slow": slow, "runner:one": {"concurrency": 1}})

    def enter(runner: str, node: str, tokens: int = 1) -> str:
        call = Call(("at:host/m", runner), node=node, fence=1)
        return governor.enter(call, tokens, bound_ms=60_000).verdict

    assert [enter("runner:m", "a", 60) for _ in range(3)] == ["granted"] * 3
    assert enter("runner:m", "b", 40) == "granted", "60 are used, not 180"
    assert [enter("runner:slow", node) for node in "aabcd"] == ["granted"] * 4 + ["wait"]
    assert [enter("runner:one", node) for node in "aab"] == ["granted", "granted", "wait"], "nor for itself"


@promise
def a_call_is_reserved_once(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    ledger.grant(RUN, "p", [Change("run:usd", "set", nano(1.0))])
    fence = granted(ledger, "a")
    for _ in range(2):
        assert ledger.reserve(RUN, "a", fence, "1", Amount(0.4)).verdict == "reserved"
    assert spent(ledger) == (0, 0.4)
    whole(ledger)


@promise
def who_comes_due_twice_begins_once(ledger: Ledger) -> None:
    """Two leaders have read the same delayed node; the second comes when it runs, or when it has ended."""
    open_run(ledger, {"a": []})
    ledger.requeue(RUN, "a", granted(ledger, "a"), reason="red", delay_ms=HOUR_MS)

    def due() -> str:
        return scripts.transition(ledger.client, "due", RUN, "a", NodeState.DELAYED.value).head[0]

    assert due() == "ready"
    fence = granted(ledger, "a")
    assert due() == "superseded"
    whole(ledger)
    ledger.settle(RUN, "a", fence, OK)
    assert due() == "superseded"
    whole(ledger)


# -- how often -----------------------------------------------------------------------------------------


@promise
def a_node_that_is_lost_without_end_is_given_up_also_while_others_go_on(ledger: Ledger) -> None:
    most, others = 2, [f"n{i}" for i in range(8)]
    open_run(ledger, {node: [] for node in ("slow", *others)})
    said = []
    for node in others:
        said.append(ledger.expire(RUN, "slow", granted(ledger, "slow"), max_losses=most).head[0])
        if said[-1] == "requeued":
            end(ledger, node)
    assert said == ["requeued"] * 7 + ["quarantined"], "four times as many as may be in vain"


# -- tokens and generations ----------------------------------------------------------------------------


@promise
def a_lost_integration_closes_nothing(ledger: Ledger) -> None:
    """It was given up, so its node has ended and nobody draws another token."""
    open_run(ledger, {"a": []})
    end(ledger, "a")
    old = granted(ledger, INTEGRATE)
    assert ledger.expire(RUN, INTEGRATE, old, max_losses=1).head[0] == "quarantined"
    assert ledger.close(RUN, RunState.READY_TO_LAND, fence=old) is None
    assert ledger.close(RUN, RunState.FAILED)


@promise
def an_older_ledger_goes_on_in_the_newest_generation(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []})
    end(ledger, "a")
    lost = restoring.node_facts(ledger.client, RUN, ["a"])
    ledger.client.flushall()
    open_run(ledger, {"a": [], "b": []})
    assert restoring.adopt(ledger, RUN, lost, {}, generation=3)[0] == 1
    assert ledger.generation(RUN) == 3
    restoring.adopt(ledger, RUN, lost, {}, generation=2)
    assert ledger.generation(RUN) == 3, "and never goes back"
    whole(ledger)


# -- what waits ----------------------------------------------------------------------------------------


@promise
def an_attempt_of_a_cancelled_run_is_given_no_lock(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    fence = granted(ledger, "a")
    ledger.control(RUN, "cancel", "enough")
    assert ledger.extend(RUN, "a", fence, ["src/**"]).verdict == "refused"
    whole(ledger)


@promise
def the_integration_of_a_cancelled_run_goes_on(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    end(ledger, "a")
    fence = granted(ledger, INTEGRATE)
    ledger.control(RUN, "cancel", "enough")
    assert ledger.renew([(RUN, INTEGRATE, fence)], ttl_ms=60_000) == {}, "it closes the run"


@promise
def a_pause_is_not_held_against_what_waits(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    long_ago_ms = ledger.now_ms() - HOUR_MS
    ledger.client.hset(keys.run(RUN), mapping={"queue_timeouts": 1, "opened_ms": long_ago_ms})
    ledger.client.hset(keys.node(RUN, "a"), mapping={"queue_ms": 60_000, "queued_ms": long_ago_ms})
    ledger.pause("role:worker", "lunch")
    assert ledger.deadlines(RUN) is None
    ledger.unpause("role:worker")
    assert ledger.deadlines(RUN) is None, "it has its whole time again"
    assert states(ledger)["a"] == "ready"


@promise
def who_is_held_back_leaves_the_line_for_its_locks(ledger: Ledger) -> None:
    locks = {"a": ["src"], "b": ["src"], "c": ["src"]}
    open_run(ledger, dict.fromkeys(locks, ()), locks=locks, roles={"b": "tester"})
    fence = granted(ledger, "a")
    assert claim(ledger, "b").verdict == "parked"
    assert claim(ledger, "c").verdict == "parked"
    ledger.pause("role:tester", "lunch")
    assert ledger.settle(RUN, "a", fence, OK).woken == ("c",)
    whole(ledger)


@promise
def nobody_waits_for_calls_under_way_in_vain(ledger: Ledger) -> None:
    """One unit, one budget is only reserved, another is spent: the call is told `spent`, and by which."""
    open_run(ledger, {"a": [], "b": []})
    dollars = [Change(f"{scope}:usd", "set", nano(1.0)) for scope in ("role:worker", "run")]
    ledger.grant(RUN, "p", [*dollars, Change("run:tokens", "set", 100)])
    one, two = granted(ledger, "a"), granted(ledger, "b")
    ledger.reserve(RUN, "a", one, "1", Amount(0.0, 100))
    ledger.charge(RUN, "a", one, "1", Amount(0.0, 100))
    ledger.reserve(RUN, "a", one, "2", Amount(0.9))
    assert ledger.reserve(RUN, "b", two, "1", Amount(0.5)).held, "of dollars alone it is"
    refused = ledger.reserve(RUN, "b", two, "2", Amount(0.5, 50))
    assert (refused.scope, refused.held) == ("run", False)
    assert refused.reason == "budget: run: 100 tokens of 100 tokens spent, 50 tokens more wanted"
    ledger.requeue(RUN, "b", two, reason=refused.reason, park=True)
    assert ledger.node(RUN, "b").reason == refused.reason, "`why` names the same"


@promise
def a_limit_that_is_younger_than_its_run_holds_it_back(ledger: Ledger) -> None:
    """The run was closed when the day got its limit; else what is refused would come back at once."""
    open_run(ledger, {"a": [], "b": []})
    end(ledger, "a", BAD)
    end(ledger, "b")
    end(ledger, INTEGRATE)
    ledger.close(RUN, RunState.FAILED)
    ledger.grant("", "p", [Change("day:usd", "set", nano(1.0))])
    ledger.reopen(RUN)
    fence = granted(ledger, "a")
    refused = ledger.reserve(RUN, "a", fence, "1", Amount(2.0))
    assert refused.verdict == "refused"
    assert ledger.requeue(RUN, "a", fence, reason=refused.reason, park=True).woken == ()
    assert states(ledger)["a"] == "parked"


# -- who leads -----------------------------------------------------------------------------------------


@promise
def one_leads_at_a_time(ledger: Ledger) -> None:
    fleet = Fleet(ledger.client)
    assert [fleet.lead(name) for name in ("one", "two", "one")] == [True, False, True]
    fleet.resign("two")
    assert not fleet.lead("two"), "only the leader gives the lead up"
    fleet.resign("one")
    assert fleet.lead("two")
    fleet.resign("two")
