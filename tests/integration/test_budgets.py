"""Budgets at the ledger: what each limit does, who goes first near its end, days, classes, many agents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from helpers.broken_scripts import rewritten
from helpers.jobs import make_job
from helpers.ledgers import RUN, open_run, states, validate_run

from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.canvas.spending import Spending
from agentflow.environment import Meter, PlainEnvironment, Stop
from agentflow.errors import AttemptCancelled, BudgetReached, UsageError
from agentflow.runners.registry import make_runner
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer
from agentflow.states import NodeState, RunState
from agentflow.store import keys, scripts
from agentflow.store.budgets import DAY_S, Amount, Change, nano
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE
from agentflow.tasks import account
from agentflow.tasks.account import LedgerAccount

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


def allow(ledger: Ledger, scope: str, usd: float) -> None:
    ledger.grant(RUN, PROJECT, [Change(f"{scope}:usd", "set", nano(usd))])


def spend(ledger: Ledger, node: str, fence: int, usd: float, run: str = RUN) -> None:
    name = f"{node}-{usd}"
    assert ledger.reserve(run, node, fence, name, Amount(usd)).verdict == "reserved"
    assert ledger.charge(run, node, fence, name, Amount(usd)).head[0] == "charged"


# -- what each limit does -------------------------------------------------------------------------


def test_a_spent_run_is_paused_when_nothing_can_go_on_and_goes_on_when_it_is_raised(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []})
    allow(ledger, "run", 1.0)
    a, b = claim(ledger, "a"), claim(ledger, "b")
    spend(ledger, "a", a, 0.9)
    answer = ledger.reserve(RUN, "b", b, "1", Amount(0.2))
    assert (answer.verdict, answer.scope, answer.held) == ("refused", "run", False)
    ledger.requeue(RUN, "b", b, reason=answer.reason, park=True)
    assert ledger.run(RUN).state is RunState.OPEN, "a is still at work"
    ledger.settle(RUN, "a", a, NodeState.SUCCEEDED)
    run = ledger.run(RUN)
    assert run.state is RunState.PAUSED
    assert run.reason == "budget: run: $0.90 of $1.00 spent, $0.20 more wanted"
    ledger.control(RUN, "continue", "resumed")
    assert ledger.run(RUN).state is RunState.PAUSED, "nothing has changed"
    raised = ledger.grant(RUN, PROJECT, [Change("run:usd", "add", nano(0.5))])
    assert raised.woken == ("b",)
    assert ledger.run(RUN).state is RunState.OPEN
    spend(ledger, "b", claim(ledger, "b"), 0.2)
    validate_run(ledger, RUN)


def test_a_role_that_is_spent_leaves_the_others_alone(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": []}, roles={"a": "docs", "b": "docs", "c": "qa"})
    allow(ledger, "role:docs", 0.5)
    a = claim(ledger, "a")
    spend(ledger, "a", a, 0.5)
    assert refused(ledger, "b").startswith("budget: role docs: $0.50 of $0.50 spent")
    spend(ledger, "c", claim(ledger, "c"), 3)
    assert ledger.why(RUN, "b").startswith("is parked: budget: role docs")


def test_only_what_is_reserved_is_in_the_way(ledger: Ledger) -> None:
    """A refusal tells whether other calls' reservations are the cause; their charge wakes who waits."""
    open_run(ledger, {"a": [], "b": []})
    allow(ledger, "run", 1.0)
    a, b = claim(ledger, "a"), claim(ledger, "b")
    ledger.reserve(RUN, "a", a, "1", Amount(0.8))
    answer = ledger.reserve(RUN, "b", b, "1", Amount(0.5))
    assert answer.held
    parked = ledger.requeue(RUN, "b", b, reason=answer.reason, park=True)
    assert parked.head == ("requeued", "parked")
    assert not parked.woken
    assert ledger.charge(RUN, "a", a, "1", Amount(0.4)).woken == ("b",)


