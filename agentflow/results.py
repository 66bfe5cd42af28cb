"""What a run came to: one value for people, `--json`, the Python API and the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agentflow.errors import BudgetReached, Exit
from agentflow.states import NodeState, RunState
from agentflow.store.budgets import DAY, ORG
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE, NodeRecord, RunRecord, work_ended_ms
from agentflow.workspace.land import run_ref

_EXITS = {
    RunState.LANDED: Exit.OK,
    RunState.READY_TO_LAND: Exit.OK,
    RunState.CONFLICT: Exit.CONFLICT,
    RunState.CANCELLED: Exit.INTERRUPTED,
    RunState.PAUSED: Exit.INTERRUPTED,
    RunState.DRAINING: Exit.INTERRUPTED,
    RunState.CANCELLING: Exit.INTERRUPTED,
}


@dataclass(frozen=True, slots=True)
class NodeResult:
    """One node of a finished run. `checkpoint` is the ref that keeps its commit.

    `seconds` are those of all attempts; `losses` counts attempts that ended with their worker, `conflicts`
    those that were done again on top of other work; `tests` the outcomes that acceptance saw. `reused`: the
    run and node (RUN/NODE) that had made its commit from the same things.
    """

    state: str
    role: str
    attempts: int
    seconds: float
    output: str = "change"
    optional: bool = False
    worker: str = ""
    base: str = ""
    commit: str = ""
    checkpoint: str = ""
    summary: str = ""
    verdict: str = ""
    reason: str = ""
    code: str = ""
    fix: str = ""
    failures: int = 0
    losses: int = 0
    conflicts: int = 0
    conflict: str = ""
    reused: str = ""
    tests: Mapping[str, int] = field(default_factory=dict)
    edges: tuple[str, ...] = ()
    findings: tuple[Mapping[str, Any], ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """Totals of a run. Seconds are wall time; `speedup` is node time over wall time. `estimated`: some tokens
    were not reported by the model and are counted by us.
    """

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
    estimated: bool = False
    #: Budgets by scope (limits, spent, reserved), the project's `day`, the `estimate` at the run's start.
    budget: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the work is done: landed, or ready to land."""
        return self.exit_code == Exit.OK

    @property
    def tasks(self) -> Mapping[str, NodeResult]:
        """The results by the ids of the tasks: `nodes` in the words of a spec."""
        return self.nodes

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node, role or model cost. Tokens and calls are counts, `cost_usd` US dollars."""

    name: str
    nodes: int
    attempts: int
    seconds: float
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """A run's cost from three sides, the dearest first; each side adds up to the run's total.

    Seconds and attempts of a node that asked several models count for each of them. What a command-line
    agent spent is known to itself only: its share stands under the model `(not metered)`.
    """

    run: str
    total: Cost
    nodes: tuple[Cost, ...]
    roles: tuple[Cost, ...]
    models: tuple[Cost, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


#: The model of work that no meter saw: a command-line agent pays for itself.
NOT_METERED = "(not metered)"


def cost_report(result: RunResult) -> CostReport:
    """What a run cost by node, by role and by model."""
    nodes = {name: [_share(name, node, node.usage)] for name, node in result.nodes.items()}
    roles: dict[str, list[Cost]] = {}
    models: dict[str, list[Cost]] = {}
    for name, node in result.nodes.items():
        roles.setdefault(node.role, []).extend(nodes[name])
        if not node.attempts:
            continue
        for model, spent in (node.usage.get("models") or {NOT_METERED: node.usage}).items():
            models.setdefault(model, []).append(_share(name, node, spent))
    everything = [share for shares in nodes.values() for share in shares]
    return CostReport(
        run=result.run,
        total=_sum("total", everything),
        nodes=_dearest(nodes),
        roles=_dearest(roles),
        models=_dearest(models),
    )


def _share(name: str, node: NodeResult, spent: Mapping[str, Any]) -> Cost:
    return Cost(
        name=name,
        nodes=1,
        attempts=node.attempts,
        seconds=node.seconds,
        calls=int(spent.get("calls", 0)),
        input_tokens=int(spent.get("input_tokens", 0)),
        output_tokens=int(spent.get("output_tokens", 0)),
        cost_usd=float(spent.get("cost_usd", 0.0)),
    )


def _sum(name: str, shares: Iterable[Cost]) -> Cost:
    parts = list(shares)
    return Cost(
        name=name,
        nodes=len(parts),
        attempts=sum(p.attempts for p in parts),
        seconds=round(sum(p.seconds for p in parts), 3),
        calls=sum(p.calls for p in parts),
        input_tokens=sum(p.input_tokens for p in parts),
        output_tokens=sum(p.output_tokens for p in parts),
        cost_usd=round(sum(p.cost_usd for p in parts), 6),
    )


def _dearest(parts: Mapping[str, list[Cost]]) -> tuple[Cost, ...]:
    sums = [_sum(name, shares) for name, shares in parts.items()]
    return tuple(sorted(sums, key=lambda c: (-c.cost_usd, -c.input_tokens - c.output_tokens, c.name)))


def build_result(ledger: Ledger, run_id: str) -> RunResult:
    """Read the run's outcome from the ledger."""
    run = ledger.run(run_id)
    records = ledger.nodes(run_id)
    end = work_ended_ms(run, records.pop(INTEGRATE, None)) or ledger.now_ms()
    count = _counts(records)
    busy = sum(n.busy_ms for n in records.values()) / 1000
    wall = max(0.001, (end - run.opened_ms) / 1000)
    closed_well = run.state in (RunState.LANDED, RunState.READY_TO_LAND)
    return RunResult(
        run=run.id,
        state=run.state.value,
        feature=run.feature,
        exit_code=int(_exit_code(run, records.values())),
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
        budget=_budget(ledger, run),
        **_spent(records),
    )


