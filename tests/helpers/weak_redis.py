"""A Redis to which everything happens that can: killed, robbed of its last writes, emptied, full."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from helpers.redis_server import FragileServer

#: What the ballast is made of.
PIECE = "x" * 100_000
BALLAST = "ballast"


class WeakServer(FragileServer):
    """A fragile server; without `durable` it has no append-only file, so that a kill loses everything."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        super().__init__(directory)
        self.durable = durable
        self._data = directory / "data"
        self.log = directory / "redis.log"

    def start(self) -> None:
        """Launch it on what data it has; nothing happens when it runs."""
        if self.is_up:
            return
        if not self.durable:
            shutil.rmtree(self._data, ignore_errors=True)
        super().start()
        if not self.durable:
            with self.client() as client:
                client.config_set("appendonly", "no")

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def client(self) -> redis.Redis:
        """A client that no proxy is in the way of, and that bytes which are no text do not trouble."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=5,
            decode_responses=True,
            encoding_errors="replace",
        )

    def raw_client(self) -> redis.Redis:
        """The same, for what may be no text: it answers with bytes."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5)

    def log_size(self) -> tuple[str, int]:
        """The append-only file that is written to, and its bytes."""
        file = self._newest()
        return file.name, file.stat().st_size

    def cut_tail(self, keep: int) -> int:
        """Take the end of a killed server's append-only file away, all but `keep` bytes; how much went."""
        file = self._newest()
        size = file.stat().st_size
        if keep < size:
            with file.open("rb+") as stream:
                stream.truncate(keep)
        return max(0, size - keep)

    def wipe(self) -> None:
        """Take a killed server's data away."""
        shutil.rmtree(self._data, ignore_errors=True)

    def _newest(self) -> Path:
        files = list(self._data.glob("appendonlydir/*.incr.aof"))
        return max(files, key=lambda file: int(file.name.split(".")[-3]))

    def fill(self) -> None:
        """Let it have no memory left (nothing happens when it is down)."""
        with self.client() as client, contextlib.suppress(redis.exceptions.RedisError):
            used = int(client.info("memory")["used_memory"])
            client.config_set("maxmemory", used + 10 * len(PIECE))
            while True:
                client.append(BALLAST, PIECE)

    def relieve(self) -> None:
        """Let it have all the memory that it wants (nothing happens when it is down)."""
        with self.client() as client, contextlib.suppress(redis.exceptions.ConnectionError):
            client.config_set("maxmemory", 0)
            client.delete(BALLAST)


@contextmanager
def weak_server(*, durable: bool = True) -> Iterator[WeakServer]:
    """A weak server in a directory of its own; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="aft-"))
    found = WeakServer(directory, durable=durable)
    try:
        found.start()
        yield found
    finally:
        found.kill()
        shutil.rmtree(directory, ignore_errors=True)
