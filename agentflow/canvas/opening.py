"""Writes a plan into the ledger: the run, its nodes and their edges, the integration last."""

from __future__ import annotations

import json

from agentflow.canvas.plan import PRIORITY_ORDER, Plan
from agentflow.canvas.routing import SYSTEM_QUEUE, queue_of
from agentflow.canvas.spending import urgencies
from agentflow.spec.artifacts import Lock, lock_path, needed_locks
from agentflow.store.budgets import limits_of
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
        # To the ledger a rollback is a stop; what is undone then is seen to when the run is closed.
        "on_failure": "stop" if plan.on_failure == "rollback" else plan.on_failure,
        "timeout_ms": int(plan.timeout_s * 1000),
        "max_losses": plan.max_losses,
        "exclusive": json.dumps([lock.text for lock in exclusive_locks(plan)]) if plan.exclusive else "",
        **{f"most:{name}": most for name, most in plan.spending.classes.items()},
    }
    ledger.open_run(run, node_specs(plan), plan.model_dump_json(), budget=limits_of(plan.spending.limits))


def node_specs(plan: Plan) -> list[NodeSpec]:
    """What the ledger must know of each node; the sinks' common child is the integration."""
    children: dict[str, list[str]] = {node.id: [] for node in plan.nodes}
    for node, parents in plan.parents.items():
        for parent in parents:
            children[parent].append(node)
    for sink in plan.sinks:
        children[sink].append(INTEGRATE)
    urgency = _urgencies(plan)
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
            queue_ms=int(n.queue_timeout_s * 1000),
            complexity=n.complexity,
            urgency=urgency.get(n.id),
        )
        for n in plan.nodes
    ]
    end = NodeSpec(INTEGRATE, INTEGRATE, plan.sinks, (), tolerant=True, output="report", queue=SYSTEM_QUEUE)
    return [*specs, end]


def _urgencies(plan: Plan) -> dict[str, int]:
    """What decides who goes first near the end of a budget; nothing where all nodes are alike."""
    importance = {n.id: PRIORITY_ORDER[n.priority] for n in plan.nodes}
    return urgencies(importance, plan.parents) if len(set(importance.values())) > 1 else {}


def exclusive_locks(plan: Plan) -> tuple[Lock, ...]:
    """What an exclusive run locks: all that its nodes may write, append to, or keep from being written."""
    locks = [lock for node in plan.nodes for lock in node.locks if lock.mode != "write"]
    for node in plan.nodes:
        if node.output == "change":
            written = [p for p in node.artifacts if p not in node.appends]
            locks += [Lock(lock_path(p)) for p in (written if node.artifacts else ["**"])]
    return needed_locks(locks)
