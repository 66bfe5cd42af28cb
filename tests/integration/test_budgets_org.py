"""The budget above the projects: what all of them that share a Redis spend in one day."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from helpers.broken_scripts import rewritten
from helpers.ledgers import validate_store

from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.states import NodeState, RunState
from agentflow.store import keys, scripts, validation
from agentflow.store.budgets import DAY_S, Amount, Change, nano
from agentflow.store.ledger import Ledger


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client)


def opened(ledger: Ledger, run: str, *nodes: PlanNode) -> None:
    """A run of a project of its own, which is called like it."""
    plan = Plan(feature="f", nodes=nodes or (PlanNode(id="a", role="r"), PlanNode(id="b", role="r")))
    open_in_ledger(ledger, run, plan, project=f"project-{run}", repo="", root="")


def allow(ledger: Ledger, usd: float | None) -> tuple[tuple[str, str], ...]:
    verb = "none" if usd is None else "set"
    return ledger.grant("", "", [Change("org:usd", verb, nano(usd or 0))]).others


def claim(ledger: Ledger, run: str, node: str) -> int:
    taken = ledger.claim(run, node, worker="w", ttl_ms=60_000)
    assert taken.granted, taken.reason
    return taken.fence


def refused(ledger: Ledger, run: str, node: str) -> str:
    taken = ledger.claim(run, node, worker="w", ttl_ms=60_000)
    assert taken.verdict == "parked"
    return taken.reason


def spend(ledger: Ledger, run: str, node: str, fence: int, usd: float) -> None:
    assert ledger.reserve(run, node, fence, f"{usd}", Amount(usd)).verdict == "reserved"
    ledger.charge(run, node, fence, f"{usd}", Amount(usd))


def test_two_projects_spend_from_one_budget(ledger: Ledger) -> None:
    allow(ledger, 1.0)
    for run in ("one", "two"):
        opened(ledger, run)
    one, two = claim(ledger, "one", "a"), claim(ledger, "two", "a")
    spend(ledger, "one", "a", one, 0.7)
    answer = ledger.reserve("two", "a", two, "1", Amount(0.4))
    assert (answer.verdict, answer.scope, answer.held) == ("refused", "org", False)
    assert answer.reason == "budget: org: $0.70 of $1.00 spent, $0.40 more wanted"
    assert ledger.day("project-two").held == Amount(), "all or none"
    spend(ledger, "two", "a", two, 0.3)
    assert ledger.org().spent == Amount(1.0)
    assert ledger.org().limit_usd == 1.0
    assert ledger.day("project-one").spent == Amount(0.7)
    validate_store(ledger.client)


def test_a_limit_that_is_set_while_they_run_pauses_them_and_a_higher_one_lets_them_go_on(
    ledger: Ledger,
) -> None:
    for run in ("one", "two"):
        opened(ledger, run)
    one = claim(ledger, "one", "a")
    spend(ledger, "one", "a", one, 2.0)
    allow(ledger, 2.0)
    assert refused(ledger, "two", "a") == "budget: org: $2.00 of $2.00 spent"
    assert "budget: org" in refused(ledger, "two", "b")
    assert ledger.run("two").state is RunState.PAUSED
    assert ledger.run("two").reason.startswith("budget: org: ")
    assert ledger.run("two").is_out_of_budget
    woken = allow(ledger, None)
    assert set(woken) == {("two", "a"), ("two", "b")}
    assert ledger.run("two").state is RunState.OPEN
    validate_store(ledger.client)


def test_what_a_run_of_another_project_gives_back_wakes_who_waits(ledger: Ledger) -> None:
    allow(ledger, 1.0)
    for run in ("one", "two"):
        opened(ledger, run)
    one = claim(ledger, "one", "a")
    ledger.reserve("one", "a", one, "1", Amount(1.0))
    assert "reserved" in refused(ledger, "two", "a")
    assert ledger.run("two").state is RunState.OPEN, "it is not spent, only reserved"
    assert ledger.charge("one", "a", one, "1", Amount(0.2)).others == (("two", "a"),)


def test_near_its_end_the_most_important_work_goes_first(ledger: Ledger) -> None:
    allow(ledger, 1.0)
    critical = PlanNode(id="c", role="r", priority="critical")
    opened(ledger, "one", PlanNode(id="a", role="r"), PlanNode(id="m", role="r"), critical)
    spend(ledger, "one", "a", claim(ledger, "one", "a"), 0.85)
    assert refused(ledger, "one", "m") == (
        "budget: org: less than a fifth is left, more important work goes first"
    )
    claim(ledger, "one", "c")


@pytest.fixture
def clock(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """The scripts' clock is the key `clock`: seconds."""
    with rewritten(lambda text: text.replace("redis.call('TIME')", "{redis.call('GET', 'clock'), '0'}")):
        yield redis_client
    redis_client.delete("clock")


def test_a_new_day_begins_anew_by_itself(ledger: Ledger, clock: redis.Redis) -> None:
    today = ledger.now_ms() // 1000 // DAY_S
    clock.set("clock", (today + 1) * DAY_S - 1)
    opened(ledger, "one")
    allow(ledger, 1.0)
    a = claim(ledger, "one", "a")
    spend(ledger, "one", "a", a, 1)
    ledger.settle("one", "a", a, NodeState.SUCCEEDED)
    assert "budget: org: $1.00 of $1.00 spent" in refused(ledger, "one", "b")
    assert ledger.run("one").state is RunState.PAUSED
    assert ledger.client.zscore(keys.SHORT, "one") == (today + 1) * DAY_S * 1000
    clock.set("clock", (today + 1) * DAY_S)
    # The clock of the server itself still stands in the day before, so the due run is named here.
    assert scripts.transition(ledger.client, "morning", "one").woken == ("b",)
    assert ledger.run("one").state is RunState.OPEN
    days = [keys.org_spent(day) for day in (today, today + 1)]
    spend(ledger, "one", "b", claim(ledger, "one", "b"), 1)
    assert ledger.client.exists(*days) == 2
    assert all(0 < ledger.client.ttl(day) <= 40 * DAY_S for day in days)


def test_a_sum_that_is_wrong_is_found(ledger: Ledger) -> None:
    opened(ledger, "one")
    a = claim(ledger, "one", "a")
    ledger.reserve("one", "a", a, "1", Amount(0.5, 10))
    today = ledger.now_ms() // 1000 // DAY_S
    assert not validation.validate_fleet(ledger)
    ledger.client.hincrby(keys.org_spent(today), "held:org:tokens", 1)
    assert "11 tokens are counted as reserved, 10 are" in str(validation.validate_fleet(ledger))
    ledger.client.hincrby(keys.org_spent(today), "held:org:tokens", -1)
    ledger.charge("one", "a", a, "1", Amount(0.5, 10))
    assert not validation.validate_fleet(ledger)
    ledger.client.hincrby(keys.project_spent("project-one", today), "spent:day:usd", -1)
    assert "from what the projects have spent" in str(validation.validate_fleet(ledger))
    ledger.client.hincrby(keys.project_spent("project-one", today), "spent:day:usd", 1)
