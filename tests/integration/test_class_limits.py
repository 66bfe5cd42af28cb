"""Complexity classes that are set while everything runs: of the fleet, in the runs' place, and of a run."""

from __future__ import annotations

import pytest
import redis
from helpers.ledgers import validate_store

from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.canvas.spending import Spending
from agentflow.errors import UsageError
from agentflow.states import NodeState, RunState
from agentflow.store.budgets import Amount, Change, nano
from agentflow.store.ledger import Ledger


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client)


def opened(ledger: Ledger, *runs: str) -> None:
    nodes = tuple(PlanNode(id=f"n{i}", role="r", complexity="high") for i in range(3))
    plan = Plan(feature="f", nodes=nodes, spending=Spending(classes={"high": 1}))
    for run in runs:
        open_in_ledger(ledger, run, plan, project="p", repo="", root="")


def claim(ledger: Ledger, run: str, node: str) -> int:
    taken = ledger.claim(run, node, worker="w", ttl_ms=60_000)
    assert taken.granted, taken.reason
    return taken.fence


def refused(ledger: Ledger, run: str, node: str) -> str:
    taken = ledger.claim(run, node, worker="w", ttl_ms=60_000)
    assert taken.verdict == "parked"
    return taken.reason


def test_a_limit_of_the_fleet_counts_all_runs_and_wakes_those_that_wait(ledger: Ledger) -> None:
    opened(ledger, "one", "two", "three")
    ledger.set_limit("class:high", 2)
    one, _ = claim(ledger, "one", "n0"), claim(ledger, "two", "n0")
    assert refused(ledger, "three", "n0") == "class: 2 of complexity high at a time in the fleet"
    assert ledger.limits() == {"class:high": 2}
    done = ledger.settle("one", "n0", one, NodeState.SUCCEEDED)
    assert done.others == (("three", "n0"),), "its end left room in another run"
    assert "in the fleet" in refused(ledger, "one", "n1"), "who was woken holds its place"
    claim(ledger, "three", "n0")
    validate_store(ledger.client)


def test_it_stands_in_place_of_the_runs_own_and_a_higher_one_wakes(ledger: Ledger) -> None:
    opened(ledger, "one")
    claim(ledger, "one", "n0")
    assert refused(ledger, "one", "n1") == "class: 1 of complexity high at a time"
    assert ledger.set_limit("class:high", 2).others == (("one", "n1"),)
    claim(ledger, "one", "n1")
    assert "in the fleet" in refused(ledger, "one", "n2")
    assert ledger.set_limit("class:high", 0).others == (), "without it the run's own holds again"
    validate_store(ledger.client)


def test_of_one_run(ledger: Ledger) -> None:
    opened(ledger, "one", "two")
    claim(ledger, "one", "n0")
    refused(ledger, "one", "n1")
    assert ledger.set_run_limit("one", "class:high", 2).woken == ("n1",)
    assert ledger.run_limits("one") == {"class:high": 2}
    assert ledger.run_limits("two") == {"class:high": 1}
    with pytest.raises(UsageError, match="class:low"):
        ledger.set_run_limit("one", "class:low", 2)


def test_a_run_that_waits_for_the_class_of_others_is_not_paused_for_its_budget(ledger: Ledger) -> None:
    """Somebody else's end lets it go on, and a paused run would miss that."""
    opened(ledger, "one")
    nodes = (PlanNode(id="h", role="r", complexity="high"), PlanNode(id="m", role="dear"))
    limits = {"role:dear": (0.0, None)}
    plan = Plan(feature="f", nodes=nodes, spending=Spending(classes={"high": 1}, limits=limits))
    open_in_ledger(ledger, "two", plan, project="p", repo="", root="")
    ledger.grant("two", "p", [Change("role:dear:usd", "set", nano(0))])
    ledger.set_limit("class:high", 1)
    one = claim(ledger, "one", "n0")
    assert "in the fleet" in refused(ledger, "two", "h")
    assert "role dear" in refused(ledger, "two", "m")
    assert ledger.run("two").state is RunState.OPEN
    assert ledger.reserve("one", "n0", one, "1", Amount(1)).verdict == "reserved"
    assert ("two", "h") in ledger.settle("one", "n0", one, NodeState.FAILED).others


def test_there_are_three_classes(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="large"):
        ledger.set_limit("class:large", 2)
    with pytest.raises(UsageError, match="class:high"):
        ledger.pause("class:high", "a class cannot be paused")


def test_each_that_is_woken_takes_its_place_from_the_others(ledger: Ledger) -> None:
    opened(ledger, "one", "two", "three")
    ledger.set_limit("class:high", 1)
    claim(ledger, "one", "n0")
    for run in ("two", "three"):
        assert "in the fleet" in refused(ledger, run, "n0")
    assert len(ledger.set_limit("class:high", 2).others) == 1
    validate_store(ledger.client)
