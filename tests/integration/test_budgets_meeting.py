"""Budgets that meet something else: days and pauses, want of room, runs opened again, many that wait."""

from __future__ import annotations

from typing import Any, cast

import pytest
import redis
from helpers.ledgers import RUN, open_run, states, validate_run

from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.canvas.spending import Spending
from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.budgets import Amount, Change, nano
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE

PROJECT = "p"


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client)


def claim(ledger: Ledger, node: str, run: str = RUN) -> int:
    taken = ledger.claim(run, node, worker="w", ttl_ms=60_000)
    assert taken.granted, taken.reason
    return taken.fence


def refused(ledger: Ledger, node: str, run: str = RUN) -> str:
    taken = ledger.claim(run, node, worker="w", ttl_ms=60_000)
    assert taken.verdict == "parked"
    return taken.reason


def spend(ledger: Ledger, node: str, fence: int, usd: float) -> None:
    assert ledger.reserve(RUN, node, fence, "1", Amount(usd)).verdict == "reserved"
    assert ledger.charge(RUN, node, fence, "1", Amount(usd)).head[0] == "charged"


def test_a_run_that_the_day_has_paused_stays_noted_for_the_next_one(ledger: Ledger) -> None:
    ledger.grant("", PROJECT, [Change("day:usd", "set", nano(1))])
    for run in ("one", "two"):
        open_run(ledger, {"a": [], "b": []}, run_id=run)
    one = claim(ledger, "a", "one")
    ledger.reserve("one", "a", one, "1", Amount(0.1))
    two = claim(ledger, "a", "two")
    ledger.reserve("two", "a", two, "1", Amount(0.9))
    ledger.charge("two", "a", two, "1", Amount(1.0))
    ledger.settle("two", "a", two, NodeState.SUCCEEDED)
    assert "budget: day" in refused(ledger, "b", "two")
    assert ledger.run("two").state is RunState.PAUSED
    ledger.charge("one", "a", one, "1", Amount(0.05))
    assert ledger.client.zscore(keys.SHORT, "two"), "else nobody lets it go on in the morning"


def test_a_limit_of_the_day_holds_a_run_that_was_closed_when_it_was_set(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    ledger.settle(RUN, "a", claim(ledger, "a"), NodeState.FAILED)
    ledger.settle(RUN, INTEGRATE, claim(ledger, INTEGRATE), NodeState.FAILED)
    ledger.close(RUN, RunState.FAILED)
    ledger.grant("", PROJECT, [Change("day:usd", "set", nano(1))])
    ledger.reopen(RUN)
    a = claim(ledger, "a")
    answer = ledger.reserve(RUN, "a", a, "1", Amount(2.0))
    assert answer.scope == "day"
    parked = ledger.requeue(RUN, "a", a, reason=answer.reason, park=True)
    assert not parked.woken, "it would be refused again at once, and again"
    assert states(ledger)["a"] == "parked"


def test_what_waits_for_room_while_the_budget_is_spent_does_not_keep_the_run_open(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": []}, locks={"b": ["src"], "c": ["src/x"]})
    ledger.grant(RUN, PROJECT, [Change("run:usd", "set", nano(1))])
    ledger.set_limit("fleet", 1)
    a = claim(ledger, "a")
    assert refused(ledger, "b").startswith("fleet limit")
    assert refused(ledger, "c").startswith("lock")
    spend(ledger, "a", a, 1.0)
    ledger.settle(RUN, "a", a, NodeState.SUCCEEDED)
    assert ledger.run(RUN).state is RunState.PAUSED
    assert all("budget: run" in ledger.why(RUN, waits) for waits in "bc")
    raised = ledger.grant(RUN, PROJECT, [Change("run:usd", "add", nano(1))])
    assert raised.woken in (("b",), ("c",))
    validate_run(ledger, RUN)


def test_near_the_end_each_node_that_waits_is_asked_about_once(ledger: Ledger) -> None:
    many = [PlanNode(id=f"m{i}", role="r") for i in range(60)]
    critical = PlanNode(id="c", role="r", priority="critical")
    plan = Plan(feature="f", nodes=(critical, *many), spending=Spending(limits={"run": (1.0, None)}))
    open_in_ledger(ledger, RUN, plan, project=PROJECT, repo="", root="")
    c = claim(ledger, "c")
    spend(ledger, "c", c, 0.85)
    for waits in many:
        refused(ledger, waits.id)
    before = commands(ledger)
    assert ledger.recheck(RUN) is None
    assert commands(ledger) - before < 40 * len(many)


def commands(ledger: Ledger) -> int:
    """Commands that the server has done, those of scripts included."""
    return sum(int(one["calls"]) for one in cast("Any", ledger.client.info("commandstats")).values())
