"""A TCP port that stands for a Redis: what passes can be held up, in one direction too, or cut.

A partition loses no bytes of a connection that survives it: what was held is delivered when it is over,
unless the connection was broken meanwhile. So `heal` either lets go on what was held, or resets every
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PIECE_BYTES = 64 * 1024


class Proxy:
    """One port in front of a server's unix socket; all of a worker's connections go through it.

    Its methods may be called from any thread and have taken effect when they return.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._pairs: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self.port = 0
        self._call(self._open)

    @property
    def url(self) -> str:
        """For agentflow's configuration."""
        return f"redis://127.0.0.1:{self.port}/0"

    def hold(self, *, commands: bool = True, answers: bool = True) -> None:
        """From now on nothing arrives: of what is asked, of what is answered, or neither."""

        async def close_gates() -> None:
            for gate, closed in ((self._commands, commands), (self._answers, answers)):
                if closed:
                    gate.clear()

        self._call(close_gates)

    def cut(self) -> None:
        """Break every connection, and each new one as soon as it is made."""

        async def begin() -> None:
            self._is_cut = True
            self._abort()

        self._call(begin)

    def heal(self, *, reset: bool) -> None:
        """Let everything pass again; `reset`: the connections that there were are broken first."""

        async def end() -> None:
            if reset:
                self._abort()
            self._is_cut = False
            self._commands.set()
            self._answers.set()

        self._call(end)

    def close(self) -> None:
        """Break everything and give the port back."""

        async def end() -> None:
            self._server.close()
            self._abort()
            self._commands.set()
            self._answers.set()
            await asyncio.gather(*self._pairs, return_exceptions=True)
            await self._server.wait_closed()

        self._call(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, what: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(30)  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._commands, self._answers = asyncio.Event(), asyncio.Event()
        self._commands.set()
        self._answers.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pairs.add(task)
        self._writers.add(writer)
        try:
            if not self._is_cut:
                with contextlib.suppress(OSError):
                    await self._join(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._pairs.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(self._target)
        self._writers.add(ours)
        ways = [
            asyncio.create_task(_carry(reader, ours, self._commands)),
            asyncio.create_task(_carry(theirs, writer, self._answers)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            ours.transport.abort()
            self._writers.discard(ours)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            await gate.wait()
            writer.write(piece)
            await writer.drain()


@contextmanager
def proxied(target: Path) -> Iterator[Proxy]:
    """A proxy that is gone afterwards."""
    found = Proxy(target)
    try:
        yield found
    finally:
        found.close()
