"""Several runs on one fleet: limits that change while they run, fair shares, locks between runs."""

from __future__ import annotations

import json

import pytest
from helpers.ledgers import open_run, states, validate_fleet, validate_run

from agentflow.errors import UsageError
from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.records import INTEGRATE

OK = NodeState.SUCCEEDED
THREE: dict[str, list[str]] = {"a": [], "b": [], "c": []}


@pytest.fixture
def ledger(redis_client):
    found = Ledger(redis_client)
    yield found
    for run_id in found.open_runs():
        validate_run(found, run_id)
    validate_fleet(found)


def claim(ledger: Ledger, run: str, node: str) -> Claim:
    return ledger.claim(run, node, worker="w1", ttl_ms=3000)


def settle(ledger: Ledger, run: str, node: str, taken: Claim, state: NodeState = OK):
    return ledger.settle(run, node, taken.fence, state)


def finish(ledger: Ledger, run: str, state: RunState = RunState.READY_TO_LAND):
    """End a run whose nodes have all been claimed and settled."""
    settle(ledger, run, INTEGRATE, claim(ledger, run, INTEGRATE))
    return ledger.close(run, state)


# -- limits ----------------------------------------------------------------------------------------


def test_a_limit_of_the_fleet_holds_over_all_runs_and_a_slot_goes_to_another_run(ledger):
    ledger.set_limit("fleet", 1)
    open_run(ledger, THREE, run_id="one")
    open_run(ledger, THREE, run_id="two")
    first = claim(ledger, "one", "a")
    parked = claim(ledger, "two", "a")
    assert parked.reason == "fleet limit: 1 slots of the fleet are taken"
    assert ledger.why("two", "a") == "is parked: fleet limit: 1 slots of the fleet are taken"
    answer = settle(ledger, "one", "a", first)
    assert (answer.woken, answer.others) == ((), (("two", "a"),))


def test_a_woken_node_holds_its_room(ledger):
    ledger.set_limit("fleet", 1)
    open_run(ledger, THREE, run_id="one")
    first = claim(ledger, "one", "a")
    claim(ledger, "one", "b")
    assert settle(ledger, "one", "a", first).woken == ("b",)
    assert not claim(ledger, "one", "c").granted
    assert claim(ledger, "one", "b").granted


def test_raising_a_limit_wakes_in_every_run_at_once(ledger):
    ledger.set_limit("fleet", 1)
    for run in ("one", "two"):
        open_run(ledger, THREE, run_id=run)
    running = claim(ledger, "one", "a")
    for run, node in (("one", "b"), ("one", "c"), ("two", "a"), ("two", "b")):
        claim(ledger, run, node)
    assert ledger.set_limit("fleet", 3).others == (("two", "a"), ("one", "b"))
    assert set(ledger.set_limit("fleet", 0).others) == {("two", "b"), ("one", "c")}
    assert settle(ledger, "one", "a", running).head[0] == "settled"


def test_lowering_a_limit_ends_nothing_and_holds_from_then_on(ledger):
    open_run(ledger, THREE, run_id="one")
    a, b = claim(ledger, "one", "a"), claim(ledger, "one", "b")
    ledger.set_limit("fleet", 1)
    assert claim(ledger, "one", "c").verdict == "parked"
    assert settle(ledger, "one", "a", a).woken == ()
    assert settle(ledger, "one", "b", b).woken == ("c",)


def test_a_limit_of_a_role_holds_over_all_runs_in_place_of_the_runs_own(ledger):
    ledger.set_limit("role:tester", 2)
    roles = {"a": "tester", "b": "tester"}
    for run in ("one", "two"):
        open_run(ledger, THREE, run_id=run, roles=roles, role_limit=1)
    first = claim(ledger, "one", "a")
    assert claim(ledger, "one", "b").granted, "the run's own limit for the role is 1"
    refused = claim(ledger, "two", "a")
    assert refused.reason == "role limit: 2 slots for tester in the fleet are taken"
    assert claim(ledger, "two", "c").granted, "another role is not concerned"
    assert settle(ledger, "one", "a", first).others == (("two", "a"),)


