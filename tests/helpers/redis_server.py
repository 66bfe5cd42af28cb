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
