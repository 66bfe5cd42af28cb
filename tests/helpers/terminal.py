"""A terminal of a given size with a program in it, whose screen can be read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte
from helpers.wait import wait_until


class Terminal:
    """A real pty; what the program writes is drawn by pyte, and kept raw."""

    def __init__(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], columns: int = 80, rows: int = 24
    ) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=2000, ratio=1)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.raw = bytearray()
        self._master, slave = pty.openpty()
        _set_size(self._master, columns, rows)
        self.process = subprocess.Popen(
            argv, cwd=cwd, env=dict(env), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                ready, _, _ = select.select([self._master], [], [], 0.2)
                chunk = os.read(self._master, 65536) if ready else b""
            except OSError:
                return
            if not ready:
                if self.process.poll() is not None:
                    return
                continue
            if not chunk:
                return
            with self._lock:
                self.raw += chunk
                self._stream.feed(chunk)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen now, without trailing blanks."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The screen as one string."""
        return "\n".join(self.lines)

    @property
    def scrolled(self) -> list[str]:
        """What has scrolled away above the screen."""
        with self._lock:
            columns = self._screen.columns
            rows = list(self._screen.history.top)
            return ["".join(row[i].data for i in range(columns)).rstrip() for row in rows]

    @property
    def everything(self) -> list[str]:
        """What scrolled away, then the screen."""
        return [*self.scrolled, *self.lines]

    def shows(self, what: str | Callable[[list[str]], object], timeout: float = 40) -> None:
        """Wait until the screen shows it."""

        def look() -> object:
            found = self.lines
            assert (what in "\n".join(found)) if isinstance(what, str) else what(found), "\n".join(found)
            return True

        wait_until(look, timeout=timeout, every=0.05, what=f"the screen shows {what!r}")

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, as its user does."""
        with self._lock:
            self._screen.resize(rows, columns)
        _set_size(self._master, columns, rows)
        os.killpg(self.process.pid, signal.SIGWINCH)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self, timeout: float = 60) -> int:
        """Wait for the program's end and its last words; its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(5)
        os.close(self._master)


@contextmanager
def terminal(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], columns: int = 80, rows: int = 24
) -> Iterator[Terminal]:
    """A terminal that is closed afterwards."""
    found = Terminal(argv, cwd=cwd, env=env, columns=columns, rows=rows)
    try:
        yield found
    finally:
        found.close()


def _set_size(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