def test_a_limit_of_a_role_wakes_what_the_runs_own_limit_held_back(ledger):
    """In the fairest order, and no more than the run itself may have."""
    for run, most in (("one", 0), ("two", 2)):
        open_run(ledger, THREE, run_id=run, role_limit=1, max_concurrent=most)
        assert claim(ledger, run, "a").granted
        for node in ("b", "c"):
            assert claim(ledger, run, node).reason == "role limit: 1 worker at a time"
    answer = ledger.set_limit("role:worker", 10)
    assert set(answer.others) == {("one", "b"), ("one", "c"), ("two", "b")}


def test_a_thousand_nodes_that_wait_for_one_lock_keep_nobody_waiting(ledger, redis_client):
    """Redis serves nobody else while a script runs: it is counted in what the server does for it."""
    nodes = [f"n{i}" for i in range(1000)]
    open_run(ledger, {n: [] for n in nodes}, run_id="one", locks={n: ["src"] for n in nodes})
    first = claim(ledger, "one", "n0")
    for node in nodes[1:]:
        claim(ledger, "one", node)
    redis_client.config_resetstat()
    assert settle(ledger, "one", "n0", first).woken == ("n1",)
    calls = sum(stat["calls"] for stat in redis_client.info("commandstats").values())
    assert calls < 3 * len(nodes)


def test_a_node_that_waited_for_a_lock_waits_for_room_next_and_is_not_forgotten(ledger):
    ledger.set_limit("fleet", 2)
    open_run(ledger, {"a": [], "b": []}, run_id="one", locks={"a": ["src"], "b": ["src"]})
    open_run(ledger, THREE, run_id="two")
    holder = claim(ledger, "one", "a")
    assert claim(ledger, "one", "b").reason == "lock: src is held for a"
    running = claim(ledger, "two", "a")
    claim(ledger, "two", "b")
    claim(ledger, "two", "c")
    # The slot that is free now could go to either; both runs wait, and "one" has nothing in flight.
    assert settle(ledger, "one", "a", holder).woken == ("b",)
    assert settle(ledger, "two", "a", running).woken == ("b",)


def test_limits_are_named_counted_and_taken_away(ledger):
    ledger.default_limits({"fleet": 8, "role:tester": 0})
    assert ledger.limits() == {"fleet": 8}
    ledger.set_limit("fleet", 0)
    ledger.default_limits({"fleet": 8})
    assert ledger.limits() == {}, "what an operator took away does not come back with the next worker"
    for name, slots in (("slots", 3), ("role:", 3), ("fleet", -1)):
        with pytest.raises(UsageError):
            ledger.set_limit(name, slots)


# -- fair shares -----------------------------------------------------------------------------------


def test_a_run_above_its_share_leaves_the_last_free_slot_to_a_run_that_has_less(ledger):
    ledger.set_capacity({"worker": 3})
    open_run(ledger, {f"n{i}": [] for i in range(4)}, run_id="one")
    one = [claim(ledger, "one", "n0"), claim(ledger, "one", "n1")]
    open_run(ledger, {"a": []}, run_id="two")
    refused = claim(ledger, "one", "n2")
    assert refused.reason == "fair share: run two has fewer nodes at work and is next"
    two = claim(ledger, "two", "a")
    assert two.granted
    assert two.answer.others == (), "the fleet is full"
    assert settle(ledger, "one", "n0", one[0]).woken == ("n2",)


def test_while_there_are_slots_for_everybody_nobody_is_refused(ledger):
    ledger.set_capacity({"worker": 4})
    open_run(ledger, THREE, run_id="one")
    claim(ledger, "one", "a")
    open_run(ledger, {"a": []}, run_id="two")
    assert claim(ledger, "one", "b").granted
    assert claim(ledger, "two", "a").granted
    assert claim(ledger, "one", "c").granted