def _exit_code(run: RunRecord, records: Iterable[NodeRecord]) -> Exit:
    """BUDGET when the run waits for more, or when every node that failed had used up its own."""
    failed = [n for n in records if n.state is NodeState.FAILED and not n.optional]
    by_budget = bool(failed) and all(n.code == BudgetReached.code for n in failed)
    if run.is_out_of_budget or (run.state is RunState.FAILED and by_budget):
        return Exit.BUDGET
    return _EXITS.get(run.state, Exit.FAILED)


def _budget(ledger: Ledger, run: RunRecord) -> dict[str, Any]:
    purses = {scope: purse.as_dict() for scope, purse in ledger.purses(run.id).items()}
    daily = {DAY: ledger.day(run.project).as_dict(), ORG: ledger.org().as_dict()}
    return {**purses, **daily, "estimate": ledger.estimate(run.id)}


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
        "estimated": any(u.get("estimated") for u in usages),
        "cpu_s": round(sum(float(u.get("cpu_s", 0.0)) for u in usages), 3),
        "peak_memory_mb": round(max((float(u.get("peak_memory_mb", 0.0)) for u in usages), default=0.0), 1),
    }


def _node(run: RunRecord, node: NodeRecord) -> NodeResult:
    return NodeResult(
        state=node.state.value,
        role=node.role,
        attempts=node.attempt,
        seconds=round(node.busy_ms / 1000, 3),
        output=node.output,
        optional=node.optional,
        worker=node.worker,
        base=node.base,
        commit=node.commit,
        checkpoint=run_ref(run.id, f"nodes/{node.id}") if node.commit else "",
        summary=node.summary,
        verdict=node.verdict,
        reason=node.reason,
        code=node.code if node.state is NodeState.FAILED else "",
        fix=node.fix if node.state is NodeState.FAILED else "",
        failures=node.failures,
        losses=node.losses,
        conflicts=node.conflicts,
        conflict=node.conflict,
        reused=node.reused,
        tests=node.tests,
        edges=node.edges,
        findings=node.findings,
        usage=node.usage,
    )
