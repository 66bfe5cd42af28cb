"""The worker processes that a supervisor keeps."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

import redis

from agentflow.local.control import Paths
from agentflow.local.worker import Worker
from agentflow.store.client import Unreachable
from agentflow.store.ledger import Ledger
from agentflow.store.orders import OrderBook

log = logging.getLogger("agentflow.supervisor")

Connect = Callable[[], AbstractContextManager[redis.Redis]]


class Crew:
    """Workers by kind: `local` (one for the private server), `auto` (by need), others (spawned)."""

    def __init__(self, paths: Paths, connect: Connect) -> None:
        self._paths = paths
        self._connect = connect
        self._workers: list[Worker] = []

    def __len__(self) -> int:
        """How many are kept, those that leave not counted."""
        return len(self.staying())

    def staying(self, kind: str = "") -> list[Worker]:
        """Workers (of a kind) that have not been told to leave."""
        return [w for w in self._workers if not w.is_leaving and kind in ("", w.kind)]

    @property
    def is_empty(self) -> bool:
        """Whether there is none, not even a leaving one."""
        return not self._workers

    @property
    def failures(self) -> int:
        """Workers that died at their start, in a row, at the same place."""
        return max((w.failures for w in self._workers), default=0)

    def hire(self, kind: str, slots: int, queues: tuple[str, ...], environment: Mapping[str, str]) -> Worker:
        """Add a worker and start it."""
        taken = {w.log_file for w in self._workers}
        number = 1
        while (log_file := self._paths.log("worker" if number == 1 else f"worker-{number}")) in taken:
            number += 1
        worker = Worker(kind, slots, queues, log_file, self._paths.data_dir)
        self._workers.append(worker)
        worker.start(environment)
        return worker

    def refill(self, environment: Mapping[str, str]) -> bool:
        """Start what has died and is still wanted; whether any was started."""
        before = [w.pid for w in self._workers]
        for worker in self._workers:
            worker.start(environment)
        return before != [w.pid for w in self._workers]

    def reap(self) -> bool:
        """Whether a worker has just ended; what it still held is then ready again."""
        ended = [found for worker in self._workers if (found := worker.reap())]
        for name, _ in ended:
            self._give_back(name)
        self._workers = [w for w in self._workers if w.pid or not w.is_leaving]
        return bool(ended)

    def _give_back(self, name: str) -> None:
        with contextlib.suppress(redis.RedisError, OSError, *Unreachable), self._connect() as client:
            for attempt in Ledger(client).expire_worker(name):
                log.info("gave back %s", attempt)
            OrderBook(client).obeyed(name)

    def stop(self, kind: str = "") -> None:
        """Tell all (of a kind) to leave now."""
        for worker in self.staying(kind):
            worker.stop()
        self._workers = [w for w in self._workers if w.pid or not w.is_leaving]

    def dismiss(self, count: int, busy: Mapping[str, int], reason: str, kind: str = "") -> None:
        """Let so many leave when they have finished what they have, the least busy and youngest first.

        `busy`: attempts of the workers on the register. One that is not there yet leaves at once.
        """
        staying = self.staying(kind)
        order = sorted(staying, key=lambda w: (busy.get(w.name, 0), -staying.index(w)))
        for worker in order[:count]:
            if worker.name not in busy:
                worker.stop()
                continue
            with self._connect() as client:
                OrderBook(client).dismiss(worker.name, reason)
            worker.dismissed()

    def abandon(self, serving: Collection[str]) -> None:
        """Nobody gets a successor: the fleet is drained.

        Those in `serving` know it and leave by themselves; one that is still starting is told to go.
        """
        for worker in self._workers:
            if worker.name in serving:
                worker.dismissed()
            else:
                worker.stop()
        self._workers = [w for w in self._workers if w.pid]

    def close(self) -> None:
        """End all, waiting for them."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.wait()
        self.reap()

    def describe(self) -> list[dict[str, Any]]:
        """The processes, for status and for the successor of a killed supervisor."""
        return [
            {
                "name": w.name, "pid": w.pid, "slots": w.slots, "queues": list(w.queues), "kind": w.kind,
                "leaving": w.is_leaving,
            }
            for w in self._workers
            if w.pid
        ]  # fmt: skip