def test_a_run_whose_turn_it_was_goes_on_when_the_other_has_what_it_wants(ledger):
    ledger.set_capacity({"worker": 3})
    open_run(ledger, THREE, run_id="one")
    claim(ledger, "one", "a")
    open_run(ledger, THREE, run_id="two", max_concurrent=1)
    open_run(ledger, {"x": []}, run_id="three")
    assert claim(ledger, "one", "b").reason.startswith("fair share")
    assert claim(ledger, "two", "a").granted
    # What "two" still has ready is above its own limit, so nobody else is kept waiting for it.
    assert claim(ledger, "three", "x").granted
    assert claim(ledger, "two", "b").reason == "run limit: 1 at a time"


def test_another_queue_is_not_waited_for(ledger):
    ledger.set_capacity({"worker": 2, "docs": 2})
    open_run(ledger, THREE, run_id="one")
    claim(ledger, "one", "a")
    open_run(ledger, THREE, run_id="two", queues=dict.fromkeys("abc", "docs"))
    assert claim(ledger, "one", "b").granted, "its worker has nothing to do with the queue docs"


def test_what_is_woken_goes_round(ledger):
    ledger.set_limit("fleet", 1)
    for run in ("one", "two", "three"):
        open_run(ledger, THREE, run_id=run)
    taken = claim(ledger, "one", "a")
    for run in ("one", "two", "three"):
        for node in THREE:
            if (run, node) != ("one", "a"):
                claim(ledger, run, node)
    turn, order = ("one", "a"), []
    for _ in range(8):
        answer = settle(ledger, *turn, taken)
        (turn,) = [*((turn[0], n) for n in answer.woken), *answer.others]
        order.append(turn[0])
        taken = claim(ledger, *turn)
    assert {frozenset(order[i : i + 3]) for i in (0, 3)} == {frozenset({"one", "two", "three"})}


def test_claims_above_the_slots_of_the_workers_wait_for_their_turn(ledger):
    ledger.set_capacity({"worker": 1})
    open_run(ledger, THREE, run_id="one")
    first = claim(ledger, "one", "a")
    assert claim(ledger, "one", "b").reason == "fleet: all 1 slots for the queue worker are taken"
    assert ledger.waiting() == {"worker": 1}
    assert settle(ledger, "one", "a", first).woken == ("b",)
    assert ledger.waiting() == {}
    assert claim(ledger, "one", "c").verdict == "parked"
    assert ledger.set_capacity({"worker": 2}).others == (("one", "c"),)


def test_a_cancelled_run_gives_its_place_to_the_others(ledger):
    ledger.set_capacity({"worker": 2})
    open_run(ledger, THREE, run_id="one")
    claim(ledger, "one", "a")
    open_run(ledger, THREE, run_id="two")
    assert claim(ledger, "one", "b").verdict == "parked"
    _, answer = ledger.control("two", "cancel")
    assert answer.others == (("one", "b"),)


# -- queues ----------------------------------------------------------------------------------------


def register(ledger: Ledger, name: str, queues: str, *, every: bool = False) -> None:
    Fleet(ledger.client).register(
        name, pid=1, host="h", slots=2, roles=[], queues=queues.split(), every=every, busy=0,
        now_ms=ledger.now_ms(),
    )  # fmt: skip


def test_a_queue_that_nobody_consumes_is_named(ledger):
    open_run(ledger, {"a": [], "b": []}, run_id="one", queues={"b": "special"})
    assert ledger.unserved_of("one") == ["special", "worker"]
    register(ledger, "w1", "worker")
    assert ledger.unserved(["worker", "special"]) == ["special"]
    assert ledger.why("one", "a") == "is ready; waits for a free slot of a worker that serves role worker"
    assert "no worker consumes the queue special (role worker)" in ledger.why("one", "b")
    register(ledger, "w2", "", every=True)
    assert ledger.unserved_of("one") == []
    assert ledger.why("one", "b").endswith("that serves role worker through the queue special")
    Fleet(ledger.client).forget("w2")
    assert [w.name for w in ledger.workers()] == ["w1"]


