"""What a node starts from: the merge of exactly the verified work that it depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentflow.states import NodeState
from agentflow.store.ledger import Ledger
from agentflow.store.records import NodeRecord


def commits(ledger: Ledger, run_id: str, sources: Iterable[str]) -> list[str]:
    """The commits of these nodes; one without a commit (a report, an optional one that failed) stands
    for what it depends on itself.
    """
    found: list[str] = []
    seen: set[str] = set()
    layer = list(dict.fromkeys(sources))
    while layer:
        seen.update(layer)
        records = ledger.some_nodes(run_id, layer)
        found += [r.commit for r in records.values() if r.commit and r.state is NodeState.SUCCEEDED]
        layer = _further(records, seen)
    return list(dict.fromkeys(found))


def _further(records: Mapping[str, NodeRecord], seen: set[str]) -> list[str]:
    further = [
        parent
        for record in records.values()
        if not record.commit
        for parent in (*record.parents, *record.edges)
        if parent not in seen
    ]
    return list(dict.fromkeys(further))
