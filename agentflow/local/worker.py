"""The one worker of a data directory: started, told to leave, its attempts given back when it died."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket as sockets
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import redis

from agentflow.local import server
from agentflow.local.control import Paths
from agentflow.store.ledger import Ledger

log = logging.getLogger("agentflow.supervisor")

#: Threads of the worker; runs limit themselves by `-j`, and a thread that waits costs next to nothing.
SLOTS = 32
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
    """At most one process. Call `tend()` whenever a child may have ended."""

    def __init__(self, paths: Paths) -> None:
        self.name = ""
        #: Early deaths in a row.
        self.failures = 0
        self._paths = paths
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._kill_at = 0.0
        self._not_before = 0.0

    @property
    def pid(self) -> int:
        """Its process id; 0 when there is none."""
        return self._process.pid if self._process else 0

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it unless it runs or the pause after an early death is not over.

        The name is new each time, so that the attempts of a dead one can be told from its successor's.
        """
        if self._process is not None or time.monotonic() < self._not_before:
            return
        self.name = f"local-{uuid.uuid4().hex[:8]}@{sockets.gethostname()}"
        argv = [
            sys.executable, "-m", "celery", "-A", "agentflow", "worker", "--pool", "threads",
            "-c", str(SLOTS), "--hostname", self.name, "--loglevel", "INFO",
        ]  # fmt: skip
        with append(self._paths.log("worker")) as stream:
            self._process = subprocess.Popen(
                server.tied(argv, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=self._paths.data_dir,
                env=worker_environment(environment, self._paths.data_dir),
                start_new_session=True,
            )
        self._started = time.monotonic()
        self._kill_at = 0.0
        log.info("worker %s is process %d", self.name, self.pid)

    def stop(self) -> None:
        """Ask it to leave, once; `tend()` kills it when it does not within `GRACE_S`."""
        if self._process is not None and not self._kill_at:
            self._kill_at = time.monotonic() + GRACE_S
            self._process.terminate()

    def tend(self) -> bool:
        """Whether it has just ended; what it still held is then ready again."""
        if self._process is None:
            return False
        if self._kill_at and time.monotonic() > self._kill_at:
            self._process.kill()
        if self._process.poll() is None:
            return False
        self._ended(self._process.returncode)
        return True

    def close(self) -> None:
        """End it, waiting for it."""
        self.stop()
        if self._process is not None:
            end(self._process, max(0.0, self._kill_at - time.monotonic()))
            self.tend()

    def _ended(self, code: int) -> None:
        """Give back what it held, and decide when the next one may start."""
        asked = bool(self._kill_at)
        early = not asked and time.monotonic() - self._started < SHORT_LIFE_S
        log.log(logging.INFO if asked else logging.WARNING, "worker %s left (%d)", self.name, code)
        with contextlib.suppress(redis.RedisError, OSError), server.client(self._paths.socket) as client:
            for attempt in Ledger(client).expire_worker(self.name):
                log.info("gave back %s", attempt)
        self._process, self.name = None, ""
        self.failures = self.failures + 1 if early else 0
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.failures - 1)) if early else 0.0
        self._not_before = time.monotonic() + pause


def worker_environment(caller: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """The caller's environment, bound to this data directory and to this copy of agentflow."""
    home = str(Path(__file__).resolve().parents[2])
    path = [home, *(part for part in caller.get("PYTHONPATH", "").split(os.pathsep) if part)]
    kept = {name: value for name, value in caller.items() if name != "AGENTFLOW_REDIS_URL"}
    return kept | {"AGENTFLOW_HOME": str(data_dir), "PYTHONPATH": os.pathsep.join(path)}


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
