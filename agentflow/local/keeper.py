"""Keeps the private server of a data directory: started, started again when it dies, ended."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import time

import redis

from agentflow.errors import InfraError
from agentflow.local import server
from agentflow.local.control import Paths
from agentflow.local.worker import append, end
from agentflow.store.restarts import renew_log

log = logging.getLogger("agentflow.supervisor")

#: Starts of the server that may fail in a row before the supervisor gives up.
SERVER_STARTS = 4


class Keeper:
    """At most one server process."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._process: subprocess.Popen[bytes] | None = None
        self.version = ""

    @property
    def pid(self) -> int:
        """Its process id; 0 when there is none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Bring it up. Raises `InfraError` when it will not stay."""
        found = server.find_binary()
        self.version = f"{found.name} {found.version}"
        for attempt in range(1, SERVER_STARTS + 1):
            with append(self._paths.log("redis")) as stream:
                child = server.launch(
                    found.path, socket=self._paths.socket, directory=self._paths.redis_data, log=stream
                )
            self._process = child
            try:
                server.await_answer(self._paths.socket, child.poll, self._paths.log("redis"))
            except InfraError:
                child.terminate()
                end(child, 1.0)
                if attempt == SERVER_STARTS:
                    raise
                time.sleep(0.1 * 2**attempt)
            else:
                log.info("server %s is up, process %d", self.version, child.pid)
                self._renew_log()
                return

    def _renew_log(self) -> None:
        """As the leader does it a moment later, and whoever keeps a server of his own (store/restarts.py)."""
        with contextlib.suppress(redis.RedisError), server.client(self._paths.socket) as client:
            renew_log(client)

    def tend(self) -> bool:
        """Start it again when it died; whether it did. Raises `InfraError`."""
        if self._process is None or self._process.poll() is None:
            return False
        log.warning("the server died (%d); starting it again", self._process.returncode)
        self.start()
        return True

    def close(self) -> None:
        """Let it write, and end it."""
        if self._process is not None:
            self._process.terminate()
            end(self._process, server.STOP_TIMEOUT_S)
        self._paths.socket.unlink(missing_ok=True)
