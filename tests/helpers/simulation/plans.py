"""Random small runs, how each of their nodes must end whatever happens, and a desk that makes it so."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.environment import Outcome, Usage
from agentflow.errors import AcceptanceFailed, InfraError
from agentflow.spec.artifacts import Lock
from agentflow.states import NodeState
from agentflow.tasks.desk import Delivery, EmptyDesk

#: A bad node is red each time, a flaky one the first time, a troubled one meets a full disk the first time.
KINDS = ("good", "good", "good", "good", "flaky", "troubled", "bad")
PATHS = ("src", "src/a", "src/a/x.py", "docs")
ROLES = ("coder", "tester")
RETRIES = 2
#: Tokens of a paid call: what is reserved, and what it costs then.
ESTIMATE, BILL = 20, 10


def make_plan(rng: random.Random, name: str) -> Plan:
    """A random DAG with locks, limits, optional nodes, and nodes that fail."""
    return Plan(
        feature=name,
        nodes=tuple(_node(rng, number) for number in range(rng.randint(2, 7))),
        max_concurrent=rng.choice((0, 1, 2)),
    )


def _node(rng: random.Random, number: int) -> PlanNode:
    mode = rng.choice(("write", "write", "read", "append"))
    locks = (Lock(rng.choice(PATHS), mode),) if rng.random() < 0.4 else ()
    needs = sorted(rng.sample(range(number), min(number, rng.choice((0, 1, 1, 2)))))
    kind = rng.choice(KINDS)
    return PlanNode(
        id=f"n{number}",
        role=rng.choice(ROLES),
        needs=tuple(f"n{parent}" for parent in needs),
        locks=locks,
        declared=bool(locks),
        optional=rng.random() < 0.2,
        retries=RETRIES,
        runner={
            "type": "simulated",
            "kind": kind,
            "seconds": rng.choice((0.0, 0.3, 2.0, 6.0)),
            "path": "" if locks or rng.random() < 0.5 else rng.choice(PATHS),
        },
    )


def oracle(plan: Plan) -> dict[str, NodeState]:
    """How every node must end."""
    ends: dict[str, NodeState] = {}
    harmful: set[str] = set()
    for node in plan.nodes:
        if harmful.intersection(plan.parents[node.id]):
            ends[node.id] = NodeState.SKIPPED
        else:
            ends[node.id] = NodeState.FAILED if node.runner["kind"] == "bad" else NodeState.SUCCEEDED
        if ends[node.id] is not NodeState.SUCCEEDED and not node.optional:
            harmful.add(node.id)
    return ends


class SimulatedDesk(EmptyDesk):
    """The steps of an attempt that touch files: they take virtual time and come out as the plan says."""

    def __init__(
        self,
        attempt: Any,
        sleep: Callable[[float], None],
        step: Callable[[str], None],
        answered: Counter[str],
    ) -> None:
        super().__init__(attempt)
        self._sleep, self._step, self._answered = sleep, step, answered
        self._runner = attempt.node.runner

    def prepare(self) -> None:
        if self._runner["kind"] == "troubled" and not self._attempt.record.troubles:
            raise InfraError("the disk is full")

    def run(self) -> Outcome:
        # One paid call: it may be the last thing that its worker does.
        meter = self._attempt.meter
        meter.reserve(Usage(calls=1, input_tokens=ESTIMATE))
        self._step(f"calls the model for {self._attempt.node.id}")
        self._answered[self._attempt.run.id] += 1
        meter.charge(Usage(calls=1, input_tokens=BILL))
        left = float(self._runner["seconds"])
        while left > 0:
            self._step(f"works on {self._attempt.node.id}")
            self._sleep(min(left, 0.25))
            left -= 0.25
            self._attempt.held.stop.check()
        return Outcome(summary=self._attempt.node.id)

    def deliver(self, outcome: Outcome) -> Delivery:
        del outcome
        locks = self._attempt.node.locks
        path = self._runner["path"] or next((lock.path for lock in locks if lock.mode != "read"), "")
        return Delivery(f"commit-of-{self._attempt.node.id}" if path else "", (path,) if path else ())

    def judge(self, delivery: Delivery) -> None:
        del delivery
        kind = self._runner["kind"]
        if kind == "bad" or (kind == "flaky" and not self._attempt.record.failures):
            raise AcceptanceFailed("its tests are red")

    def share(self, delivery: Delivery) -> None:
        del delivery
        self._sleep(0.0)
