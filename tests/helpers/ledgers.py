"""A ledger with a small run, and what is true of every ledger at any time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from agentflow.states import TERMINAL, NodeState
from agentflow.store import keys
from agentflow.store.ledger import Ledger, NodeSpec
from agentflow.store.records import INTEGRATE

RUN = "run-1"


def open_run(
    ledger: Ledger,
    parents: Mapping[str, Sequence[str]],
    *,
    locks: Mapping[str, Sequence[str]] | None = None,
    optional: Sequence[str] = (),
    role_limit: int = 0,
    max_concurrent: int = 0,
    on_failure: str = "continue",
    run_id: str = RUN,
    roles: Mapping[str, str] | None = None,
    queues: Mapping[str, str] | None = None,
    exclusive: Sequence[str] = (),
    priorities: Mapping[str, int] | None = None,
) -> None:
    """Open a run whose nodes have role `worker` unless `roles` says else, and wake in the order given.

    `priorities`: 0 is the most important, which is what nodes have that are not in it.
    """
    children: dict[str, list[str]] = {node: [] for node in parents}
    for node, its in parents.items():
        for parent in its:
            children[parent].append(node)
    sinks = [node for node, kids in children.items() if not kids]
    for sink in sinks:
        children[sink].append(INTEGRATE)
    specs = [
        NodeSpec(
            id=node,
            role=(roles or {}).get(node, "worker"),
            parents=list(its),
            children=children[node],
            locks=(locks or {}).get(node, ()),
            role_limit=role_limit,
            order=(priorities or {}).get(node, 0) * 1e6 + index,
            optional=node in optional,
            queue=(queues or {}).get(node, ""),
        )
        for index, (node, its) in enumerate(parents.items())
    ]
    specs.append(NodeSpec(INTEGRATE, INTEGRATE, sinks, (), tolerant=True, queue="agentflow.system"))
    run: dict[str, str | int] = {
        "id": run_id, "feature": "f", "project": "p",
        "on_failure": on_failure, "max_concurrent": max_concurrent,
        "exclusive": json.dumps(list(exclusive)) if exclusive else "",
    }  # fmt: skip
    ledger.open_run(run, specs, "{}")


def states(ledger: Ledger, run_id: str = RUN) -> dict[str, str]:
    """Node -> state."""
    return {n.id: n.state.value for n in ledger.nodes(run_id).values()}


def validate_run(ledger: Ledger, run_id: str = RUN) -> None:
    """What must hold between any two transitions; raises AssertionError with what does not."""
    run, nodes = ledger.run(run_id), ledger.nodes(run_id)
    running = {n.id for n in nodes.values() if n.state is NodeState.RUNNING}
    leased = {node for (r, node, _fence) in ledger.leases() if r == run_id}
    assert leased == running, "a lease is held exactly by what runs"
    left = {n.id for n in nodes.values() if n.state not in TERMINAL}
    assert ledger.client.smembers(keys.part(run_id, "open")) == left
    assert run.nodes_left == len(left)
    assert set(ledger.ready(run_id)) == {n.id for n in nodes.values() if n.state is NodeState.READY}
    parked = set(ledger.client.zrange(keys.part(run_id, "parked"), 0, -1))
    waiting = set(ledger.client.zrange(keys.part(run_id, "waiting"), 0, -1))
    assert not parked & waiting
    assert parked | waiting == {n.id for n in nodes.values() if n.state is NodeState.PARKED}
    assert waiting == {n for n in nodes if ledger.fields(run_id, n, "wide") == ("1",)}
    woken = {n for n in nodes if ledger.fields(run_id, n, "woken") == ("1",)}
    assert run.running == len(running | woken)
    holders = {v for k, v in ledger.client.hgetall(keys.part(run_id, "locks")).items() if k.startswith("w:")}
    assert holders <= running, "locks are held only by what runs"
    for node in nodes.values():
        # The integration waits for everybody: a skip may end the last nodes while other work still runs.
        others = [n for n in nodes.values() if n.id != INTEGRATE]
        parents = others if node.id == INTEGRATE else [nodes[p] for p in node.parents]
        unsettled = [p.id for p in parents if p.state not in TERMINAL]
        if node.state not in (NodeState.PENDING, NodeState.SKIPPED, NodeState.CANCELLED):
            assert not unsettled, f"{node.id} is {node.state} before {unsettled}"
        if node.state is NodeState.PENDING:
            assert unsettled, f"{node.id} waits for nothing"


def validate_fleet(ledger: Ledger) -> None:
    """What the runs have in common agrees with what each of them says, between any two transitions."""
    flight: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    hungry: dict[str, Counter[str]] = {}
    ranks: dict[str, dict[str, float]] = {}
    for run_id in ledger.open_runs():
        waits: Counter[str] = Counter()
        for node in ledger.nodes(run_id).values():
            queue, woken, wide = ledger.fields(run_id, node.id, "queue", "woken", "wide")
            if node.state is NodeState.RUNNING or woken == "1":
                flight.update(("fleet", f"role:{node.role}", f"queue:{queue}"))
            elif node.state is NodeState.READY:
                hungry.setdefault(queue, Counter())[run_id] += 1
            if wide == "1":
                waits[f"{node.role}|{queue}"] += 1
        assert _counts(ledger, keys.part(run_id, "waits")) == waits
        waiting += waits
        in_flight, turn = ledger.client.hmget(keys.run(run_id), "in_flight", "turn")
        for name in waits:
            rank = int(in_flight) * 2**40 + int(turn or 0)
            ranks.setdefault(name, {})[run_id] = rank
    assert ledger.in_flight() == flight, "what is in flight is the sum over the runs"
    assert _counts(ledger, keys.WAITING) == waiting
    for name in keys.PREFIX + "hungry:", keys.WAITING + ":":
        known = {name + part for part in (hungry if "hungry" in name else ranks)}
        assert set(ledger.client.scan_iter(name + "*")) == known
    for queue, runs in hungry.items():
        assert _counts(ledger, keys.hungry(queue)) == runs
    for name, ranked in ranks.items():
        assert dict(ledger.client.zrange(f"{keys.WAITING}:{name}", 0, -1, withscores=True)) == ranked
    _validate_holders(ledger)
    _validate_nobody_forgotten(ledger, hungry)


def _counts(ledger: Ledger, key: str) -> dict[str, int]:
    return {name: int(count) for name, count in ledger.client.hgetall(key).items()}


def _validate_holders(ledger: Ledger) -> None:
    """Exclusive runs of a project never hold overlapping paths."""
    held = [
        (run.id, path)
        for run in ledger.runs()
        if ledger.client.hget(keys.run(run.id), "holds") == "1"
        for path in json.loads(ledger.client.hget(keys.run(run.id), "exclusive"))
    ]
    for one, path in held:
        for other, theirs in held:
            assert one == other or not overlap(path, theirs), f"{one} and {other} hold {path} and {theirs}"


def overlap(one: str, other: str) -> bool:
    """Whether one path is the other or lies below it ('' is the whole tree)."""
    return "" in (one, other) or one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _validate_nobody_forgotten(ledger: Ledger, hungry: Mapping[str, Counter[str]]) -> None:
    """While nothing runs and no message is under way, nobody is left to wake what waits."""
    if hungry or ledger.in_flight():
        return
    capacity = ledger.capacity()
    for run_id in ledger.open_runs():
        state, exclusive = ledger.client.hmget(keys.run(run_id), "state", "exclusive")
        queues = {name.partition("|")[2] for name in _counts(ledger, keys.part(run_id, "waits"))}
        served = {q for q in queues if not capacity or capacity.get(q)}
        assert state != "open" or exclusive or not served, f"{run_id} waits for room that is there"
