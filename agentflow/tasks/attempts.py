"""The attempts of this worker that are running: what is renewed, drained and cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agentflow.environment import Stop

#: Seconds past its deadline after which an attempt's lease is no longer renewed.
OVERDUE_S = 30.0


@dataclass(slots=True)
class Held:
    """One claimed node in a thread of this process. `deadline` is on the monotonic clock."""

    run: str
    node: str
    fence: int
    deadline: float
    thread: threading.Thread
    stop: Stop = field(default_factory=Stop)

    @property
    def key(self) -> tuple[str, str, int]:
        """What the ledger knows it by."""
        return self.run, self.node, self.fence


class Attempts:
    """The register; shared by the worker's threads."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._held: dict[tuple[str, str, int], Held] = {}
        self._draining = ""
        self._closed = False
        #: Attempts that this process has come to the end of.
        self.ended = 0

    @contextmanager
    def holding(self, run: str, node: str, fence: int, seconds: float) -> Iterator[Held]:
        """Keep the lease of a claimed node renewed while the block runs."""
        held = Held(run, node, fence, time.monotonic() + seconds, threading.current_thread())
        with self._lock:
            self._held[held.key] = held
            draining = self._draining
        if draining:
            held.stop.set(draining)
        try:
            yield held
        finally:
            with self._lock:
                self._held.pop(held.key, None)
                self.ended += 1
                self._lock.notify_all()

    def alive(self) -> list[tuple[str, str, int]]:
        """Attempts whose thread lives and whose deadline has not long passed."""
        now = time.monotonic()
        with self._lock:
            return [
                h.key for h in self._held.values() if h.thread.is_alive() and now < h.deadline + OVERDUE_S
            ]

    def nodes(self) -> list[str]:
        """`run/node` of each."""
        with self._lock:
            return [f"{h.run}/{h.node}" for h in self._held.values()]

    def keys(self) -> list[tuple[str, str, int]]:
        """What the ledger knows them by, those that are no longer renewed too."""
        with self._lock:
            return list(self._held)

    def end(self, key: tuple[str, str, int], reason: str) -> None:
        """Tell one attempt to end."""
        with self._lock:
            held = self._held.get(key)
        if held:
            held.stop.set(reason)

    def drain(self, reason: str) -> None:
        """Tell all attempts to end, those that are just beginning too."""
        with self._lock:
            self._draining = reason
            everyone = list(self._held.values())
        for held in everyone:
            held.stop.set(reason)

    def wait_empty(self, seconds: float) -> bool:
        """Wait until nothing runs any more; False when it took longer."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._held, seconds)

    def close(self) -> None:
        """Take no further claims; what runs may go on."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether this worker is leaving."""
        return self._closed or bool(self._draining)

    def __len__(self) -> int:
        return len(self._held)


#: Of this worker process.
ATTEMPTS = Attempts()
