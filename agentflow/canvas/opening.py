"""Writes a plan into the ledger: the run, its nodes and their edges, the integration last."""

from __future__ import annotations

import json

from agentflow.canvas.plan import Plan, lock_paths
from agentflow.canvas.routing import SYSTEM_QUEUE, queue_of
from agentflow.store.ledger import Ledger, NodeSpec
from agentflow.store.records import INTEGRATE


def open_in_ledger(
    ledger: Ledger,
    run_id: str,
    plan: Plan,
    *,
    project: str,
    repo: str,
    root: str,
    detached: bool = False,
    transport: str = "alternates",
    host: str = "",
) -> None:
    """Open a run in one transaction.

    `repo` is the object directory ('' for a run without git), `root` its work tree on the machine `host`;
    `transport` is how objects reach the workers (`RunRecord`).
    """
    run: dict[str, str | int] = {
        "id": run_id,
        "feature": plan.feature,
        "project": project,
        "repo": repo,
        "root": root,
        "base": plan.base,
        "target": plan.target,
        "detached": int(detached),
        "transport": transport,
        "host": host,
        "max_concurrent": plan.max_concurrent,
        "on_failure": plan.on_failure,
        "timeout_ms": int(plan.timeout_s * 1000),
        "exclusive": json.dumps(exclusive_paths(plan)) if plan.exclusive else "",
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
            queue=queue_of(n.role, n.queue),
        )
        for n in plan.nodes
    ]
    end = NodeSpec(INTEGRATE, INTEGRATE, plan.sinks, (), tolerant=True, output="report", queue=SYSTEM_QUEUE)
    return [*specs, end]


def exclusive_paths(plan: Plan) -> list[str]:
    """What an exclusive run locks: the union of all that its nodes may write ('' is the whole tree)."""
    patterns = [p for n in plan.nodes if n.output == "change" for p in n.artifacts or ("**",)]
    return list(lock_paths(patterns))
