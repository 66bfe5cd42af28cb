"""A ledger that lost data, put right again: by the scripts alone, without workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from helpers.ledgers import RUN, open_run, states
from helpers.wait import wait_until

from agentflow.states import NodeState, RunState
from agentflow.store import keys, restoring
from agentflow.store.ledger import Ledger, NodeSpec
from agentflow.store.records import INTEGRATE
from agentflow.store.validation import validate_fleet, validate_run

Facts = dict[str, dict[str, Any]]
SPECS = [
    NodeSpec("a", "worker", (), ("b",), locks=("src",)),
    NodeSpec("b", "worker", ("a",), (INTEGRATE,)),
    NodeSpec("x", "worker", (), (INTEGRATE,)),
    NodeSpec(INTEGRATE, INTEGRATE, ("b", "x"), (), tolerant=True, queue="agentflow.system"),
]


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    found = Ledger(redis_client)
    open_run(found, {"a": [], "b": ["a"], "x": []}, locks={"a": ["src"]})
    return found


def do(ledger: Ledger, node: str, commit: str = "c" * 40) -> int:
    taken = ledger.claim(RUN, node, worker="w", ttl_ms=60_000)
    assert taken.granted
    usage = {"usage": json.dumps({"calls": 2, "cost_usd": 0.5})}
    ledger.settle(
        RUN, node, taken.fence, NodeState.SUCCEEDED, commit=commit, paths=["src/a"], facts=usage, text="told"
    )
    return taken.fence


def facts(ledger: Ledger, *nodes: str) -> Facts:
    return restoring.node_facts(ledger.client, RUN, nodes)


def sound(ledger: Ledger) -> None:
    assert not list(validate_run(ledger, RUN) or [])
    assert not list(validate_fleet(ledger) or [])


def plant(ledger: Ledger, kept: Facts, **more: Any) -> None:
    run = restoring.run_facts(ledger.client, RUN)
    ledger.client.flushall()
    restoring.plant(ledger, run, SPECS, "{}", nodes=kept, **{"generation": 1, "closing": {}} | more)


def test_a_run_is_planted_again_and_goes_on_from_what_was_settled(ledger: Ledger) -> None:
    old = do(ledger, "a")
    late = ledger.claim(RUN, "b", worker="w", ttl_ms=60_000)
    kept = facts(ledger, "a", "b")
    plant(ledger, kept, generation=3)
    assert ledger.run(RUN).state is RunState.FAILED
    assert set(states(ledger).values()) == {"cancelled"}
    assert all(ledger.client.ttl(key) > 0 for key in ledger.client.scan_iter(f"{keys.run(RUN)}*"))
    count, _ = restoring.adopt(ledger, RUN, {"a": kept["a"]}, {}, generation=3)
    assert count == 1
    assert all(ledger.client.ttl(key) > 0 for key in ledger.client.scan_iter(f"{keys.run(RUN)}*"))
    answer = ledger.reopen(RUN)
    assert answer is not None
    assert set(answer.ready) == {"b", "x"}
    assert states(ledger) == {"a": "succeeded", "b": "ready", "x": "ready", INTEGRATE: "pending"}
    sound(ledger)
    again = ledger.node(RUN, "a")
    assert (again.commit, again.usage["cost_usd"], ledger.texts(RUN)["a"]) == ("c" * 40, 0.5, "told")
    assert ledger.generation(RUN) == 4
    # Who was at work in the life before can settle nothing.
    for node, fence in (("a", old), ("b", late.fence)):
        assert ledger.settle(RUN, node, fence, NodeState.SUCCEEDED).head[0] == "superseded"
    assert ledger.claim(RUN, "b", worker="w", ttl_ms=60_000).fence > late.fence
    # The next one who locks what it wrote starts from it.
    assert ledger.client.hget(keys.part(RUN, "writers"), "src") == "a"


def test_who_restores_a_run_second_does_not_close_it(ledger: Ledger) -> None:
    fields = restoring.run_facts(ledger.client, RUN)
    plant(ledger, {})
    assert ledger.reopen(RUN)
    taken = ledger.claim(RUN, "a", worker="w", ttl_ms=60_000)
    restoring.plant(ledger, fields, SPECS, "{}", nodes={}, generation=1, closing={})
    assert ledger.run(RUN).state is RunState.OPEN
    assert ledger.settle(RUN, "a", taken.fence, NodeState.SUCCEEDED).head[0] == "settled"
    sound(ledger)


def test_a_run_that_had_ended_is_as_it_was(ledger: Ledger) -> None:
    do(ledger, "a")
    closing = {
        "state": "landed",
        "result": "d" * 40,
        "branch": "letters",
        "reason": "",
        "onto": "",
        "closed_ms": "7",
    }
    plant(ledger, facts(ledger, "a"), closing=closing)
    run = ledger.run(RUN)
    assert (run.state, run.result, run.branch, run.closed_ms) == (RunState.LANDED, "d" * 40, "letters", 7)


@pytest.mark.parametrize("how", ["ready", "running", "parked", "closed"])
def test_a_ledger_that_is_older_takes_what_it_lacks(ledger: Ledger, how: str) -> None:
    """Whatever it thought of the node when its log ended."""
    do(ledger, "a")
    do(ledger, "b")
    kept = facts(ledger, "a", "b")
    ledger.client.flushall()
    open_run(ledger, {"a": [], "b": ["a"], "x": []}, locks={"a": ["src"]})
    if how == "running":
        ledger.claim(RUN, "a", worker="w", ttl_ms=60_000)
    elif how == "parked":
        ledger.control(RUN, "drain")
        ledger.claim(RUN, "a", worker="w", ttl_ms=60_000)
    elif how == "closed":
        ledger.control(RUN, "cancel")
        end = ledger.claim(RUN, INTEGRATE, worker="w", ttl_ms=60_000)
        ledger.settle(RUN, INTEGRATE, end.fence, NodeState.FAILED)
        ledger.close(RUN, RunState.CANCELLED)
    assert restoring.adopt(ledger, RUN, kept, {"b": ["src/a"]}, generation=1)[0] == 2
    found = states(ledger)
    assert found["a"] == found["b"] == "succeeded"
    assert restoring.adopt(ledger, RUN, kept, {}, generation=1)[0] == 0
    assert not [lease for lease in ledger.leases() if lease[1] in kept]
    sound(ledger)


def test_what_wrote_nothing_has_no_place_in_the_settled_sequence(ledger: Ledger) -> None:
    """A report has no commit, and its journal none either: nothing of it is merged, and none stands on it."""
    do(ledger, "a", commit="")
    kept = facts(ledger, "a")
    ledger.client.flushall()
    open_run(ledger, {"a": [], "b": ["a"], "x": []}, locks={"a": ["src"]})
    assert restoring.adopt(ledger, RUN, kept, {"a": ["src/a"]}, generation=1)[0] == 1
    assert ledger.settled(RUN) == []
    assert not ledger.client.exists(keys.part(RUN, "writers"))
    sound(ledger)


def test_work_that_is_undone_is_forgotten_with_what_it_wrote(ledger: Ledger) -> None:
    for node in "abx":
        do(ledger, node, commit=node * 40)
    do(ledger, INTEGRATE, commit="")
    assert restoring.undo(ledger, RUN, ["b"], [], reason="r") is None
    ledger.close(RUN, RunState.READY_TO_LAND, result="d" * 40)
    fences = {n.id: n.fence for n in ledger.nodes(RUN).values()}
    answer = restoring.undo(
        ledger, RUN, ["b", INTEGRATE], [("a", ()), ("x", ["src/a"])], reason="r", state=RunState.CANCELLED
    )
    assert answer is not None
    assert states(ledger) == {"a": "succeeded", "b": "cancelled", "x": "succeeded", INTEGRATE: "cancelled"}
    run, node = ledger.run(RUN), ledger.node(RUN, "b")
    assert (run.state, run.result, node.commit, node.usage["calls"]) == (RunState.CANCELLED, "", "", 2)
    assert node.fence > fences["b"]
    assert ledger.settled(RUN) == ["a", "x"]
    assert "b" not in ledger.texts(RUN)
    assert "b" not in "|".join(ledger.client.hvals(keys.part(RUN, "writers")))
    assert all(ledger.client.ttl(key) > 0 for key in ledger.client.scan_iter(f"{keys.run(RUN)}*"))
    assert int(ledger.fields(RUN, "b", "undone")[0]) == fences["b"]
    reopened = ledger.reopen(RUN)
    assert reopened is not None
    assert reopened.ready == ("b",)
    sound(ledger)


def test_a_token_is_never_given_twice_by_an_older_ledger(ledger: Ledger) -> None:
    """The server comes back without the end of its log, and with it without the newest tokens."""
    first = ledger.claim(RUN, "x", worker="w", ttl_ms=60_000)
    wait_until(lambda: ledger.now_ms() > first.fence, what="a millisecond has passed")
    ledger.client.flushall()
    open_run(ledger, {"a": [], "b": ["a"], "x": []})
    second = ledger.claim(RUN, "x", worker="w", ttl_ms=60_000)
    assert second.granted
    assert second.fence > first.fence


def test_what_was_spent_is_carried_over_once(ledger: Ledger) -> None:
    spent = {"limit:run:usd": 10, "spent:run:usd": 7, "spent:node:a:usd": 7}
    ledger.client.hset(keys.part(RUN, "budget"), mapping={"limit:run:usd": 20, "spent:run:usd": 2})
    for _ in range(2):
        restoring.carry_over(ledger.client, RUN, spent)
        assert restoring.budget_facts(ledger.client, RUN) == {
            "limit:run:usd": 20, "spent:run:usd": 7, "spent:node:a:usd": 7,
        }  # fmt: skip


def test_two_who_carry_over_at_once_carry_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between what the one has read and what it writes comes the whole of the other, and a bill."""
    spent, read, calls = {"spent:run:usd": 700}, redis.Redis.hgetall, []

    def in_between(client: redis.Redis, name: str) -> Any:
        found = read(client, name)
        calls.append(name)
        if len(calls) == 1:
            restoring.carry_over(ledger.client, RUN, spent)
            ledger.client.hincrby(keys.part(RUN, "budget"), "spent:run:usd", 5)
        return found

    monkeypatch.setattr(redis.Redis, "hgetall", in_between)
    restoring.carry_over(ledger.client, RUN, spent)
    assert len(calls) > 1
    assert restoring.budget_facts(ledger.client, RUN)["spent:run:usd"] == 705