def test_nodes_that_nobody_can_take_any_more_give_their_room_back(ledger):
    ledger.set_limit("fleet", 1)
    ledger.set_capacity({"worker": 1, "docs": 1})
    open_run(ledger, {"a": [], "b": []}, run_id="one", queues={"a": "docs", "b": "docs"})
    open_run(ledger, THREE, run_id="two")
    first = claim(ledger, "one", "a")
    claim(ledger, "one", "b")
    assert settle(ledger, "one", "a", first).woken == ("b",)
    assert claim(ledger, "two", "a").verdict == "parked"
    assert ledger.set_capacity({"worker": 1}).others == (("two", "a"),)
    assert ledger.why("one", "b") == "is parked: fleet: no worker consumes the queue docs"
    taken = claim(ledger, "two", "a")
    ledger.set_capacity({"worker": 1, "docs": 1})
    assert settle(ledger, "two", "a", taken).others == (("one", "b"),)


# -- locks between runs ----------------------------------------------------------------------------


def test_an_exclusive_run_waits_for_the_one_that_holds_its_paths(ledger):
    for run, path in (("one", "src/auth"), ("two", "src"), ("three", "docs")):
        open_run(ledger, {"a": []}, run_id=run, exclusive=[path])
    one = claim(ledger, "one", "a")
    assert one.granted
    assert claim(ledger, "two", "a").reason == "exclusive: src is held by run one"
    assert claim(ledger, "three", "a").granted
    settle(ledger, "one", "a", one)
    assert finish(ledger, "one").others == (), "kept until it lands"
    landed = ledger.close("one", RunState.LANDED)
    assert landed is not None
    assert landed.others == (("two", "a"),)
    assert claim(ledger, "two", "a").granted


def test_exclusive_runs_begin_in_the_order_in_which_they_came(ledger):
    for run, paths in (
        ("one", ["src/a"]),
        ("two", ["src/a", "src/b"]),
        ("three", ["src/b"]),
        ("four", ["docs"]),
    ):
        open_run(ledger, {"a": []}, run_id=run, exclusive=paths)
    one = claim(ledger, "one", "a")
    assert claim(ledger, "three", "a").reason == "exclusive: src/b is next for run two"
    assert claim(ledger, "four", "a").granted, "who touches nobody passes"
    claim(ledger, "two", "a")
    settle(ledger, "one", "a", one, NodeState.FAILED)
    assert finish(ledger, "one", RunState.FAILED).others == (("two", "a"),)
    assert not claim(ledger, "three", "a").granted


def test_a_run_that_ends_before_it_began_lets_the_next_one_pass(ledger):
    for run in ("one", "two"):
        open_run(ledger, {"a": []}, run_id=run, exclusive=["src"])
    assert claim(ledger, "two", "a").reason == "exclusive: src is next for run one"
    _, answer = ledger.control("one", "cancel")
    assert answer.others == (("two", "a"),)


def test_a_run_that_nobody_lands_gives_back_after_an_hour(ledger, monkeypatch):
    monkeypatch.setattr(keys, "HOLD_MS", 0)
    for run in ("one", "two"):
        open_run(ledger, {"a": []}, run_id=run, exclusive=["src"])
    settle(ledger, "one", "a", claim(ledger, "one", "a"))
    claim(ledger, "two", "a")
    assert ledger.overdue() == []
    finish(ledger, "one")
    assert ledger.overdue() == ["one"]
    assert ledger.release("one").others == (("two", "a"),)
    assert ledger.overdue() == []


def test_an_exclusive_run_that_is_opened_again_stands_in_line_again(ledger):
    for run in ("one", "two"):
        open_run(ledger, {"a": []}, run_id=run, exclusive=["src"])
    settle(ledger, "one", "a", claim(ledger, "one", "a"), NodeState.FAILED)
    finish(ledger, "one", RunState.FAILED)
    two = claim(ledger, "two", "a")
    assert two.granted
    assert ledger.reopen("one") is not None
    assert claim(ledger, "one", "a").reason == "exclusive: src is held by run two"
    settle(ledger, "two", "a", two)
    finish(ledger, "two")
    assert ledger.close("two", RunState.LANDED).others == (("one", "a"),)


