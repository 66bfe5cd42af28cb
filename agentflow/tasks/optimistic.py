"""Settling work whose paths nobody declared: merge with all that settled, or wait, or run again on top.

Two optimistic nodes may write the same line at the same time; only one of them can settle first.
What could interleave: another node settles between our merge and our settlement. What stops it: the
settlement names the run's sequence that the merge was checked against and is refused when it moved.
"""

from __future__ import annotations

from agentflow.environment import Outcome
from agentflow.errors import ConflictError
from agentflow.spec.artifacts import Lock
from agentflow.store.records import NodeRecord
from agentflow.store.scripts import Answer
from agentflow.tasks.claimed import Attempt
from agentflow.tasks.desk import Delivery, depot_of
from agentflow.workspace import merge


class OverlapError(ConflictError):
    """The work does not merge with what other nodes (`nodes`) settled meanwhile."""

    code = "AF-CONFLICT-002"

    def __init__(self, what: str, *, why: str, nodes: tuple[str, ...]) -> None:
        super().__init__(what, why=why, fix="it runs again on top of that work")
        self.nodes = nodes


def check(attempt: Attempt, delivery: Delivery) -> str:
    """The settled sequence that `delivery` merges with; raises `OverlapError` when it does not merge."""
    ledger, run_id = attempt.ledger, attempt.run.id
    seq = ledger.sequence(run_id)
    others = [n for n in ledger.settled(run_id) if n != attempt.node.id]
    records = [r for r in ledger.some_nodes(run_id, others).values() if r.commit]
    depot = depot_of(attempt)
    depot.bring([delivery.commit, *(r.commit for r in records)])
    store = depot.store
    base, appends = attempt.run.base, attempt.appends
    clashing: list[NodeRecord] = []
    paths: set[str] = set()
    for record in records:
        found = merge.merges_clean(store, delivery.commit, [record.commit], base, appends)
        if found:
            clashing.append(record)
            paths.update(found)
    if not clashing:
        found = merge.merges_clean(store, delivery.commit, [r.commit for r in records], base, appends)
        clashing, paths = (records, set(found)) if found else ([], set())
    if clashing:
        names = tuple(r.id for r in clashing)
        where = ", ".join(sorted(paths)[:10])
        told = "\n".join(f"- {r.id} ({r.role}) changed it: {r.summary}" for r in clashing)
        raise OverlapError(f"{where} was also changed by {', '.join(names)}", why=told, nodes=names)
    return seq


def wait_for_lock(attempt: Attempt, outcome: Outcome, delivery: Delivery, reason: str) -> Answer:
    """Park finished work until the locks on its paths are free; it then holds them and settles."""
    facts = attempt.facts(
        outcome,
        pending_commit=delivery.commit,
        pending_text=outcome.handoff,
        base=delivery.base,
    )
    return attempt.ledger.requeue(
        attempt.run.id,
        attempt.node.id,
        attempt.claim.fence,
        reason=reason,
        park=True,
        facts=facts,
        locks=map(Lock, delivery.paths),
    )


def pending(attempt: Attempt) -> tuple[Outcome, Delivery] | None:
    """Work of an earlier attempt that only waited for a lock."""
    record = attempt.record
    if not record.pending_commit:
        return None
    outcome = Outcome(summary=record.summary, handoff=record.pending_text, verdict=record.verdict)
    paths = tuple(lock.path for lock in record.locks if lock.mode != "read")
    return outcome, Delivery(commit=record.pending_commit, paths=paths, base=record.base)
