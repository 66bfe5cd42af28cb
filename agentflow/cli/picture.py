"""The live view: a thread that draws what the ledger says when something has moved, and running clocks.

It reads the nodes that transitions name, not the whole run; all of it is read again now and then, for what
moves without a transition (workers come and go).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

from agentflow.cli import live, text
from agentflow.cli.lines import Line, Look
from agentflow.cli.screen import Screen
from agentflow.errors import AgentflowError
from agentflow.monitor import Event, Monitor, NodeStatus, RunStatus, waits_for
from agentflow.states import NodeState

#: Between two pictures, and the longest time without one (running clocks).
FRAME_S = 0.25
TICK_S = 1.0
#: Between two readings of the whole run: the first figure, or a 20th of a second for each node; more often
#: while nobody works, because that a worker comes is no transition.
WHOLE_S = 5.0
WHOLE_S_PER_NODE = 0.05
LONELY_S = 1.0
#: Between two readings of the register of workers while nodes move.
FLEET_S = 1.0
#: A run of more nodes is not read whole each second.
FEW_NODES = 200
#: One column is left free: a full line makes terminals wrap at different moments.
MARGIN = 1


class Picture:
    """Shows a run on a terminal while it goes on."""

    def __init__(self, monitor: Monitor, run_id: str, stream: TextIO) -> None:
        self._monitor = monitor
        self._run_id = run_id
        look = Look.of(os.environ, ascii_only=text.is_ascii_only(stream), terminal=True)
        self._screen = Screen(stream, look)
        self._events: deque[Event] = deque()
        self._moved = threading.Event()
        self._ended = threading.Event()
        self._notice = ""
        self._recalled: deque[Line] = deque()
        self._status = monitor.status(run_id)
        self._read_at = self._whole_at = self._fleet_at = time.monotonic()

    def show(self, event: Event) -> None:
        """Remember that something moved."""
        self._events.append(event)
        self._moved.set()

    def notice(self, message: str) -> None:
        """Show a line below the nodes; an empty one takes it away."""
        self._notice = message
        self._moved.set()

    def recall(self, line: str) -> None:
        """Let a line stay above the nodes that end from now on."""
        if line:
            self._recalled.append(Line(line, "dim"))
        self._moved.set()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw until the block ends; the last picture stays on the screen."""
        self._screen.open()
        drawer = threading.Thread(target=self._draw_until_ended, name="view", daemon=True)
        try:
            with _resizes(self._moved):
                drawer.start()
                yield
        finally:
            self._ended.set()
            self._moved.set()
            drawer.join()
            self._last_picture()
            self._screen.close()

    def _draw_until_ended(self) -> None:
        while not self._ended.is_set():
            self._draw()
            self._moved.wait(TICK_S)
            self._moved.clear()
            self._ended.wait(FRAME_S)

    def _last_picture(self) -> None:
        self._whole_at = float("-inf")
        self._draw()

    def _draw(self) -> None:
        settled = self._read()
        size = self._screen.size()
        width = max(1, size.columns - MARGIN)
        look = self._screen.look
        elapsed_ms = int((time.monotonic() - self._read_at) * 1000)
        status = replace(self._status, now_ms=self._status.now_ms + elapsed_ms)
        block = live.view(status, width=width, height=size.lines, notice=self._notice, look=look)
        stay = [live.fit(self._recalled.popleft(), width, look) for _ in range(len(self._recalled))]
        stay += [live.permanent(node, status.now_ms, width=width, look=look) for node in settled]
        self._screen.draw(stay, block)

    def _read(self) -> list[NodeStatus]:
        """Bring the status up to date; returns the nodes that have ended since the last time.

        While Redis is away the last picture stays, and what has moved is read later.
        """
        events = [self._events.popleft() for _ in range(len(self._events))]
        now = time.monotonic()
        every = max(WHOLE_S, WHOLE_S_PER_NODE * len(self._status.nodes))
        if self._status.is_unattended and len(self._status.nodes) <= FEW_NODES:
            every = LONELY_S
        try:
            if now - self._whole_at >= every:
                self._status = self._monitor.status(self._run_id)
                self._read_at = self._whole_at = now
            elif events:
                self._read_some({event.node for event in events if event.node})
                self._read_at = now
        except AgentflowError:
            self._events.extendleft(reversed(events))
            return []
        known = {node.id: node for node in self._status.nodes}
        return [
            _as_it_ended(known[event.node], event)
            for event in events
            if event.kind == "node.settled" and event.node in known
        ]

    def _read_some(self, ids: set[str]) -> None:
        run, found, now_ms = self._monitor.some(self._run_id, ids)
        records = {node.id: node.record for node in self._status.nodes} | found
        is_told_anew = run.standing != self._status.run.standing
        nodes = tuple(
            NodeStatus(records[node.id], waits_for(records[node.id], records, standing=run.standing))
            if node.id in found or node.state is NodeState.PENDING or is_told_anew
            else node
            for node in self._status.nodes
        )
        fleet = self._status.fleet
        if time.monotonic() - self._fleet_at >= FLEET_S:
            fleet, self._fleet_at = self._monitor.fleet_told(), time.monotonic()
        self._status = RunStatus(run, nodes, now_ms, self._status.shards, fleet)


def _as_it_ended(node: NodeStatus, event: Event) -> NodeStatus:
    """A node as a transition left it: it may have been opened again since."""
    record = replace(
        node.record,
        state=NodeState(event.state),
        reason=event.reason,
        attempt=event.attempt or node.record.attempt,
    )
    return NodeStatus(record)


@contextmanager
def _resizes(moved: threading.Event) -> Iterator[None]:
    """Draw at once when the terminal changes its size (only the main thread can be told)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGWINCH, lambda *_: moved.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
