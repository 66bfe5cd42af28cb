"""Upward ranks from measured durations: which nodes of a plan go first within their priority.

The rank of a node is the longest way, in seconds, from its start to the end of the feature (Topcuoglu,
Hariri and Wu 2002). It decides which parked node wakes first (`PlanNode.order`) and the message priority
inside the user's band (`routing.priority_of`). A plan that nothing is known of keeps the ranks that
`make_plan` gave it, which count nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentflow import graph
from agentflow.canvas.plan import Plan
from agentflow.canvas.routing import priority_of
from agentflow.store.durations import Durations

#: The largest rank of a plan. A user priority is a step of a million in `PlanNode.order`, and no rank may
#: reach into the next one.
RANK_MAX = 400_000.0


def ranked(plan: Plan, durations: Durations) -> Plan:
    """The same plan with ranks in seconds, as far as durations are known."""
    if not durations.known:
        return plan
    ranks = ranks_of(plan, {n.id: durations.expected_s(n.role, n.id) for n in plan.nodes})
    longest = max(ranks.values(), default=1.0)
    nodes = tuple(
        n.model_copy(
            update={
                "rank": ranks[n.id],
                "message_priority": priority_of(n.priority, ranks[n.id], longest),
            }
        )
        for n in plan.nodes
    )
    # Made anew: a copy would keep what the old one has computed from its nodes.
    fields = {name: getattr(plan, name) for name in Plan.model_fields}
    return Plan.model_validate({**fields, "nodes": nodes})


def ranks_of(plan: Plan, seconds: Mapping[str, float]) -> dict[str, float]:
    """The upward rank of each node with these weights, none above `RANK_MAX`."""
    ranks = graph.upward_rank(plan.parents, seconds)
    scale = min(1.0, RANK_MAX / max(ranks.values(), default=1.0)) if any(ranks.values()) else 1.0
    return {node: rank * scale for node, rank in ranks.items()}
