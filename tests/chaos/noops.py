"""Random plans of no-op nodes, and how each node of one must end."""

from __future__ import annotations

import random

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.states import NodeState

#: Seconds of work; a failing node does not fit into its deadline.
SECONDS = (0.0, 0.0, 0.1, 0.4)
PATHS = ("src", "src/a", "src/a/x.py", "src/b.py", "docs")


def make_plan(rng: random.Random, name: str, size: int) -> Plan:
    """A random DAG with optional and failing nodes, locks, and limits."""
    nodes = []
    for i in range(size):
        fails = rng.random() < 0.12
        locks = (rng.choice(PATHS),) if rng.random() < 0.3 else ()
        nodes.append(
            PlanNode(
                id=f"n{i}",
                role="implementer",
                needs=tuple(
                    f"n{p}" for p in sorted(rng.sample(range(i), min(i, rng.choice((0, 1, 1, 2, 3)))))
                ),
                locks=locks,
                declared=bool(locks),
                optional=rng.random() < 0.7,
                retries=1 if fails else 2,
                timeout_s=0.05 if fails else 600,
                runner={"type": "noop", "seconds": 1.0 if fails else rng.choice(SECONDS)},
            )
        )
    return Plan(feature=name, nodes=tuple(nodes), max_concurrent=rng.choice((0, 5)))


def ends_of(plan: Plan) -> dict[str, NodeState]:
    """How every node must end, whatever happens to workers and server."""
    ends: dict[str, NodeState] = {}
    harmful = set()
    for node in plan.nodes:
        if harmful.intersection(plan.parents[node.id]):
            ends[node.id] = NodeState.SKIPPED
        else:
            ends[node.id] = NodeState.FAILED if node.timeout_s < 1 else NodeState.SUCCEEDED
        if ends[node.id] is not NodeState.SUCCEEDED and not node.optional:
            harmful.add(node.id)
    return ends
