"""A ledger that contradicts itself is found out: each rule, with the story of what it is about."""

from __future__ import annotations

import re

import pytest
from helpers.broken_scripts import all_texts
from helpers.cli import command_line
from helpers.ledgers import RUN, open_run, validate_store

from agentflow.errors import Exit
from agentflow.states import NodeState, RunState
from agentflow.store import keys, owners, validation
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE

pytestmark = pytest.mark.breaks_store("each test breaks a whole ledger in one place")


@pytest.fixture
def ledger(redis_client):
    """A run half-way: a has succeeded, b runs and holds a lock, c waits for it, d for both, e is ready."""
    found = Ledger(redis_client)
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": []}
    open_run(found, needs, locks={"b": ["src"], "c": ["src/x"]})
    first = found.claim(RUN, "a", worker="w1", ttl_ms=60_000)
    found.settle(RUN, "a", first.fence, NodeState.SUCCEEDED, commit="c1", paths=["README"])
    assert found.claim(RUN, "b", worker="w1", ttl_ms=60_000).granted
    assert found.claim(RUN, "c", worker="w2", ttl_ms=60_000).verdict == "parked"
    validate_store(redis_client)
    return found


def found_in(ledger: Ledger) -> str:
    return "\n".join(map(str, validation.validate_store(ledger)))


def node(name: str) -> str:
    return keys.node(RUN, name)


