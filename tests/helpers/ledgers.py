"""A ledger with a small run, and what is true of every ledger at any time."""

from __future__ import annotations

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
) -> None:
    """Open a run whose nodes all have role `worker` and wake in the order given."""
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
            role="worker",
            parents=list(its),
            children=children[node],
            locks=(locks or {}).get(node, ()),
            role_limit=role_limit,
            order=float(index),
            optional=node in optional,
        )
        for index, (node, its) in enumerate(parents.items())
    ]
    specs.append(NodeSpec(INTEGRATE, INTEGRATE, sinks, (), tolerant=True))
    ledger.open_run(
        {"id": run_id, "feature": "f", "max_concurrent": max_concurrent, "on_failure": on_failure},
        specs,
        "{}",
    )


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
    assert parked == {n.id for n in nodes.values() if n.state is NodeState.PARKED}
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
