"""Writes a plan into the ledger: the run, its nodes and their edges, the integration last."""

from __future__ import annotations

from agentflow.canvas.plan import Plan
from agentflow.store.ledger import Ledger, NodeSpec
from agentflow.store.records import INTEGRATE


def open_in_ledger(
    ledger: Ledger, run_id: str, plan: Plan, *, project: str, repo: str, root: str, detached: bool = False
) -> None:
    """Open a run in one transaction. `repo` is the object directory ('' for a run without git)."""
    run: dict[str, str | int] = {
        "id": run_id,
        "feature": plan.feature,
        "project": project,
        "repo": repo,
        "root": root,
        "base": plan.base,
        "target": plan.target,
        "detached": int(detached),
        "max_concurrent": plan.max_concurrent,
        "on_failure": plan.on_failure,
        "timeout_ms": int(plan.timeout_s * 1000),
    }
    ledger.open_run(run, node_specs(plan), plan.model_dump_json())


def node_specs(plan: Plan) -> list[NodeSpec]:
    """What the ledger must know of each node; the sinks' common child is the integration."""
    children: dict[str, list[str]] = {node.id: [] for node in plan.nodes}
    for node, parents in plan.parents.items():
        for parent in parents:
            children[parent].append(node)
    for sink in plan.sinks:
        children[sink].append(INTEGRATE)
    specs = [
        NodeSpec(
            id=n.id,
            role=n.role,
            parents=plan.parents[n.id],
            children=children[n.id],
            locks=n.locks,
            role_limit=n.role_limit,
            order=n.order,
            optional=n.optional,
            output=n.output,
        )
        for n in plan.nodes
    ]
    return [*specs, NodeSpec(INTEGRATE, INTEGRATE, plan.sinks, (), tolerant=True, output="report")]
