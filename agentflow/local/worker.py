"""One kept worker process: started, told to leave, replaced with growing pauses when it dies."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from agentflow.local import server
from agentflow.local.launching import WorkerSpec, new_name

log = logging.getLogger("agentflow.supervisor")

#: How long a worker may take to leave before it is killed: its own grace for attempts that are about to
#: end, the release of those that are not, and some.
GRACE_S = 30.0
#: A worker that lives shorter than this is followed after a pause, which doubles up to the last value.
SHORT_LIFE_S = 5.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
#: Size from which a log is set aside when it is next opened.
LOG_CAP = 10 << 20


class Worker:
    """A place for one worker process at a time. Call `reap()` whenever a child may have ended.

    The name of its process is new each time, so that the attempts of a dead one can be told from its
    successor's.
    """

    def __init__(self, kind: str, slots: int, queues: tuple[str, ...], log_file: Path, cwd: Path) -> None:
        self.kind = kind
        self.slots = slots
        self.queues = queues
        self.log_file = log_file
        self.name = ""
        #: Early deaths in a row.
        self.failures = 0
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._kill_at = 0.0
        self._not_before = 0.0
        self._is_leaving = False

    @property
    def pid(self) -> int:
        """Its process id; 0 when there is none."""
        return self._process.pid if self._process else 0

    @property
    def is_leaving(self) -> bool:
        """Whether it has been told to leave: it gets no successor."""
        return self._is_leaving

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it unless it runs, is to leave, or the pause after an early death is not over."""
        if self._process is not None or self._is_leaving or time.monotonic() < self._not_before:
            return
        self.name = new_name(self.kind)
        argv = WorkerSpec(self.name, self.slots, self.queues).argv()
        try:
            with append(self.log_file) as stream:
                self._process = subprocess.Popen(
                    server.tied([*argv, "--loglevel", "INFO"], signal.SIGKILL),
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    cwd=self._cwd,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:  # no process or descriptor is left: that must not end the others
            log.warning("worker %s cannot be started: %s", self.name, error)
            self._pause(early=True)
            return
        self._started = time.monotonic()
        log.info("worker %s is process %d", self.name, self.pid)

    def dismissed(self) -> None:
        """It was told, through the ledger, to leave when it has finished what it has."""
        self._is_leaving = True

    def stop(self) -> None:
        """Ask it to leave now, once; `reap()` kills it when it does not within `GRACE_S`."""
        self._is_leaving = True
        if self._process is not None and not self._kill_at:
            self._kill_at = time.monotonic() + GRACE_S
            self._process.terminate()

    def reap(self) -> tuple[str, int] | None:
        """Name and exit code of the process that has just ended, if it has."""
        if self._process is None:
            return None
        if self._kill_at and time.monotonic() > self._kill_at:
            self._process.kill()
        code = self._process.poll()
        if code is None:
            return None
        ended, self._process, self.name = self.name, None, ""
        early = not self._is_leaving and time.monotonic() - self._started < SHORT_LIFE_S
        # One that ends well without being told has its reasons (idle, drained): nobody takes its place.
        self._is_leaving = self._is_leaving or code == 0
        log.log(logging.INFO if self._is_leaving else logging.WARNING, "worker %s left (%d)", ended, code)
        self._pause(early=early)
        return ended, code

    def _pause(self, *, early: bool) -> None:
        """Let the next start wait, the longer the more often it failed."""
        self.failures = self.failures + 1 if early else 0
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.failures - 1)) if early else 0.0
        self._not_before = time.monotonic() + pause

    def wait(self) -> None:
        """Wait for one that was told to leave; kill it when its time is over."""
        if self._process is not None:
            end(self._process, max(0.0, self._kill_at - time.monotonic()))


def append(path: Path) -> IO[bytes]:
    """A log to append to; one that has grown too large is set aside first."""
    if path.exists() and path.stat().st_size > LOG_CAP:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def end(child: subprocess.Popen[bytes], grace: float) -> None:
    """Wait for a child that was told to go; kill it after `grace` seconds."""
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
