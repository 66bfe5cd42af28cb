"""Run one command as a process tree with a deadline; nothing of the tree is left afterwards.

The tree's parent is `launcher.py`, which also ends it when this process is killed. Nothing here uses
`preexec_fn`, `os.chdir` or `os.environ`: workers have many threads.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from agentflow.errors import InfraError

#: Output kept of one command: half from its beginning, half from its end.
OUTPUT_CAP_BYTES = 10 * 1024 * 1024
#: Milliseconds between SIGTERM and SIGKILL at a deadline or a stop.
GRACE_MS = 1000
#: Seconds that output is still read after the tree has ended.
DRAIN_S = 1.0
#: Seconds for the launcher to end the tree once it was told to (its grace, and its own patience, passed).
END_S = 10.0

_LAUNCHER = Path(__file__).with_name("launcher.py")
_READ_BYTES = 64 * 1024


class StopLike(Protocol):
    """A cancel signal (`environment.Stop`)."""

    def is_set(self) -> bool:
        """Whether the command has to end."""
        ...

    def on_set(self, callback: Callable[[], None]) -> None:
        """Call back when it is set; at once when it is set already."""
        ...


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended.

    `returncode` is negative for a signal, 127 when the program is missing and 126 when it cannot be
    started. `output` is stdout and stderr together. `peak_memory_kb` is that of the largest process.
    """

    returncode: int
    output: str
    timed_out: bool
    stopped: bool
    truncated: bool
    seconds: float
    cpu_seconds: float = 0.0
    peak_memory_kb: int = 0

    @property
    def ok(self) -> bool:
        """Ended by itself with status 0."""
        return self.returncode == 0 and not self.timed_out and not self.stopped


def run_tree(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    deadline: float,
    stop: StopLike | None = None,
    log: Path | None = None,
    output_cap_bytes: int = OUTPUT_CAP_BYTES,
) -> Completed:
    """Run `argv` in `cwd` with exactly `env` until it ends, `deadline` (monotonic) passes or `stop` is set.

    Its stdin is empty, its session its own. Output is appended to `log` while it comes. When this
    returns, no process of the tree is left. Raises `InfraError` when `cwd` is missing.
    """
    started = time.monotonic()
    if stop is not None and stop.is_set():
        return Completed(-signal.SIGTERM, "", timed_out=False, stopped=True, truncated=False, seconds=0.0)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(_Output(output_cap_bytes, log))
        tree = stack.enter_context(_launched(argv, cwd, env))
        if stop is not None:
            stop.on_set(tree.stop)
        tree.follow(output, deadline)
        report = tree.report()
        if report.failure:
            output.add(f"agentflow: cannot start {argv[0]!r}: {report.failure}\n".encode())
        text = output.text()
        return Completed(
            report.returncode,
            text,
            timed_out=tree.timed_out,
            stopped=tree.stopped,
            truncated=output.dropped > 0,
            seconds=time.monotonic() - started,
            cpu_seconds=report.cpu_seconds,
            peak_memory_kb=report.peak_memory_kb,
        )


@dataclass(slots=True)
class _Report:
    """What the launcher wrote to its status pipe."""

    returncode: int = -signal.SIGKILL
    command: int = 0
    failure: str = ""
    ended: bool = False
    cpu_seconds: float = 0.0
    peak_memory_kb: int = 0

    @classmethod
    def parse(cls, lines: bytes) -> _Report:
        """Read the lines; a launcher that was killed leaves no `exit` line."""
        report = cls()
        for line in lines.decode("utf-8", "replace").splitlines():
            word, _, rest = line.partition(" ")
            if word == "pid":
                report.command = int(rest)
            elif word == "error":
                report.failure = rest.partition(" ")[2]
                report.returncode = 127 if rest.startswith("2 ") else 126
            elif word == "exit":
                code, cpu, peak = rest.split()
                report.ended = True
                report.cpu_seconds, report.peak_memory_kb = float(cpu), int(peak)
                if not report.failure:
                    report.returncode = int(code)
        return report


