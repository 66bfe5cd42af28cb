"""Whether this worker takes more: load of its machine, its own memory, how long it has been idle.

A worker that holds back asks the broker for one message at a time. One with nothing running thus always
takes one, so that no load, however high, starves a run.
"""

from __future__ import annotations

import time
from typing import Any

from agentflow import host
from agentflow.config import Config
from agentflow.tasks.attempts import ATTEMPTS

#: Percent below a limit at which a worker that held back takes on again.
MARGIN_PERCENT = 5.0
#: Seconds between two measurements of its own memory: with a ceiling, and for the register alone (its
#: children are looked for in the process table).
MEASURE_S = 2.0
MEASURE_IDLY_S = 10.0


class Admission:
    """What one worker process may take. `look()` with every beat."""

    def __init__(self, config: Config) -> None:
        self._worker = config.worker
        self._next_measure = 0.0
        self._last_busy = time.monotonic()
        self._ended = 0
        #: Why it holds back; '' when it does not.
        self.reason = ""
        #: Resident memory of this process and its children, in MB.
        self.memory_mb = 0

    def look(self) -> None:
        """Measure."""
        now = time.monotonic()
        ended = ATTEMPTS.ended
        if len(ATTEMPTS) or ended != self._ended:
            self._last_busy, self._ended = now, ended
        if now >= self._next_measure:
            self._next_measure = now + (MEASURE_S if self._worker.max_memory_mb else MEASURE_IDLY_S)
            self.memory_mb = host.own_memory_mb()
        self.reason = self._pressure()

    def _pressure(self) -> str:
        limits = (
            ("memory", self._worker.host_memory_percent, host.memory_percent),
            ("processors", self._worker.host_cpu_percent, host.cpu_percent),
        )
        for what, limit, measure in limits:
            if limit:
                used = measure()
                if used >= limit - (MARGIN_PERCENT if self.reason.startswith(what) else 0):
                    return f"{what} of the machine {used:.0f} % in use, limit {limit} %"
        return ""

    def over_ceiling(self) -> str:
        """Why this process should start afresh; '' when it need not.

        One that has done nothing yet stays: a fresh one would be as large.
        """
        ceiling = self._worker.max_memory_mb
        if ceiling and self.memory_mb > ceiling and ATTEMPTS.ended:
            return f"its memory of {self.memory_mb} MB is above the ceiling of {ceiling} MB"
        return ""

    def idle_for_too_long(self) -> str:
        """Why this worker should leave; '' when it should not."""
        minutes = self._worker.idle_minutes
        if minutes and time.monotonic() - self._last_busy > minutes * 60:
            return f"idle for {minutes:g} min"
        return ""

    def apply(self, consumer: Any) -> None:
        """Let the broker hand out as many messages as there are slots, or one at a time.

        Celery's loop passes a changed value on. After a lost connection there is a new counter, which begins
        with all slots; the next beat sets it.
        """
        qos = getattr(consumer, "qos", None)
        if qos is None:
            return
        wanted = 1 if self.reason else consumer.initial_prefetch_count
        if qos.value != wanted:
            with qos._mutex:  # noqa: SLF001 (its public methods only step up and down)
                qos.value = wanted

    def room(self, slots: int) -> int:
        """Slots that it serves now."""
        return min(slots, max(1, len(ATTEMPTS))) if self.reason else slots
