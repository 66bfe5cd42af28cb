"""A real server for tests, tied to the test process so that a killed run leaves nothing."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentflow.local import server


@dataclass(frozen=True, slots=True)
class RedisServer:
    """Where the test server listens, in each spelling that somebody needs."""

    socket: Path

    @property
    def client_url(self) -> str:
        """For redis-py."""
        return f"unix://{self.socket}?db=0"

    @property
    def broker_url(self) -> str:
        """For Celery."""
        return f"redis+socket://{self.socket}?virtual_host=0"


class FragileServer:
    """A server with an append-only file that can be killed and comes back with what it had answered."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "redis.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client_url(self) -> str:
        """For redis-py."""
        return RedisServer(self.socket).client_url

    def start(self) -> None:
        """Launch it on its data and wait until it answers."""
        log = self._directory / "redis.log"
        with log.open("ab") as stream:
            self._process = server.launch(
                server.find_binary().path, socket=self.socket, directory=self._directory / "data", log=stream
            )
        server.await_answer(self.socket, self._process.poll, log)

    def kill(self) -> None:
        """SIGKILL: nothing is written but what the append-only file has."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def fragile_server() -> Iterator[FragileServer]:
    """A fragile server in a directory of its own; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="aft-"))
    found = FragileServer(directory)
    try:
        found.start()
        yield found
    finally:
        found.kill()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running_server() -> Iterator[RedisServer]:
    """A server in a directory of its own (short: a socket path has 107 bytes); gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="aft-"))
    socket, log = directory / "redis.sock", directory / "redis.log"
    try:
        with log.open("ab") as stream:
            process = server.launch(
                server.find_binary().path, socket=socket, directory=directory / "data", log=stream
            )
        try:
            server.await_answer(socket, process.poll, log)
            yield RedisServer(socket)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
