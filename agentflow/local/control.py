"""How a command and the supervisor of a data directory find each other: paths, locks, questions."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket as sockets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.local.server import POLL_S

#: Most bytes of a question (it carries the caller's environment).
MESSAGE_CAP = 8 << 20
#: How long an answer may take; the supervisor is busy for longer only while a server loads its data.
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Paths:
    """Where everything of one supervisor is. `socket` is the private server's, `control` the supervisor's.

    `team` names the supervisor that keeps workers of a Redis elsewhere; its `socket` is nobody's.
    """

    data_dir: Path
    socket: Path
    team: str = ""

    def _local(self, name: str) -> Path:
        return self.data_dir / "local" / (f"{self.team}-{name}" if self.team else name)

    @property
    def control(self) -> Path:
        """The supervisor's socket, beside the server's."""
        return self.socket.with_suffix(".ctl")

    @property
    def start_lock(self) -> Path:
        """Held while a command looks for the supervisor and starts one."""
        return self._local("start.lock")

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives; the kernel releases it."""
        return self._local("supervisor.lock")

    @property
    def state(self) -> Path:
        """Process ids, for `down` and for the successor of a supervisor that was killed."""
        return self._local("state.json")

    @property
    def redis_data(self) -> Path:
        """The server's append-only file."""
        return self.data_dir / "redis"

    def log(self, name: str) -> Path:
        """One of `worker` (further ones `worker-2`, ...), `supervisor`, `redis`."""
        return self.data_dir / "logs" / (f"{self.team}-{name}.log" if self.team else f"{name}.log")

    def make(self) -> None:
        """Create the directories, for this user only. Raises `OSError`."""
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self.lock.parent, self.redis_data, self.log("redis").parent):
            path.mkdir(exist_ok=True, mode=0o700)


@contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[bool]:
    """Hold an exclusive lock on `path`; yields False when it could not be had within `timeout`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout
    try:
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(POLL_S)
        yield True
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock."""
    if not path.exists():
        return False
    with locked(path, timeout=0) as mine:
        return not mine


def ask(control: Path, question: Mapping[str, Any]) -> dict[str, Any] | None:
    """The supervisor's answer; None when none listens there (or it left while asked)."""
    with contextlib.suppress(OSError, ValueError), sockets.socket(sockets.AF_UNIX) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        connection.connect(str(control))
        send(connection, question)
        return receive(connection)
    return None


def send(connection: sockets.socket, message: Mapping[str, Any]) -> None:
    """Write one message, one line of JSON."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def receive(connection: sockets.socket) -> dict[str, Any]:
    """Read one message; raises `ValueError` when it is none, `OSError` when the peer left."""
    received = bytearray()
    while not received.endswith(b"\n"):
        chunk = connection.recv(1 << 16)
        if not chunk:
            raise ConnectionResetError("the other side left")
        received += chunk
        if len(received) > MESSAGE_CAP:
            raise ValueError("message too long")
    message = json.loads(received)
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 (what a peer sent, not a caller)
    return message


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the state file in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(state))
    fresh.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """The state file; empty when there is none, or half of one."""
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def end_process(pid: int, mark: str, *, grace: float) -> None:
    """End a process that is ours: SIGTERM, after `grace` seconds SIGKILL.

    Ours is one whose command line holds `mark`: process ids are used again.
    """
    deadline = time.monotonic() + grace
    number = signal.SIGTERM
    while mark in command_line(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        while mark in command_line(pid) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        number = signal.SIGKILL
        time.sleep(POLL_S)


def command_line(pid: int) -> str:
    """The command line of a living process, empty when there is none (a zombie has none either)."""
    if pid <= 0:
        return ""
    if Path("/proc/self/cmdline").exists():
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return ""
        return raw.replace(b"\0", b" ").decode(errors="replace")
    done = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
