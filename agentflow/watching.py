"""Calling back for the transitions of some runs and nodes, from a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self

from agentflow.store.client import Unreachable, connect
from agentflow.store.events import EventLog
from agentflow.store.records import Event

log = logging.getLogger("agentflow.watch")

#: How long one look for transitions lasts; `stop` takes at most that long.
BLOCK_MS = 250
#: Before Redis is asked again that did not answer.
AWAY_S = 1.0


class Watch:
    """A thread that calls back for each transition of the named runs and nodes, in their order.

    It begins when it is made and ends with `stop` (or the `with` block), after the transitions until then.
    A callback that raises ends it too; `error` keeps the exception and `stop` raises it. While Redis is
    away it waits.
    """

    def __init__(self, names: Collection[str], callback: Callable[[Event], None], url: str) -> None:
        self.names = frozenset(names)
        self.url = url
        self.error: Exception | None = None
        self._callback = callback
        self._stopping = threading.Event()
        self._events = EventLog(connect(url))
        # Taken now, not in the thread: what happens after this call is seen.
        self._from = _position(self._events.last())
        self._thread = threading.Thread(target=self._run, name="agentflow-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what has happened so far was told; raises what the callback raised. Harmless twice."""
        self._stopping.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        error, self.error = self.error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        after = "0"
        while True:
            last = self._stopping.is_set()
            try:
                batch = self._events.read(after=after, block_ms=0 if last else BLOCK_MS)
            except Unreachable as error:
                log.warning("Redis is away, the watch waits: %s", error)
                if self._stopping.wait(AWAY_S):
                    return
                continue
            try:
                for event in batch:
                    after = event.id
                    if self._wanted(event):
                        self._callback(event)
            except Exception as error:  # noqa: BLE001 (a callback may raise anything; `stop` raises it again)
                self.error = error
                return
            if last and not batch:
                return

    def _wanted(self, event: Event) -> bool:
        """Whether it is about one of the names; of the past only what a named run did."""
        if event.run in self.names or f"{event.run}/{event.node}" in self.names:
            return True
        return event.node in self.names and _position(event.id) > self._from


def _position(event_id: str) -> tuple[int, int]:
    """The place of an event in the stream, as numbers."""
    time_ms, _, count = event_id.partition("-")
    return int(time_ms), int(count or 0)
