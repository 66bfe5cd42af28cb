"""How a worker leaves: why, with how much patience, and whether it comes back as a fresh process."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from celery.worker import state

from agentflow.tasks.attempts import ATTEMPTS

log = logging.getLogger("agentflow.worker")

#: Seconds between two looks at whether the patience is over.
LOOK_S = 0.2


class Departure:
    """Of this process; shared by the heart, which may decide on it, and the bootstep that carries it out.

    A *patient* worker waits for its attempts as long as they take. SIGTERM ends the patience.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reason = ""
        self.again = False
        self._patient = False

    def begin(
        self,
        reason: str,
        *,
        patient: bool,
        again: bool = False,
        wake: Callable[[], None] | None = None,
    ) -> bool:
        """Take nothing more and leave; `again`: start afresh afterwards. False when that goes on already."""
        with self._lock:
            if self.reason:
                return False
            self.reason, self._patient, self.again = reason, patient, again
        ATTEMPTS.close()
        log.warning("this worker leaves: %s", reason)
        # Celery's main loop looks at this between two events.
        cast("Any", state).should_stop = os.EX_OK
        if wake:
            wake()
        return True

    def told(self) -> None:
        """SIGTERM (or Ctrl-C): leave within the grace period, for good."""
        with self._lock:
            self.reason = self.reason or "it was told to"
            self._patient = self.again = False
        ATTEMPTS.close()

    def wait(self, grace_s: float) -> bool:
        """Wait for the attempts; False when they took longer than a worker without patience gives them."""
        deadline = None
        while not ATTEMPTS.wait_empty(LOOK_S):
            if self._patient:
                continue
            deadline = deadline or time.monotonic() + grace_s
            if time.monotonic() >= deadline:
                return False
        return True


def start_afresh() -> None:
    """Become a new process with the same command line: what this one held of memory is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (the same command again)


#: Of this worker process.
DEPARTURE = Departure()
