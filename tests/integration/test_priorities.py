"""Where a run may have few nodes at once, the more important ones go first, however their messages arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from helpers.ledgers import RUN, open_run, states, validate_fleet, validate_run

from agentflow.states import NodeState
from agentflow.store import keys
from agentflow.store.ledger import Claim, Ledger

#: critical, high, low: each of a role, so of a queue, of its own.
PRIORITIES = {"tables": 0, "api": 1, "ui": 3}
ROLES = {"tables": "database", "api": "backend", "ui": "frontend"}


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Iterator[Ledger]:
    found = Ledger(redis_client)
    yield found
    validate_run(found)
    validate_fleet(found)


def claim(ledger: Ledger, node: str) -> Claim:
    return ledger.claim(RUN, node, worker="w1", ttl_ms=3000)


def end(ledger: Ledger, node: str, taken: Claim) -> tuple[str, ...]:
    """Settle; what is woken by it."""
    answer = ledger.settle(RUN, node, taken.fence, NodeState.SUCCEEDED)
    return answer.woken + tuple(node for _, node in answer.others)


@pytest.mark.parametrize(
    "arrival", [["ui", "api", "tables"], ["api", "ui", "tables"], ["tables", "ui", "api"]]
)
def test_one_at_a_time_goes_by_importance(ledger: Ledger, arrival: list[str]) -> None:
    open_run(ledger, dict.fromkeys(arrival, ()), roles=ROLES, priorities=PRIORITIES, max_concurrent=1)
    claims = {node: claim(ledger, node) for node in arrival}
    assert [node for node in arrival if claims[node].granted] == ["tables"]
    assert end(ledger, "tables", claims["tables"]) == ("api",)
    taken = claim(ledger, "api")
    assert taken.granted
    assert end(ledger, "api", taken) == ("ui",)
    assert claim(ledger, "ui").granted


def test_who_waits_is_told_for_whom(ledger: Ledger) -> None:
    open_run(ledger, {"ui": [], "tables": []}, roles=ROLES, priorities=PRIORITIES, max_concurrent=1)
    assert claim(ledger, "ui").reason == "priority: tables is more important and is next"
    assert "tables" in ledger.why(RUN, "ui")


def test_there_is_room_for_both(ledger: Ledger) -> None:
    open_run(ledger, {"ui": [], "tables": []}, roles=ROLES, priorities=PRIORITIES, max_concurrent=2)
    assert claim(ledger, "ui").granted
    assert claim(ledger, "tables").granted


def test_what_becomes_ready_overtakes_what_waits(ledger: Ledger) -> None:
    parents = {"first": [], "ui": [], "tables": ["first"]}
    open_run(ledger, parents, roles=ROLES, priorities=PRIORITIES, max_concurrent=1)
    first = claim(ledger, "first")
    assert claim(ledger, "ui").verdict == "parked"
    assert end(ledger, "first", first) == ()
    tables = claim(ledger, "tables")
    assert tables.granted
    assert end(ledger, "tables", tables) == ("ui",)


def test_nobody_waits_long_for_one_that_does_not_come(ledger: Ledger) -> None:
    # No worker serves the role of the important one, or its message was lost.
    open_run(ledger, {"ui": [], "tables": []}, roles=ROLES, priorities=PRIORITIES, max_concurrent=1)
    assert claim(ledger, "ui").verdict == "parked"
    assert ledger.set_capacity({"frontend": 4}).others == ()
    ledger.client.zadd(keys.part(RUN, "ready"), {"tables": ledger.now_ms() - 5000})
    assert ledger.set_capacity({"frontend": 4}).others == ((RUN, "ui"),)
    assert claim(ledger, "ui").granted
    assert states(ledger)["tables"] == "ready"


def test_equals_go_as_they_come(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": []}, max_concurrent=1)
    assert claim(ledger, "c").granted


def test_what_has_just_become_ready_goes_before_what_waits_and_matters_less(ledger: Ledger) -> None:
    # In order: child before late, though late has waited and the message of child is not there yet.
    open_run(ledger, {"first": [], "child": ["first"], "late": []}, max_concurrent=1)
    first = claim(ledger, "first")
    assert claim(ledger, "late").verdict == "parked"
    assert end(ledger, "first", first) == ()
    assert claim(ledger, "late").verdict == "refused"
    taken = claim(ledger, "child")
    assert taken.granted
    assert end(ledger, "child", taken) == ("late",)


def test_what_waits_and_matters_more_is_woken(ledger: Ledger) -> None:
    open_run(ledger, {"first": [], "early": [], "child": ["first"]}, max_concurrent=1)
    first = claim(ledger, "first")
    assert claim(ledger, "early").verdict == "parked"
    assert end(ledger, "first", first) == ("early",)
    assert claim(ledger, "child").reason == "run limit: 1 at a time"


def test_only_as_many_are_given_room_as_there_is(ledger: Ledger) -> None:
    parents = {"first": [], "c1": ["first"], "c2": ["first"], "c3": ["first"], "late": [], "other": []}
    open_run(ledger, parents, max_concurrent=2)
    first = claim(ledger, "first")
    assert claim(ledger, "other").granted
    assert claim(ledger, "late").verdict == "parked"
    assert end(ledger, "first", first) == ()
    assert claim(ledger, "c3").verdict == "parked"
    assert claim(ledger, "c2").verdict == "parked"
    assert claim(ledger, "c1").granted


def test_the_fleet_gives_its_room_to_the_more_important_one_too(ledger: Ledger) -> None:
    ledger.set_capacity({"worker": 1})
    open_run(ledger, {"first": [], "child": ["first"], "late": []})
    first = claim(ledger, "first")
    assert claim(ledger, "late").verdict == "parked"
    assert end(ledger, "first", first) == ()
    taken = claim(ledger, "child")
    assert taken.granted
    assert end(ledger, "child", taken) == ("late",)


def test_one_that_waits_for_a_lock_is_given_no_room(ledger: Ledger) -> None:
    parents = {"first": [], "holder": [], "child": ["first"], "late": []}
    open_run(ledger, parents, locks={"holder": ["src"], "child": ["src"]}, max_concurrent=2)
    first, holder = claim(ledger, "first"), claim(ledger, "holder")
    assert holder.granted
    assert claim(ledger, "late").verdict == "parked"
    assert end(ledger, "first", first) == ("late",)
    assert claim(ledger, "child").verdict == "parked"
