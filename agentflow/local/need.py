"""How many workers are needed: by open runs on a private server, by what waits when autoscaling is on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from agentflow.app import SYSTEM_QUEUE
from agentflow.local.crew import Connect
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.limits import FLEET
from agentflow.store.orders import OrderBook, Orders
from agentflow.store.reading import RunNotFoundError
from agentflow.store.records import RunRecord

log = logging.getLogger("agentflow.supervisor")

#: How long a worker that was asked for waits for the asker's run (the submitter is still reading).
EXPECT_S = 60.0
#: How long the worker outlives the last run: the submitter may have a word to say about its end.
LINGER_S = 2.0
#: Seconds that too few, or too many, workers must have been there before their number is changed.
UP_S = 1.0
DOWN_S = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the ledger shows. `waiting`: nodes that wait for a slot; `limit`: 0 is none.

    `busy`: attempts of the workers that serve, by name.
    """

    orders: Orders = field(default_factory=Orders)
    open_runs: bool = False
    waiting: int = 0
    limit: int = 0
    busy: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """`fleet` of the configuration of whoever asked last."""

    autoscale: bool = False
    min_workers: int = 0
    max_workers: int = 4
    slots_per_worker: int = 32

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """From a question's values."""
        return cls(**{name: values[name] for name in cls.__slots__ if name in values})


def look(connect: Connect, queues: set[str]) -> Seen | None:
    """Ask the ledger; None when it does not answer. `queues` is added to what runs have asked for."""
    try:
        with connect() as client:
            ledger, fleet = Ledger(client), Fleet(client)
            runs = [run for run_id in ledger.open_runs() if (run := _read(ledger, run_id))]
            names = sorted(fleet.roles() | fleet.queues() | queues | {SYSTEM_QUEUE})
            in_broker = sum(fleet.queue_lengths(names).values()) if runs else 0
            return Seen(
                orders=OrderBook(client).read(),
                open_runs=any(run.wants_worker for run in runs),
                waiting=in_broker + sum(ledger.waiting().values()),
                limit=ledger.limits().get(FLEET, 0),
                busy={worker.name: worker.busy for worker in ledger.workers() if worker.state != "waiting"},
            )
    except (redis.RedisError, OSError) as error:
        log.warning("cannot look at the ledger: %s", error)
        return None


def _read(ledger: Ledger, run_id: str) -> RunRecord | None:
    """A run; None when its record is gone or broken, which must not end the workers of the others."""
    try:
        return ledger.run(run_id)
    except (RunNotFoundError, ValueError):
        return None


class Need:
    """Whether a worker is needed: some run is open, or a command said that its run is coming."""

    def __init__(self) -> None:
        self._until = 0.0
        self._expected_until = 0.0

    @property
    def exists(self) -> bool:
        """The answer as of the last look."""
        return time.monotonic() < max(self._until, self._expected_until)

    def expect(self) -> None:
        """A command is about to open a run, or has just done so."""
        self._expected_until = time.monotonic() + EXPECT_S

    def note(self, seen: Seen, period_s: float) -> None:
        """A run that is open is what was expected; should another one still come, the next look finds it."""
        if seen.open_runs:
            self._until = time.monotonic() + LINGER_S + period_s
            self._expected_until = 0.0


class Scaling:
    """How many workers there should be. A change must have been due for a while: quick up, slow down, and
    down one at a time.
    """

    def __init__(self, *, up_s: float = UP_S, down_s: float = DOWN_S) -> None:
        self._up_s = up_s
        self._down_s = down_s
        self._since = 0.0
        self._direction = 0

    def desired(self, settings: Settings, live: int, busy: int, waiting: int, limit: int, now: float) -> int:
        """Processes that should run. `busy`: attempts of the `live` ones; `limit`: slots of the fleet."""
        demand = busy + waiting
        if limit:
            demand = max(busy, min(demand, limit))
        wanted = math.ceil(demand / settings.slots_per_worker)
        wanted = min(max(wanted, settings.min_workers), settings.max_workers)
        if live < settings.min_workers:
            return settings.min_workers
        direction = (wanted > live) - (wanted < live)
        if direction != self._direction:
            self._direction, self._since = direction, now
        if direction > 0 and now - self._since >= self._up_s:
            return wanted
        if direction < 0 and now - self._since >= self._down_s:
            self._since = now
            return live - 1
        return live
