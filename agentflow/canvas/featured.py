"""A plan with what is set for its feature in Redis: that goes before the spec, and after a command line."""

from __future__ import annotations

from collections.abc import Mapping

from agentflow.canvas.plan import Plan
from agentflow.store.budgets import Change
from agentflow.store.features import BUDGET, LIMIT
from agentflow.store.limits import CLASS


def featured(plan: Plan, settings: Mapping[str, int], *, jobs: int | None = None) -> Plan:
    """The plan with the limits and budgets of its feature (`features.read_feature`).

    `jobs`: how many nodes at once the command line has asked for, if it did.
    """
    limits = {name.removeprefix(LIMIT): n for name, n in settings.items() if name.startswith(LIMIT)}
    spent = [
        Change(name.removeprefix(BUDGET), "set", n) for name, n in settings.items() if name.startswith(BUDGET)
    ]
    if not limits and not spent:
        return plan
    spending = plan.spending.changed(spent)
    classes = {name: limits.get(CLASS + name, most) for name, most in spending.classes.items()}
    nodes = tuple(
        node.model_copy(update={"role_limit": limits.get(node.role, node.role_limit)}) for node in plan.nodes
    )
    return plan.model_copy(
        update={
            "nodes": nodes,
            "max_concurrent": jobs or limits.get("all", plan.max_concurrent),
            "spending": spending.model_copy(update={"classes": classes}),
        }
    )