def test_all_or_nothing(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    ledger.grant("", PROJECT, [Change("day:tokens", "set", 10)])
    a = claim(ledger, "a")
    assert ledger.reserve(RUN, "a", a, "1", Amount(1.0, 11)).scope == "day"
    assert {p.held for p in ledger.purses(RUN).values()} == {Amount()}


def test_a_bill_that_comes_twice_counts_once(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    a = claim(ledger, "a")
    ledger.reserve(RUN, "a", a, "1", Amount(0.5, 50))
    verdicts = [ledger.charge(RUN, "a", a, "1", Amount(0.3, 30)).head[0] for _ in range(3)]
    assert verdicts == ["charged", "known", "known"]
    purses = [*ledger.purses(RUN).values(), ledger.day(PROJECT)]
    assert {(p.spent, p.held) for p in purses} == {(Amount(0.3, 30), Amount())}


def test_adding_to_a_limit_that_is_not_there_is_refused(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    changes = [Change("run:usd", "set", nano(5)), Change("run:tokens", "add", 100)]
    with pytest.raises(UsageError, match="no limit in tokens"):
        ledger.grant(RUN, PROJECT, changes)
    assert not ledger.purses(RUN)["run"].limited, "nothing is done then"


def test_a_budget_of_a_closed_run_goes_with_it(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    for node in ("a", INTEGRATE):
        ledger.settle(RUN, node, claim(ledger, node), NodeState.SUCCEEDED)
    assert ledger.close(RUN, RunState.FAILED)
    allow(ledger, "run", 5)
    assert 0 < ledger.client.ttl(keys.part(RUN, "budget")) <= keys.CLOSED_TTL_S
    assert ledger.reopen(RUN)
    assert ledger.client.ttl(keys.part(RUN, "budget")) == -1


# -- attempts that are lost ------------------------------------------------------------------------


def test_a_lost_attempt_gives_back_what_it_reserved_and_its_bill_counts_once(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    allow(ledger, "run", 1.0)
    old = claim(ledger, "a")
    ledger.reserve(RUN, "a", old, "1", Amount(0.6))
    ledger.expire(RUN, "a", old, max_losses=10)
    purse = ledger.purses(RUN)["run"]
    assert (purse.held.usd, purse.spent.usd) == (0, 0.6), "it may have been answered"
    new = claim(ledger, "a")
    assert ledger.reserve(RUN, "a", old, "2", Amount(0.1)).verdict == "superseded"
    assert ledger.charge(RUN, "a", old, "1", Amount(0.25)).head[0] == "late"
    assert ledger.charge(RUN, "a", old, "1", Amount(0.25)).head[0] == "known"
    assert ledger.purses(RUN)["run"].spent.usd == 0.25
    spend(ledger, "a", new, 0.75)
    assert ledger.unbilled(RUN) == 0


def test_a_guess_at_a_whole_attempt_counts_nothing_when_it_is_lost(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    a = claim(ledger, "a")
    ledger.reserve(RUN, "a", a, "1", Amount(5.0), counts=False)
    ledger.expire(RUN, "a", a, max_losses=10)
    assert ledger.purses(RUN)["run"].spent == Amount()


def test_an_old_attempt_cannot_go_on_spending(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    fence = claim(ledger, "a")
    mine = account_for(ledger, "a", fence)
    mine.reserve(0.1, 10)
    ledger.expire(RUN, "a", fence, max_losses=10)
    mine.pay(0.05, 5)
    assert ledger.purses(RUN)["run"].spent == Amount(0.05, 5)
    with pytest.raises(AttemptCancelled):
        mine.reserve(0.1, 10)


# -- the day ---------------------------------------------------------------------------------------


@pytest.fixture
def clock(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """The scripts' clock is the key `clock`: seconds."""
    with rewritten(lambda text: text.replace("redis.call('TIME')", "{redis.call('GET', 'clock'), '0'}")):
        yield redis_client
    redis_client.delete("clock")


def test_a_new_day_begins_anew_by_itself(ledger: Ledger, clock: redis.Redis) -> None:
    today = ledger.now_ms() // 1000 // DAY_S
    clock.set("clock", (today + 1) * DAY_S - 1)
    open_run(ledger, {"a": [], "b": []})
    ledger.grant("", PROJECT, [Change("day:usd", "set", nano(1))])
    a = claim(ledger, "a")
    spend(ledger, "a", a, 1)
    ledger.settle(RUN, "a", a, NodeState.SUCCEEDED)
    assert "budget: day: $1.00 of $1.00 spent" in refused(ledger, "b")
    assert ledger.run(RUN).state is RunState.PAUSED
    assert ledger.client.zscore("af:short", RUN) == (today + 1) * DAY_S * 1000
    clock.set("clock", (today + 1) * DAY_S)
    # The clock of the server itself still stands in the day before, so the due run is named here.
    answer = scripts.transition(ledger.client, "morning", RUN)
    assert answer.woken == ("b",)
    assert ledger.run(RUN).state is RunState.OPEN
    spend(ledger, "b", claim(ledger, "b"), 1)
    assert not ledger.client.exists("af:short")
    days = list(ledger.client.scan_iter(f"af:project:{PROJECT}:spent:*"))
    assert len(days) == 2
    assert all(0 < ledger.client.ttl(day) <= 40 * DAY_S for day in days)


def test_what_another_run_gives_back_of_the_day_wakes_who_waits(ledger: Ledger) -> None:
    ledger.grant("", PROJECT, [Change("day:usd", "set", nano(1))])
    for run in ("one", "two"):
        open_run(ledger, {"a": []}, run_id=run)
    one = claim(ledger, "a", "one")
    ledger.reserve("one", "a", one, "1", Amount(1.0))
    assert "reserved" in refused(ledger, "a", "two")
    assert ledger.run("two").state is RunState.OPEN, "it is not spent, only reserved"
    assert ledger.charge("one", "a", one, "1", Amount(0.2)).others == (("two", "a"),)


# -- near the end, and classes ----------------------------------------------------------------------


def plan_of(*nodes: PlanNode, spending: Spending) -> Plan:
    return Plan(feature="f", nodes=nodes, spending=spending)


def node(name: str, *needs: str, priority: str = "medium", complexity: str = "") -> PlanNode:
    return PlanNode(id=name, role="r", needs=needs, priority=priority, complexity=complexity)


def opened(ledger: Ledger, *nodes: PlanNode, spending: Spending) -> None:
    plan = plan_of(*nodes, spending=spending)
    open_in_ledger(ledger, RUN, plan, project=PROJECT, repo="", root="")


def test_near_the_end_what_is_important_goes_first_and_nobody_waits_for_ever(ledger: Ledger) -> None:
    """`d` leads to the critical `c`, so it is as important as that."""
    opened(
        ledger,
        node("a"), node("d"), node("c", "d", priority="critical"), node("m"), node("h", priority="high"),
        spending=Spending(limits={"run": (1.0, None)}),
    )  # fmt: skip
    a = claim(ledger, "a")
    spend(ledger, "a", a, 0.85)
    assert refused(ledger, "m") == "budget: run: less than a fifth is left, more important work goes first"
    assert "more important" in refused(ledger, "h")
    d = claim(ledger, "d")
    ledger.settle(RUN, "a", a, NodeState.SUCCEEDED)
    ledger.settle(RUN, "d", d, NodeState.SUCCEEDED)
    c = claim(ledger, "c")
    done = ledger.settle(RUN, "c", c, NodeState.SUCCEEDED)
    assert done.woken == ("h",)
    done = ledger.settle(RUN, "h", claim(ledger, "h"), NodeState.SUCCEEDED)
    assert done.woken == ("m",)
    validate_run(ledger, RUN)


def test_what_is_left_behind_goes_on_when_the_more_important_cannot(ledger: Ledger) -> None:
    opened(
        ledger,
        node("a"), PlanNode(id="c", role="dear", priority="critical"), node("m"),
        spending=Spending(limits={"run": (1.0, None), "role:dear": (0.0, None)}),
    )  # fmt: skip
    a = claim(ledger, "a")
    spend(ledger, "a", a, 0.85)
    refused(ledger, "m")
    assert ledger.settle(RUN, "a", a, NodeState.SUCCEEDED).woken == ()
    taken = ledger.claim(RUN, "c", worker="w", ttl_ms=60_000)
    assert "role dear" in taken.reason
    assert taken.answer.woken == ("m",), "nothing else moves"


def test_classes_of_complexity(ledger: Ledger) -> None:
    classes = {"high": 1, "medium": 2, "low": 0}
    names = [f"{word}{i}" for word in classes for i in range(3)]
    nodes = [node(name, complexity=name[:-1]) for name in names]
    opened(ledger, *nodes, node("plain"), spending=Spending(classes=classes))
    running = ("high0", "medium0", "medium1", "low0", "low1", "low2", "plain")
    fences = {name: claim(ledger, name) for name in running}
    assert refused(ledger, "high1") == "class: 1 of complexity high at a time"
    assert refused(ledger, "medium2") == "class: 2 of complexity medium at a time"
    assert ledger.client.hgetall(f"af:run:{RUN}:classes") == {"high": "1", "medium": "2", "low": "3"}
    done = ledger.settle(RUN, "high0", fences["high0"], NodeState.SUCCEEDED)
    assert done.woken == ("high1",), "a medium one is no high one"
    assert refused(ledger, "high2") == "class: 1 of complexity high at a time", (
        "the woken one holds its place"
    )
    claim(ledger, "high1")
    validate_run(ledger, RUN)


# -- many agents -----------------------------------------------------------------------------------

LIES = {
    "honest": None,
    "absent": "missing",
    "nothing": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "negative": {"prompt_tokens": -900, "completion_tokens": -900, "total_tokens": -1800},
    "little": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
SAYS = "I look around. " * 20


def liar() -> Script:
    turn = {"text": SAYS, "calls": [{"list": {}}]}
    replies = [
        {"name": lie, "when": [f"agent of {lie}"], "repeat": True, "turns": [{**turn, "usage": usage}]}
        for lie, usage in LIES.items()
    ]
    return Script.model_validate({"replies": replies})


def consumed(server: ScriptedServer) -> int:
    """What was really asked for and answered, in tokens of four characters, whatever the server says."""
    return sum(
        sum(len(str(m.get("content") or "")) for m in request["messages"]) // 4 + len(SAYS) // 4
        for request in server.requests
    )


def account_for(ledger: Ledger, node: str, fence: int) -> LedgerAccount:
    return LedgerAccount(
        ledger, (RUN, node, fence), whole=(None, None), stop=Stop(), deadline=1e12, send=lambda _: None
    )


def test_many_agents_against_a_model_that_lies_stay_below_the_ceiling(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "HELD_PATIENCE_S", 5.0)
    monkeypatch.setattr(account, "HELD_LOOK_S", 0.01)
    agents, ceiling = 10, 60_000
    nodes = [node(f"n{i}") for i in range(agents)]
    opened(ledger, *nodes, spending=Spending(limits={"run": (None, ceiling)}))
    fences = {n.id: claim(ledger, n.id) for n in nodes}
    seen: list[int] = []
    over = threading.Event()

    def work(index: int) -> str:
        name = f"n{index}"
        place = tmp_path / name
        place.mkdir()
        runner = {"type": "openai", "base_url": server.url, "model": "m", "max_output_tokens": 200}
        lie = list(LIES)[index % len(LIES)]
        mine = account_for(ledger, name, fences[name])
        job = make_job(place, runner, node=name, prompt=f"agent of {lie}", meter=Meter(mine))
        try:
            make_runner(runner).run(job, PlainEnvironment(job.workspace))
        except BudgetReached as error:
            return error.scope
        return ""

    def watch() -> None:
        while not over.wait(0.005):
            purse = ledger.purses(RUN)["run"]
            seen.append(purse.spent.tokens + purse.held.tokens)

    with ScriptedServer(liar(), record=True) as server:
        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(agents) as pool:
            ended = list(pool.map(work, range(agents)))
        over.set()
        watcher.join()
        truth = consumed(server)
    assert set(ended) == {"run"}, "every agent would have gone on for ever"
    assert max(seen) <= ceiling
    assert ledger.purses(RUN)["run"].held == Amount()
    spent = ledger.purses(RUN)["run"].spent.tokens
    assert truth <= spent <= ceiling
    assert spent > 0.8 * ceiling, "nobody was refused what there was"
    assert set(states(ledger).values()) == {"running", "pending"}


# -- limits of one run -----------------------------------------------------------------------------


def test_limits_of_one_run_change_while_it_runs(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": []}, roles={"a": "docs", "b": "docs", "c": "qa"})
    ledger.set_run_limit(RUN, "docs", 1)
    claim(ledger, "a")
    assert refused(ledger, "b") == "role limit: 1 docs at a time"
    claim(ledger, "c")
    assert ledger.run_limits(RUN) == {"docs": 1}
    ledger.set_run_limit(RUN, "all", 2)
    assert not ledger.set_run_limit(RUN, "docs", 2).woken, "two are at work"
    assert ledger.set_run_limit(RUN, "all", 3).woken == ("b",)
    with pytest.raises(UsageError, match="no node of the role 'design'"):
        ledger.set_run_limit(RUN, "design", 1)
    validate_run(ledger, RUN)
