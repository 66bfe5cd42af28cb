"""Simulated workers: the product's attempts, integration and reconciler, on fibers that can die or stall."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry
from helpers.simulation.broker import Message, SimulatedFleet
from helpers.simulation.fibers import Fiber

from agentflow.canvas.compile import INTEGRATE
from agentflow.tasks import attempt, integrate
from agentflow.tasks.attempts import Attempts
from agentflow.tasks.context import Context
from agentflow.tasks.maintenance import Reconciler

if TYPE_CHECKING:
    from helpers.simulation.world import World

BEAT_S = 1.0
SCAN_S = 0.8
SLOTS = 2
QUEUES = ("coder", "tester")


@dataclass(slots=True)
class Running:
    """A message that a worker has taken and not acknowledged."""

    message: Message
    fiber: Fiber


@dataclass(slots=True)
class SimulatedWorker:
    """One worker process."""

    world: World
    name: str
    context: Context
    attempts: Attempts = field(default_factory=Attempts)
    is_dead: bool = False
    stalled_until_us: int = 0
    running: list[Running] = field(default_factory=list)
    service: list[Fiber] = field(default_factory=list)

    def start(self) -> None:
        """Begin to beat and to scan."""
        reconciler: Any = Reconciler(self.context, self.name)
        reconciler._fleet = SimulatedFleet(self.world.client, self.world.broker)
        self.service = [
            Fiber(f"{self.name} heart", lambda: self._for_ever(self._beat, BEAT_S)),
            Fiber(f"{self.name} scan", lambda: self._for_ever(reconciler.scan, SCAN_S)),
        ]

    def fibers(self) -> list[Fiber]:
        """Everything that it does."""
        return [*self.service, *(running.fiber for running in self.running)]

    def can_take(self, now_us: int) -> bool:
        """Whether it would take a message now."""
        busy = sum(not running.fiber.is_done for running in self.running)
        return not self.is_dead and self.stalled_until_us <= now_us and busy < SLOTS

    def take(self, message: Message) -> None:
        """Begin with a message."""
        fiber = Fiber(f"{self.name} {message.run}/{message.nodes[0]}", lambda: self._perform(message))
        self.running.append(Running(message, fiber))

    def _for_ever(self, work: Any, seconds: float) -> None:
        while True:
            work()
            self.world.sleep(seconds)

    def _beat(self) -> None:
        ledger = self.context.ledger
        ttl_ms = self.context.config.lease_ttl_ms
        for key, why in ledger.renew(self.attempts.alive(), ttl_ms=ttl_ms).items():
            self.attempts.end(key, why)
        busy, now_ms = len(self.attempts), ledger.now_ms()
        fleet = SimulatedFleet(self.world.client, self.world.broker)
        fleet.register(self.name, pid=1, host="h", slots=SLOTS, roles=QUEUES, busy=busy, now_ms=now_ms)

    def _perform(self, message: Message) -> None:
        """What Celery does with a task: run it, and when it succeeded send the rest of its chain."""
        head, *rest = message.nodes
        try:
            if head == INTEGRATE:
                integrate.integrate.run(message.run, INTEGRATE)
            else:
                attempt.perform(self.context, message.run, head, self.name)
        except Reject:
            self.world.broker.send(message)
        except (Ignore, Retry, attempt.NodeFailed):
            pass
        else:
            if rest:
                queue = self.context.known(message.run).canvas.queue_of(rest[0])
                self.world.broker.send(Message(message.run, tuple(rest), queue))
