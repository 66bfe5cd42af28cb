"""Circuit breakers: what fails again and again stands still, is tried, and goes on when that succeeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from helpers.broken_scripts import broken, rewritten
from helpers.ledgers import open_run, states
from helpers.redis_server import RedisServer
from helpers.simulation.clock import BEGIN_US, SimulatedRedis, in_simulation

from agentflow.config.rates import BreakerSettings
from agentflow.errors import BudgetReached
from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.breakers import Breakers
from agentflow.store.governor import Call, Governor
from agentflow.store.ledger import Ledger

ROLE = "role:worker"
COOL_S = 60


@pytest.fixture
def clock(redis_server: RedisServer) -> Iterator[SimulatedRedis]:
    with (
        SimulatedRedis.from_url(redis_server.client_url, decode_responses=True) as client,
        rewritten(in_simulation),
    ):
        client.flushall()
        client.now_us = BEGIN_US
        yield client


@pytest.fixture
def ledger(clock: SimulatedRedis) -> Ledger:
    return Ledger(clock)


@pytest.fixture
def breakers(clock: SimulatedRedis) -> Breakers:
    found = Breakers(clock)
    found.configure(BreakerSettings(role=3, run=0, cool_down=COOL_S))
    return found


def forward(clock: SimulatedRedis, seconds: float) -> None:
    clock.now_us = clock.now_us + int(seconds * 1e6)


def attempt(ledger: Ledger, node: str, state: NodeState, run: str = "run-1", **facts: str) -> None:
    claim = ledger.claim(run, node, worker="w", ttl_ms=60_000)
    assert claim.granted, claim.reason
    reason = "it broke" if state == NodeState.FAILED else ""
    ledger.settle(run, node, claim.fence, state, reason=reason, facts=facts)


def fail(ledger: Ledger, *nodes: str) -> None:
    for node in nodes:
        attempt(ledger, node, NodeState.FAILED)


def kinds(ledger: Ledger) -> list[str]:
    entries = ledger.client.lrange(keys.SYSTEM_EVENTS, 0, -1)
    found = [json.loads(entry)["kind"] for entry in reversed(entries)]
    return [kind for kind in found if kind.startswith("breaker")]


def refusal(ledger: Ledger, node: str) -> str:
    claim = ledger.claim("run-1", node, worker="w", ttl_ms=60_000)
    assert not claim.granted
    return claim.reason


def wide(ledger: Ledger, count: int = 8) -> list[str]:
    nodes = [f"n{i}" for i in range(count)]
    open_run(ledger, {node: [] for node in nodes})
    return nodes


@pytest.mark.usefixtures("breakers")
def test_failures_in_a_row_pause_the_role_with_an_alert(ledger: Ledger) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:2])
    assert not ledger.pauses()
    fail(ledger, nodes[2])
    assert "breaker: 3 of its nodes failed in a row" in refusal(ledger, nodes[3])
    assert "breaker: 3 of its nodes failed" in ledger.why("run-1", nodes[3])
    assert ledger.pauses()[ROLE].reason.endswith("the last: it broke")
    assert kinds(ledger) == ["breaker.opened"]


@pytest.mark.usefixtures("breakers")
def test_a_success_in_between_begins_the_count_anew(ledger: Ledger) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:2])
    attempt(ledger, nodes[2], NodeState.SUCCEEDED)
    fail(ledger, *nodes[3:5])
    assert not ledger.pauses()


def test_it_counts_over_all_runs(ledger: Ledger, breakers: Breakers) -> None:
    wide(ledger)
    open_run(ledger, {"a": [], "b": []}, run_id="two")
    fail(ledger, "n0", "n1")
    attempt(ledger, "a", NodeState.FAILED, "two")
    assert ROLE in ledger.pauses()
    assert not ledger.claim("two", "b", worker="w", ttl_ms=1000).granted
    assert breakers.trials().others == ()


def test_after_the_cool_down_one_is_tried_and_its_success_lets_all_go(
    clock: SimulatedRedis, ledger: Ledger, breakers: Breakers
) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:3])
    for node in nodes[3:]:
        refusal(ledger, node)
    assert not breakers.trials().others, "it has not cooled down"
    forward(clock, COOL_S + 1)
    (trial,) = breakers.trials().others
    assert not breakers.trials().others, "one at a time"
    assert refusal_of_others(ledger, nodes[3:], trial[1])
    claim = ledger.claim(*trial, worker="w", ttl_ms=60_000)
    assert claim.granted
    answer = ledger.settle(*trial, claim.fence, NodeState.SUCCEEDED)
    assert set(answer.woken) == set(nodes[3:]) - {trial[1]}
    assert not ledger.pauses()
    assert kinds(ledger) == ["breaker.opened", "breaker.trial", "breaker.closed"]


def refusal_of_others(ledger: Ledger, nodes: list[str], trial: str) -> bool:
    return all(states(ledger)[node] == "parked" for node in nodes if node != trial)


def test_a_trial_that_fails_opens_it_for_twice_as_long(
    clock: SimulatedRedis, ledger: Ledger, breakers: Breakers
) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:3])
    for node in nodes[3:]:
        refusal(ledger, node)
    forward(clock, COOL_S + 1)
    ((_, trial),) = breakers.trials().others
    fail(ledger, trial)
    forward(clock, COOL_S + 1)
    assert not breakers.trials().others
    forward(clock, COOL_S)
    assert len(breakers.trials().others) == 1
    assert "one is tried after 120 s" in ledger.pauses()[ROLE].reason


def test_a_node_whose_own_budget_was_too_small_says_nothing_of_its_role_or_run(
    ledger: Ledger, breakers: Breakers
) -> None:
    breakers.configure(BreakerSettings(role=3, run=3, cool_down=COOL_S))
    nodes = wide(ledger)
    for node in nodes[:4]:
        attempt(ledger, node, NodeState.FAILED, code=BudgetReached.code)
    assert not ledger.pauses()
    assert ledger.run("run-1").state is RunState.OPEN
    fail(ledger, *nodes[4:7])
    assert ROLE in ledger.pauses()


def test_a_node_whose_budget_was_too_small_is_done_again_and_takes_no_others_failure_away(
    ledger: Ledger, breakers: Breakers
) -> None:
    breakers.configure(BreakerSettings(role=0, run=2, cool_down=COOL_S))
    nodes = wide(ledger)
    fail(ledger, nodes[0])
    attempt(ledger, nodes[1], NodeState.FAILED, code=BudgetReached.code)
    assert ledger.retry("run-1", nodes[1]).head[0] == "again"
    fail(ledger, nodes[2])
    assert ledger.run("run-1").state is RunState.PAUSED


@pytest.mark.usefixtures("breakers")
def test_work_that_is_used_again_says_nothing_of_its_role(ledger: Ledger) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:2])
    attempt(ledger, nodes[2], NodeState.SUCCEEDED, reused="run-0/n2")
    fail(ledger, nodes[3])
    assert ROLE in ledger.pauses(), "three in a row, whatever was found meanwhile"


@pytest.mark.parametrize("ending", [{"code": BudgetReached.code}, {"reused": "run-0/n3"}])
def test_a_trial_that_says_nothing_makes_room_for_another(
    clock: SimulatedRedis, ledger: Ledger, breakers: Breakers, ending: dict[str, str]
) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:3])
    for node in nodes[3:]:
        refusal(ledger, node)
    forward(clock, COOL_S + 1)
    assert breakers.trials().others == (("run-1", nodes[3]),)
    attempt(ledger, nodes[3], NodeState.FAILED if "code" in ending else NodeState.SUCCEEDED, **ending)
    assert ROLE in ledger.pauses()
    assert breakers.trials().others == (("run-1", nodes[4]),)


def test_a_trial_whose_run_is_cancelled_makes_room_for_another(
    clock: SimulatedRedis, ledger: Ledger, breakers: Breakers
) -> None:
    nodes = wide(ledger)
    open_run(ledger, {"other": []}, run_id="two")
    fail(ledger, *nodes[:3])
    for node in nodes[3:]:
        refusal(ledger, node)
    ledger.claim("two", "other", worker="w", ttl_ms=1000)
    forward(clock, COOL_S + 1)
    ((first, _),) = breakers.trials().others
    ledger.control(first, "cancel", "x")
    ((second, _),) = breakers.trials().others
    assert {first, second} == {"run-1", "two"}


def test_an_operator_may_end_it_and_the_count_begins_anew(ledger: Ledger, breakers: Breakers) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:3])
    refusal(ledger, nodes[3])
    answer = ledger.unpause(ROLE)
    assert answer
    assert answer.others == (("run-1", nodes[3]),)
    fail(ledger, *nodes[3:5])
    assert not ledger.pauses()
    fail(ledger, nodes[5])
    assert ROLE in ledger.pauses()
    assert not breakers.trials().others


@pytest.mark.usefixtures("breakers")
def test_an_operators_own_pause_is_left_alone(ledger: Ledger) -> None:
    nodes = wide(ledger)
    claims = {node: ledger.claim("run-1", node, worker="w", ttl_ms=60_000) for node in nodes[:4]}
    ledger.pause(ROLE, "maintenance")
    for node, claim in list(claims.items())[:3]:
        ledger.settle("run-1", node, claim.fence, NodeState.FAILED, reason="it broke")
    assert ledger.pauses()[ROLE].reason == "maintenance"
    ledger.settle("run-1", nodes[3], claims[nodes[3]].fence, NodeState.SUCCEEDED)
    assert ledger.pauses()[ROLE].reason == "maintenance"


def test_an_operators_pause_takes_the_place_of_a_breakers(
    clock: SimulatedRedis, ledger: Ledger, breakers: Breakers
) -> None:
    nodes = wide(ledger)
    running = ledger.claim("run-1", nodes[4], worker="w", ttl_ms=60_000)
    fail(ledger, *nodes[:3])
    refusal(ledger, nodes[3])
    assert ledger.pause(ROLE, "maintenance")
    assert not ledger.pause(ROLE, "again")
    forward(clock, COOL_S + 1)
    assert not breakers.trials().others
    ledger.settle("run-1", nodes[4], running.fence, NodeState.SUCCEEDED)
    assert ledger.pauses()[ROLE].reason == "maintenance"
    answer = ledger.unpause(ROLE)
    assert answer
    assert answer.others == (("run-1", nodes[3]),)


def test_a_trial_that_fails_leaves_an_operators_pause_alone(
    clock: SimulatedRedis, ledger: Ledger, breakers: Breakers
) -> None:
    nodes = wide(ledger)
    fail(ledger, *nodes[:3])
    refusal(ledger, nodes[3])
    forward(clock, COOL_S + 1)
    assert breakers.trials().others == (("run-1", nodes[3]),)
    running = ledger.claim("run-1", nodes[3], worker="w", ttl_ms=60_000)
    ledger.pause(ROLE, "maintenance")
    ledger.settle("run-1", nodes[3], running.fence, NodeState.FAILED, reason="it broke")
    assert ledger.pauses()[ROLE].reason == "maintenance"


def test_a_trial_is_one_that_could_start(clock: SimulatedRedis, ledger: Ledger, breakers: Breakers) -> None:
    """Of those that stand still for want of room none is tried, and not all are looked at for each."""
    nodes = wide(ledger, 60)
    holders = [ledger.claim("run-1", node, worker="w", ttl_ms=60_000) for node in nodes[3:5]]
    fail(ledger, *nodes[:3])
    for node in nodes[5:]:
        refusal(ledger, node)
    ledger.set_limit("fleet", 2)
    forward(clock, COOL_S + 1)
    before = commands(ledger)
    assert not breakers.trials().others
    assert commands(ledger) - before < 60 * 40
    freed = ledger.requeue("run-1", nodes[3], holders[0].fence, reason="red", delay_ms=60_000)
    assert len({*freed.woken, *(node for _, node in breakers.trials().others)}) == 1, (
        "now there is room for one"
    )


def commands(ledger: Ledger) -> int:
    """Commands that the server has done, those of scripts included."""
    return sum(int(one["calls"]) for one in cast("Any", ledger.client.info("commandstats")).values())


def test_a_ledger_that_nobody_has_told_has_no_breaker(ledger: Ledger) -> None:
    nodes = wide(ledger, 12)
    fail(ledger, *nodes)
    assert not ledger.pauses()
    assert not ledger.client.exists(keys.BREAKERS)


def test_a_run_of_failures_pauses_the_run_and_goes_on_by_itself(
    clock: SimulatedRedis, ledger: Ledger, breakers: Breakers
) -> None:
    breakers.configure(BreakerSettings(role=0, run=2, cool_down=COOL_S))
    nodes = wide(ledger)
    fail(ledger, *nodes[:2])
    assert ledger.run("run-1").state is RunState.PAUSED
    assert "breaker: 2 of its nodes failed" in refusal(ledger, nodes[2])
    forward(clock, COOL_S + 1)
    assert (("run-1", nodes[2])) in breakers.trials().others
    assert ledger.run("run-1").state is RunState.OPEN
    fail(ledger, nodes[3])
    assert ledger.run("run-1").state is RunState.PAUSED, "half open: one more failure is enough"
    assert "after 120 s" in ledger.run("run-1").reason


# -- a provider's ------------------------------------------------------------------------------------


def call_of(node: str) -> Call:
    return Call(("at:host/model",), node=node, fence=1)


def ask(governor: Governor, node: str) -> str:
    return governor.enter(call_of(node), 10, bound_ms=60_000).verdict


def outage(governor: Governor, node: str) -> int:
    return governor.failed(call_of(node), "HTTP 500", threshold=3, cool_down_ms=COOL_S * 1000)


def test_a_provider_that_fails_in_a_row_is_left_alone_and_tried(clock: SimulatedRedis) -> None:
    governor = Governor(clock)
    assert [outage(governor, f"n{i}") for i in range(3)] == [0, 0, COOL_S * 1000]
    refused = governor.enter(call_of("n5"), 10, patience_ms=5000, bound_ms=60_000)
    assert refused.verdict == "later"
    assert refused.reason == "provider: breaker: host/model failed 3 times in a row: HTTP 500"
    assert outage(governor, "n6") > 0, "what was under way says nothing new"
    forward(clock, COOL_S + 1)
    assert ask(governor, "n5") == "granted"
    assert ask(governor, "n7") == "wait", "one call decides"
    assert outage(governor, "n5") == 2 * COOL_S * 1000
    forward(clock, 2 * COOL_S + 1)
    assert ask(governor, "n7") == "granted"
    governor.leave(call_of("n7"), 10, took_ms=5, answered=True)
    assert [ask(governor, f"n{i}") for i in range(3)] == ["granted"] * 3


def test_an_answer_in_between_begins_a_providers_count_anew(clock: SimulatedRedis) -> None:
    governor = Governor(clock)
    outage(governor, "a"), outage(governor, "b")
    assert ask(governor, "c") == "granted"
    governor.leave(call_of("c"), 10, took_ms=5, answered=True)
    assert [outage(governor, "d"), outage(governor, "e")] == [0, 0]


@pytest.mark.parametrize(
    ("old", "new", "test"),
    [
        ("not paused_by and fails >= most", "false", test_failures_in_a_row_pause_the_role_with_an_alert),
        ("note_success(n[3]) end", "end", test_a_success_in_between_begins_the_count_anew),
    ],
)
@pytest.mark.usefixtures("breakers")
def test_a_broken_breaker_is_found(ledger: Ledger, old: str, new: str, test: object) -> None:
    with broken(old, new), pytest.raises(AssertionError):
        test(ledger)  # type: ignore[operator]
