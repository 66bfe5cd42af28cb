"""A ledger with a small run, and what is true of every ledger at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import redis

from agentflow.store import validation
from agentflow.store.ledger import Ledger, NodeSpec
from agentflow.store.locking import lock_text
from agentflow.store.records import INTEGRATE
from agentflow.store.validation import Violation

__all__ = [
    "RUN",
    "NotWholeError",
    "none_of",
    "open_run",
    "states",
    "validate_fleet",
    "validate_run",
    "validate_store",
]

RUN = "run-1"


class NotWholeError(AssertionError):
    """A ledger that is not whole: something of it contradicts something else, or outlives its owner."""


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
        "exclusive": json.dumps([lock_text(lock) for lock in exclusive]) if exclusive else "",
    }  # fmt: skip
    ledger.open_run(run, specs, "{}")


def states(ledger: Ledger, run_id: str = RUN) -> dict[str, str]:
    """Node -> state."""
    return {n.id: n.state.value for n in ledger.nodes(run_id).values()}


def validate_run(ledger: Ledger, run_id: str = RUN) -> None:
    """What must hold between any two transitions; raises AssertionError with what does not."""
    none_of(validation.validate_run(ledger, run_id))


def validate_fleet(ledger: Ledger) -> None:
    """What the runs have in common agrees with what each of them says, between any two transitions."""
    none_of(validation.validate_fleet(ledger))


def validate_store(client: redis.Redis) -> None:
    """All runs, what they share, and that each key has a TTL or an owner."""
    none_of(validation.validate_store(Ledger(client)))


def none_of(violations: Sequence[Violation]) -> None:
    """Raise `NotWholeError` with all violations and their stories."""
    if violations:
        raise NotWholeError("\n".join(["", *map(str, violations)]))