#: What is done to the store, and a part of what must be said of it.
DAMAGE = {
    "a node is in no collection": (lambda r: r.zrem(keys.part(RUN, "ready"), "e"), "is missing in `ready`"),
    "a node is in a wrong one": (lambda r: r.sadd(keys.part(RUN, "open"), "a"), "is in `open`, where it"),
    "a counter is off": (lambda r: r.hincrby(keys.run(RUN), "nodes_left", 1), "nodes_left is"),
    "a lease is lost": (lambda r: r.delete(keys.LEASES), "without a lease"),
    "a lease is too many": (lambda r: r.zadd(keys.LEASES, {f"{RUN}|e|1": 1}), "is not running under it"),
    "a lease of no run": (lambda r: r.zadd(keys.LEASES, {"gone|e|1": 1}), "its run is not open"),
    "a lock is gone": (lambda r: r.delete(keys.part(RUN, "locks")), "is with nobody, and belongs to b"),
    "a lock is nobody's": (
        lambda r: r.hset(keys.part(RUN, "locks"), "w:docs", "e"),
        "is with e, and belongs to nobody",
    ),
    "two hold one lock": (
        lambda r: r.hset(node("c"), mapping={"state": "running"}),
        "holds w:src while c holds w:src/x",
    ),
    "it runs before its parent": (lambda r: r.hset(node("a"), "state", "running"), "is running before a"),
    "its parent failed": (lambda r: r.hset(node("a"), "state", "failed"), "but a is failed"),
    "it waits for nothing": (lambda r: r.hset(node("e"), "state", "pending"), "waits for nothing"),
    "room is not counted": (lambda r: r.hincrby(keys.run(RUN), "in_flight", 1), "in_flight is 2, but 1"),
    "the fleet counts wrong": (lambda r: r.hincrby(keys.FLIGHT, "fleet", 1), f"{keys.FLIGHT}: holds"),
    "a message is not counted": (lambda r: r.delete(keys.hungry("worker")), "af:hungry:worker: holds"),
    "work is not in the sequence": (lambda r: r.delete(keys.part(RUN, "settled")), "missing in `settled`"),
    "a start has no story": (lambda r: r.hincrby(node("b"), "attempt", 1), "attempts, but started 1 times"),
    "it ends twice": (
        lambda r: r.xadd(
            keys.part(RUN, "events"), {"kind": "node.settled", "at": 1, "node": "a", "state": "failed"}
        ),
        "went from succeeded to failed",
    ),
    "it starts too early": (
        lambda r: r.xadd(
            keys.part(RUN, "events"), {"kind": "node.started", "at": 1, "node": "d", "state": "running"}
        ),
        "started before b, c had ended",
    ),
    "money is reserved by nobody": (
        lambda r: r.hset(keys.part(RUN, "budget"), "hold:e|1|1", "5 5 20000 1 worker"),
        "run-1/e: has money reserved under fence 1",
    ),
    "money is not counted": (
        lambda r: r.hset(keys.part(RUN, "budget"), "held:run:usd", 5),
        "5 usd are counted as reserved, 0 are",
    ),
    "a class is not counted": (lambda r: r.hset(node("b"), "complexity", "high"), "by complexity"),
    "a delay belongs to nobody": (lambda r: r.zadd(keys.DELAYED, {f"{RUN}|e": 1}), f"is in {keys.DELAYED}"),
    "a key is nobody's": (lambda r: r.set("af:mystery", 1), "it is nobody's"),
    "a key of no run": (lambda r: r.set(keys.part("gone", "plan"), 1), "a run that is not there"),
    "a worker stays for ever": (lambda r: r.hset(keys.worker("w"), "pid", 1), "no TTL (60 s is promised)"),
    "an open run will vanish": (lambda r: r.expire(keys.run(RUN), 5), "but its run is open"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(ledger, name):
    damage, told = DAMAGE[name]
    damage(ledger.client)
    assert told in found_in(ledger)


def test_a_violation_tells_the_story_of_its_node(ledger):
    ledger.client.delete(keys.LEASES)
    (story,) = [v.story for v in validation.validate_run(ledger, RUN) if v.subject == f"{RUN}/b"]
    assert ["node.ready" in story[0], "node.started" in story[-1]] == [True, True]


def test_what_outlives_a_closed_run_is_found(ledger):
    for name in ("b", "c", "d", "e", INTEGRATE):
        if name != "b":
            ledger.claim(RUN, name, worker="w", ttl_ms=60_000)
        fence = ledger.node(RUN, name).fence
        ledger.settle(RUN, name, fence, NodeState.SUCCEEDED)
    ledger.close(RUN, RunState.READY_TO_LAND)
    assert found_in(ledger) == ""
    ledger.client.persist(keys.part(RUN, "events"))
    ledger.client.zadd(keys.HOLDING, {"gone": 1})
    ledger.client.hset(keys.FLIGHT, "fleet", 1)
    assert "has no TTL, but its run is ready_to_land" in found_in(ledger)
    ledger.client.delete(keys.HOLDING)
    assert f"{keys.FLIGHT}: is still there, but its owners" in found_in(ledger)


def test_every_key_of_the_table_is_known():
    patterns = {rule.pattern for rule in owners.rules()}
    assert {keys.RUNS, keys.LEASES, "af:run:<id>:locks", "af:pack:<scope>:<commit>"} <= patterns
    for name in keys._PARTS:
        assert f"af:run:<id>:{name}" in patterns, name


def test_every_key_that_a_script_names_stands_in_the_table():
    patterns = tuple(rule.pattern for rule in owners.rules())
    for name, text in all_texts().items():
        for key in set(re.findall(r"'(af:[a-z_:]+)", text)):
            assert any(pattern.startswith(key) for pattern in patterns), f"{key} in {name}.lua"
        used = set(re.findall(r"part\('([a-z]+)'\)", text))
        assert used <= set(keys._PARTS), f"{used - set(keys._PARTS)} in {name}.lua"
    (listed,) = re.findall(r"local PARTS = \{([^}]*)\}", all_texts()["claim"])
    assert set(re.findall(r"'([a-z]+)'", listed)) == set(keys._PARTS)


def test_an_operator_can_ask(ledger, redis_url, tmp_path):
    with command_line(tmp_path) as cli:
        cli.env["AGENTFLOW_REDIS_URL"] = redis_url
        assert "nothing contradicts itself; 1 run is known" in cli.run("doctor", "--ledger").stdout
        ledger.client.delete(keys.LEASES)
        told = cli.run("doctor", "--ledger", code=int(Exit.INFRA)).stdout
        assert "FAIL  ledger          run-1/b: runs under fence" in told
        assert "node.started b running #1" in told
