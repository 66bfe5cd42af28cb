"""A broker that loses, doubles, delays and reorders, and a canvas that sends through it.

The canvas is the product's own: its segments, forks, joins and bodies. Only the last step is another one: a
chain does not become a Celery message, but stands in the broker as what it is, a list of nodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentflow.canvas.compile import INTEGRATE, Canvas
from agentflow.store.fleet import Fleet


@dataclass(slots=True)
class Message:
    """The rest of a segment; its first node is what a worker does now."""

    run: str
    nodes: tuple[str, ...]
    queue: str
    due_us: int = 0

    def __str__(self) -> str:
        return f"{self.run}/{'>'.join(self.nodes)}"


@dataclass(slots=True)
class Faults:
    """How often which thing goes wrong: shares of all messages, and of all steps of workers."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    crash: float = 0.0
    stall: float = 0.0
    #: Crashes and stalls in one schedule at the most.
    most: int = 4


@dataclass
class Broker:
    """Messages that nobody has taken, and what is counted of the joins."""

    rng: random.Random
    faults: Faults
    now_us: Callable[[], int]
    step: Callable[[str], None]
    tell: Callable[[str], None]
    waiting: list[Message] = field(default_factory=list)
    _arrived: dict[str, set[int]] = field(default_factory=dict)
    _fired: set[str] = field(default_factory=set)

    def send(self, message: Message) -> None:
        """Put a message in, or not, or twice."""
        self.step(f"send {message}")
        dice = self.rng.random()
        if dice < self.faults.lost:
            self.tell(f"LOST message {message}")
            return
        copies = 2 if dice > 1 - self.faults.doubled else 1
        if copies == 2:
            self.tell(f"DOUBLED message {message}")
        for _ in range(copies):
            late = self.rng.random() < self.faults.late
            delay_us = self.rng.randrange(3_000_000) if late else self.rng.randrange(20_000)
            self.waiting.append(Message(message.run, message.nodes, message.queue, self.now_us() + delay_us))

    def on_chord_part_return(self, request: Any, _state: str, _result: None) -> None:
        """What Celery's Redis backend does: each arrival counts once, the last one sends the body."""
        self.step(f"arrive {request.id}")
        arrived = self._arrived.setdefault(request.group, set())
        arrived.add(request.group_index)
        if len(arrived) == request.chord.size and request.group not in self._fired:
            self._fired.add(request.group)
            request.chord.apply_async()

    def ensure(self, _work: Any, _arguments: tuple[()]) -> None:
        """Here a chord knows its size from its body; nobody has to set it."""

    @property
    def backend(self) -> Broker:
        """The canvas asks its application for this."""
        return self


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What a signature, a chain or a group is here."""

    broker: Broker
    messages: tuple[Message, ...]
    size: int = 0

    def apply_async(self) -> None:
        for message in self.messages:
            self.broker.send(message)


class SimulatedCanvas(Canvas):
    """The product's canvas; what it sends goes through the simulated broker (its `app`)."""

    def tails(self, nodes: Sequence[str], *, woken: bool = False) -> Any:
        del woken
        return self._parcel(nodes)

    def body(self, join: Any) -> Any:
        return self._parcel(join.heads, len(join.parents))

    def _parcel(self, nodes: Sequence[str], size: int = 0) -> _Parcel:
        broker: Any = self.app
        messages = (Message(self.run_id, self._rest(node), self.queue_of(node)) for node in nodes)
        return _Parcel(broker, tuple(messages), size)

    def _rest(self, node: str) -> tuple[str, ...]:
        if node == INTEGRATE:
            return (INTEGRATE,)
        segment = self._segment_of[node]
        return segment[segment.index(node) :]


class SimulatedFleet(Fleet):
    """The register as it is; what lies in the queues is asked of the simulated broker."""

    def __init__(self, client: Any, broker: Broker) -> None:
        super().__init__(client)
        self._broker = broker

    def waiting(self, queue: str) -> set[tuple[str, str]]:
        return {(m.run, m.nodes[0]) for m in self._broker.waiting if m.queue == queue}