@dataclass(slots=True)
class _Tree:
    """A running launcher. `stop` may be called from any thread, at any time, also after the end."""

    process: subprocess.Popen[bytes]
    status: int
    timed_out: bool = False
    stopped: bool = False
    lines: bytes = b""
    _over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """Ask for the end of the tree."""
        with self._lock:
            if not self._over:
                self.stopped = True
                self.process.send_signal(signal.SIGTERM)

    def follow(self, output: _Output, deadline: float) -> None:
        """Read output and status until the launcher has gone; end the tree at the deadline.

        The end is the launcher's, not that of the output: a command may close its stdout and run on.
        """
        out = self.process.stdout
        assert out is not None  # noqa: S101  # it was started with a pipe
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            selector.register(self.status, selectors.EVENT_READ)
            limit, reading, running, told = deadline, True, True, False
            while reading or running:
                for key, _ in selector.select(max(0.0, limit - time.monotonic())):
                    data = os.read(key.fd, _READ_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                    if key.fd != self.status:
                        output.add(data)
                        reading = bool(data)
                    elif data:
                        self.lines += data
                    else:
                        running = False
                        limit = time.monotonic() + DRAIN_S
                if time.monotonic() >= limit:
                    if told or not running:
                        return
                    told, limit = True, time.monotonic() + END_S
                    self._pass_deadline()

    def _pass_deadline(self) -> None:
        with self._lock:
            self.timed_out = not self.stopped
            self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Close both pipes; a later `stop` does nothing."""
        with self._lock:
            self._over = True
        os.close(self.status)
        if self.process.stdout:
            self.process.stdout.close()

    def report(self) -> _Report:
        """Collect the launcher; kill what it could not, should it have been killed itself."""
        with self._lock:
            self._over = True
            report = _Report.parse(self.lines)
            if not report.ended:
                self.process.kill()
                if report.command:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(report.command, signal.SIGKILL)
            self.process.wait()
        return report


@contextlib.contextmanager
def _launched(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Iterator[_Tree]:
    """Start the launcher; whatever happens in the block, it and its tree are gone after it."""
    status, status_write = os.pipe()
    command = [
        *(sys.executable, "-I", "-S", str(_LAUNCHER)),
        *(str(status_write), str(os.getpid()), str(GRACE_MS), env.get("LC_CTYPE", "-")),
        *argv,
    ]
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(status_write,),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        os.close(status)
        raise InfraError(
            f"cannot start {argv[0]!r} in {cwd}",
            why=str(error),
            fix="see that the directory exists, and that the machine has memory and processes left",
        ) from error
    finally:
        os.close(status_write)
    tree = _Tree(process, status)
    try:
        yield tree
    finally:
        if process.returncode is None:  # an exception in the block, KeyboardInterrupt included
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        tree.close()


class _Output:
    """Keeps the head and the tail of a stream of bytes; the log file gets the same, the head as it comes."""

    def __init__(self, cap: int, log: Path | None) -> None:
        self._half = max(cap // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self.dropped = 0
        self._log: BinaryIO | None = log.open("ab", buffering=0) if log else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log:
            with self._log:
                self._log.write(self._rest())

    def add(self, data: bytes) -> None:
        """Take what was read."""
        room = self._half - len(self._head)
        head, tail = data[:room], data[room:]
        if head:
            self._head += head
            if self._log:
                self._log.write(head)
        self._tail += tail
        if len(self._tail) > 2 * self._half:  # seldom, so that a byte is moved once on average
            self._trim()

    def _trim(self) -> None:
        surplus = max(0, len(self._tail) - self._half)
        del self._tail[:surplus]
        self.dropped += surplus

    def _rest(self) -> bytes:
        self._trim()
        gap = f"\n[... {self.dropped} bytes left out ...]\n".encode() if self.dropped else b""
        return gap + self._tail

    def text(self) -> str:
        """Everything kept, with invalid UTF-8 replaced."""
        return (bytes(self._head) + self._rest()).decode("utf-8", "replace")
