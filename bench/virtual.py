"""Runs of a plan on a real ledger whose attempts take time on a virtual clock only.

The product decides: plan, ranks, order of waking and admission are its own, and every transition is a
real script. Here are only the clock, the slots of a worker that never rests, and messages that arrive at
once, by message priority and then as they were sent.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan
from agentflow.canvas.routing import WOKEN_PRIORITY
from agentflow.states import NodeState, RunState
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE

LEASE_MS = 3_600_000


@dataclass(slots=True)
class VirtualRun:
    """One run; `makespan` is the end of its last node, `started` its nodes as they began (seconds)."""

    ledger: Ledger
    plan: Plan
    seconds: Mapping[str, float]
    run_id: str
    makespan: float = 0.0
    started: list[tuple[float, str]] = field(default_factory=list)
    _messages: list[tuple[int, int, str]] = field(default_factory=list)
    _ends: list[tuple[float, int, str, int]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def play(self) -> float:
        """From the submission to the end of the integration; the makespan."""
        open_in_ledger(self.ledger, self.run_id, self.plan, project="virtual", repo="", root="")
        self._send([n.id for n in self.plan.nodes if not n.needs])
        self._deliver()
        while self._ends:
            self.makespan, _, node, fence = heapq.heappop(self._ends)
            answer = self.ledger.settle(self.run_id, node, fence, NodeState.SUCCEEDED)
            self._send([name for name in answer.ready if name != INTEGRATE])
            self._send_woken([*answer.woken, *(name for _, name in answer.others)])
            self._deliver()
        self._close()
        return self.makespan

    def _send(self, nodes: Sequence[str]) -> None:
        """In their order, as the canvas does it."""
        for node in sorted((self.plan.by_id[name] for name in nodes), key=lambda n: n.order):
            heapq.heappush(self._messages, (node.message_priority, next(self._count), node.id))

    def _send_woken(self, nodes: Sequence[str]) -> None:
        for node in nodes:
            heapq.heappush(self._messages, (WOKEN_PRIORITY, next(self._count), node))

    def _deliver(self) -> None:
        while self._messages:
            node = heapq.heappop(self._messages)[2]
            claim = self.ledger.claim(self.run_id, node, worker="virtual", ttl_ms=LEASE_MS)
            self._send_woken([*claim.answer.woken, *(name for _, name in claim.answer.others)])
            if claim.granted:
                self.started.append((self.makespan, node))
                end = self.makespan + self.seconds[node]
                heapq.heappush(self._ends, (end, next(self._count), node, claim.fence))

    def _close(self) -> None:
        claim = self.ledger.claim(self.run_id, INTEGRATE, worker="virtual", ttl_ms=LEASE_MS)
        if not claim.granted:
            nodes = self.ledger.nodes(self.run_id).values()
            left = [n.id for n in nodes if n.state is not NodeState.SUCCEEDED]
            raise RuntimeError(f"{self.run_id} came to a stop: {left}")
        self.ledger.settle(self.run_id, INTEGRATE, claim.fence, NodeState.SUCCEEDED)
        self.ledger.close(self.run_id, RunState.READY_TO_LAND)
        self.ledger.forget(self.run_id)