def test_runs_of_other_projects_and_ordinary_ones_are_not_concerned(ledger):
    open_run(ledger, {"a": []}, run_id="one", exclusive=["src"])
    open_run(ledger, {"a": []}, run_id="two", locks={"a": ["src"]})
    assert claim(ledger, "one", "a").granted
    assert claim(ledger, "two", "a").granted


def test_nothing_of_an_exclusive_run_is_left_when_it_is_removed(ledger, redis_client):
    open_run(ledger, {"a": []}, run_id="one", exclusive=["src"])
    settle(ledger, "one", "a", claim(ledger, "one", "a"))
    finish(ledger, "one")
    ledger.forget("one")
    left = {key for key in redis_client.scan_iter("af:*") if not key.startswith(keys.DURATIONS)}
    assert left <= keys.PERMANENT


# -- the list of what happened ---------------------------------------------------------------------


def test_every_transition_and_announcement_is_on_the_list(ledger, redis_client):
    open_run(ledger, {"a": []}, run_id="one")
    ledger.announce("fleet.scaled", slots=40, status="scaled")
    settle(ledger, "one", "a", claim(ledger, "one", "a"), NodeState.FAILED)
    found = [json.loads(entry) for entry in redis_client.lrange("system_events", 0, -1)]
    assert found == ledger.system_events()
    kinds = [entry["kind"] for entry in found]
    assert kinds == ["node.ready", "node.settled", "node.started", "fleet.scaled", "run.opened"]
    assert {key: found[1][key] for key in ("run", "node", "state", "attempt", "reason")} == {
        "run": "one", "node": "a", "state": "failed", "attempt": 1, "reason": "",
    }  # fmt: skip
    assert (found[3]["slots"], found[3]["status"]) == (40, "scaled")
    assert all(isinstance(entry["at"], int) for entry in found)


def test_the_list_keeps_the_newest_thousand(ledger, redis_client):
    for number in range(keys.SYSTEM_EVENTS_MAX + 5):
        redis_client.lpush(keys.SYSTEM_EVENTS, json.dumps({"n": number}))
    open_run(ledger, {"a": []}, run_id="one")
    claim(ledger, "one", "a")
    assert redis_client.llen(keys.SYSTEM_EVENTS) == keys.SYSTEM_EVENTS_MAX
    assert ledger.system_events(1)[0]["kind"] == "node.started"


def test_a_long_reason_is_cut_between_two_characters(ledger):
    open_run(ledger, {"a": []}, run_id="one")
    taken = claim(ledger, "one", "a")
    ledger.settle("one", "a", taken.fence, NodeState.FAILED, reason="x" + "ü" * 900)
    assert ledger.system_events(2)[1]["reason"] == "x" + "ü" * 299
    assert states(ledger, "one")["a"] == "failed"


def test_an_older_layout_is_taken_over_only_when_nobody_uses_it(ledger, redis_client):
    fleet = Fleet(redis_client)
    redis_client.set(keys.SCHEMA, "1")
    open_run(ledger, {"a": []}, run_id="one")
    assert fleet.agree_on_schema() == "1"
    settle(ledger, "one", "a", claim(ledger, "one", "a"))
    finish(ledger, "one")
    assert fleet.agree_on_schema() == keys.SCHEMA_VERSION
    redis_client.set(keys.SCHEMA, "99")
    assert fleet.agree_on_schema() == "99"


def test_an_exclusive_run_that_never_had_to_begin_leaves_the_line_with_its_end(ledger):
    open_run(ledger, {"a": []}, run_id="one", exclusive=["src"], optional=["a"])
    ledger.cancel_role("one", "worker", "not needed")
    assert finish(ledger, "one")
    assert not ledger.client.exists(keys.project_line("p"))
