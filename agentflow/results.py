"""What a run came to: one value for people, `--json`, the Python API and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agentflow.errors import Exit
from agentflow.states import NodeState, RunState
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE, NodeRecord, RunRecord

_EXITS = {
    RunState.LANDED: Exit.OK,
    RunState.READY_TO_LAND: Exit.OK,
    RunState.CONFLICT: Exit.CONFLICT,
    RunState.CANCELLED: Exit.INTERRUPTED,
    RunState.DRAINING: Exit.INTERRUPTED,
    RunState.CANCELLING: Exit.INTERRUPTED,
}


@dataclass(frozen=True, slots=True)
class NodeResult:
    """One node of a finished run. `checkpoint` is the ref that keeps its commit."""

    state: str
    role: str
    attempts: int
    seconds: float
    commit: str = ""
    checkpoint: str = ""
    summary: str = ""
    verdict: str = ""
    reason: str = ""
    fix: str = ""
    edges: tuple[str, ...] = ()
    findings: tuple[Mapping[str, Any], ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """Totals of a run. Seconds are wall time; `speedup` is node time over wall time."""

    run: str
    state: str
    feature: str
    exit_code: int
    root: str
    base: str
    target: str
    branch: str
    commit: str
    merged_ref: str
    total: int
    completed: int
    failed: int
    skipped: int
    cancelled: int
    failed_nodes: tuple[str, ...]
    duration_s: float
    node_seconds: float
    speedup: float
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    cpu_s: float
    peak_memory_mb: float
    reason: str
    nodes: Mapping[str, NodeResult]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return asdict(self)


def build_result(ledger: Ledger, run_id: str) -> RunResult:
    """Read the run's outcome from the ledger."""
    run = ledger.run(run_id)
    records = ledger.nodes(run_id)
    records.pop(INTEGRATE, None)
    count = _counts(records)
    busy = sum(n.busy_ms for n in records.values()) / 1000
    end = run.closed_ms or ledger.now_ms()
    wall = max(0.001, (end - run.opened_ms) / 1000)
    closed_well = run.state in (RunState.LANDED, RunState.READY_TO_LAND)
    return RunResult(
        run=run.id,
        state=run.state.value,
        feature=run.feature,
        exit_code=int(_EXITS.get(run.state, Exit.FAILED)),
        root=run.root,
        base=run.base,
        target=run.target,
        branch=run.branch,
        commit=run.result if closed_well else "",
        merged_ref=f"refs/agentflow/runs/{run.id}/merged" if run.result and not closed_well else "",
        total=len(records),
        completed=count[NodeState.SUCCEEDED],
        failed=count[NodeState.FAILED],
        skipped=count[NodeState.SKIPPED],
        cancelled=count[NodeState.CANCELLED],
        failed_nodes=tuple(n.id for n in records.values() if n.state is NodeState.FAILED),
        duration_s=round(wall, 3),
        node_seconds=round(busy, 3),
        speedup=round(busy / wall, 2),
        reason=run.reason,
        nodes={n.id: _node(run, n) for n in records.values()},
        **_spent(records),
    )


def _counts(records: Mapping[str, NodeRecord]) -> dict[NodeState, int]:
    counts = dict.fromkeys(NodeState, 0)
    for node in records.values():
        counts[node.state] += 1
    return counts


def _spent(records: Mapping[str, NodeRecord]) -> dict[str, Any]:
    """Model calls, tokens, dollars, CPU seconds and the largest attempt's memory."""
    usages = [n.usage for n in records.values()]
    return {
        "calls": sum(int(u.get("calls", 0)) for u in usages),
        "input_tokens": sum(int(u.get("input_tokens", 0)) for u in usages),
        "output_tokens": sum(int(u.get("output_tokens", 0)) for u in usages),
        "cost_usd": round(sum(float(u.get("cost_usd", 0.0)) for u in usages), 6),
        "cpu_s": round(sum(float(u.get("cpu_s", 0.0)) for u in usages), 3),
        "peak_memory_mb": round(max((float(u.get("peak_memory_mb", 0.0)) for u in usages), default=0.0), 1),
    }


def _node(run: RunRecord, node: NodeRecord) -> NodeResult:
    return NodeResult(
        state=node.state.value,
        role=node.role,
        attempts=node.attempt,
        seconds=round(node.busy_ms / 1000, 3),
        commit=node.commit,
        checkpoint=f"refs/agentflow/runs/{run.id}/nodes/{node.id}" if node.commit else "",
        summary=node.summary,
        verdict=node.verdict,
        reason=node.reason,
        fix=node.fix if node.state is NodeState.FAILED else "",
        edges=node.edges,
        findings=node.findings,
        usage=node.usage,
    )
