"""Whether a worker makes progress, seen from outside: for `agentflow health`.

A process that lives is not asked for. A worker is healthy when it signs the register, keeps the leases of
what it runs renewed, and takes messages while it has room.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from agentflow import host
from agentflow.config import Config
from agentflow.store import client
from agentflow.store.client import NO_ANSWER
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.reach import reachable
from agentflow.store.records import WorkerRecord

#: Milliseconds without a sign of life (it signs every second; a loaded machine may be late).
STALE_MS = 10_000
#: Milliseconds that a lease may be past its end (the leader ends it at once when it is not asleep itself).
OVERDUE_MS = 10_000
#: Seconds that messages may lie there while a worker that serves them has free slots.
PATIENCE_S = 8.0
_LOOK_EVERY_S = 1.0

__all__ = ["NO_ANSWER", "Health", "Progress"]

#: Queue, run and node of a message that waits.
Message = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Health:
    """What one look came to. `wrong` is empty when all is well."""

    workers: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is known to be wrong."""
        return not self.wrong


class Progress:
    """Judges workers by one ledger. Every method raises `InfraError` when Redis cannot be used."""

    def __init__(self, config: Config) -> None:
        self._url = config.client_url()
        self._client = client.connect(self._url)
        self._ledger = Ledger(self._client)

    def judge(
        self,
        wanted: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        wait: Callable[[float], None] = time.sleep,
    ) -> Health:
        """The health of the workers of this host, or of the one that is named (or its part before the @)."""
        client.check(self._client, self._url)
        with reachable(self._url):
            machine = socket.gethostname()
            mine = {name: r for name, r in self._register().items() if _is_meant(r, wanted, machine)}
            mine = mine if wanted else self._without_the_dead(mine)
            if not mine:
                told = f"called {wanted}" if wanted else f"of the host {machine}"
                return Health(wrong=(f"no worker {told} is on the register",))
            wrong = [line for record in mine.values() for line in self._signs(record)]
            return Health(tuple(mine), tuple(wrong or self._stuck(mine, patience_s, wait)))

    def _register(self) -> dict[str, WorkerRecord]:
        return {record.name: record for record in self._ledger.workers()}

    def _without_the_dead(self, mine: Mapping[str, WorkerRecord]) -> dict[str, WorkerRecord]:
        """Who was killed stays on the register for a minute; what counts is who serves in its place.

        A process that is silent and still there hangs, and is judged. Of a container that was replaced nobody
        can tell, so it counts only when nobody signs.
        """
        now, here = self._ledger.now_ms(), host.place()
        signing = {name for name, r in mine.items() if now - r.seen_ms <= STALE_MS}
        return {
            name: r
            for name, r in mine.items()
            if name in signing or (not _is_gone(r) if r.place == here else not signing)
        }

    def _signs(self, record: WorkerRecord) -> Iterator[str]:
        """Whether it signs the register and renews its leases."""
        now = self._ledger.now_ms()
        if now - record.seen_ms > STALE_MS:
            yield f"{record.name} has not signed the register for {(now - record.seen_ms) / 1000:.0f} s"
            return
        for (run, node, _), end in self._ledger.leases().items():
            if now - end > OVERDUE_MS and self._ledger.fields(run, node, "worker") == (record.name,):
                late = f"{(now - end) / 1000:.0f} s"
                yield f"{record.name} has not renewed its lease of {node} in run {run} for {late}"

    def _stuck(
        self, mine: Mapping[str, WorkerRecord], patience_s: float, wait: Callable[[float], None]
    ) -> Iterator[str]:
        """Whether messages lie in a worker's queues, the same all the time, while it has free slots."""
        lying = {name: self._lying(record) for name, record in mine.items()}
        until = time.monotonic() + patience_s
        while any(lying.values()) and time.monotonic() < until:
            wait(_LOOK_EVERY_S)
            now = self._register()
            for name, before in lying.items():
                lying[name] = before & self._lying(now[name]) if before and name in now else frozenset()
        for name, left in lying.items():
            if left:
                queue, run, node = min(left)
                yield (
                    f"{name} has free slots and takes nothing from the queue {queue}: "
                    f"{node} of run {run} waits there ({len(left)} in all)"
                )

    def _lying(self, record: WorkerRecord) -> frozenset[Message]:
        """The messages that wait for this worker although it has room."""
        if record.busy >= record.offered:
            return frozenset()
        fleet = Fleet(self._client)
        queues = record.queues or record.roles
        return frozenset((name, *pair) for name in queues for pair in fleet.waiting(name))


def _is_gone(record: WorkerRecord) -> bool:
    """Whether it was a process of this machine that is no more."""
    return bool(record.born) and host.born(record.pid) != record.born


def _is_meant(record: WorkerRecord, wanted: str | None, machine: str) -> bool:
    if wanted is None:
        return record.host == machine
    return wanted in (record.name, record.name.partition("@")[0])
