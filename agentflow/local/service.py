"""What commands ask of local mode: `ensure` that it is up, take it `down`, say its `status`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.config import Config
from agentflow.errors import InfraError
from agentflow.local import control, server
from agentflow.local.control import Paths
from agentflow.local.worker import GRACE_S, worker_environment

#: How long a supervisor may take from its start until it serves, and another command to start one.
START_S = 40.0
#: How long `down` waits: the worker's grace, the server's, and some.
DOWN_S = GRACE_S + server.STOP_TIMEOUT_S + 5


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """What runs for a data directory: process ids (0: not running).

    `worker_failures` counts workers that died at their start, in a row.
    """

    supervisor: int
    server: int
    server_version: str
    worker: int
    worker_name: str
    worker_failures: int
    socket: str


def paths_of(config: Config) -> Paths:
    """Where the private server of a configuration is."""
    return Paths(config.data_dir, config.socket_path())


def ensure(config: Config, *, worker: bool = True, environ: Mapping[str, str] = os.environ) -> None:
    """Return when the private server answers; with `worker`, one is on its way as well.

    Finds what runs, else starts it. Does nothing when the configuration names a Redis of its own.
    The worker gets `environ`, so that it knows the keys of the shell that submits. Cheap when all is
    up (one question over a unix socket). Raises `InfraError`.
    """
    if config.redis_url is not None:
        return
    paths = paths_of(config)
    server.check_socket_path(paths.socket)
    try:
        paths.make()
    except OSError as error:
        raise InfraError(
            f"the data directory {paths.data_dir} cannot be used: {error.strerror}",
            why="ledger, logs and workspaces live there",
            fix="make it writable, or set AGENTFLOW_HOME to a directory that is",
            code="AF-INFRA-030",
        ) from error
    question = {"op": "work", "environment": dict(environ)} if worker else {"op": "hello"}
    if _is_ours(control.ask(paths.control, question), paths):
        return
    # Two commands at once: the lock lets one start the supervisor, the other one finds it.
    with control.locked(paths.start_lock, timeout=START_S) as mine:
        if not mine:
            raise _stuck(paths, "another command has been starting it")
        _find_or_start(paths, question, config.idle_minutes, environ)


def _find_or_start(
    paths: Paths, question: Mapping[str, Any], idle_minutes: float, environ: Mapping[str, str]
) -> None:
    deadline = time.monotonic() + START_S
    while not _is_ours(control.ask(paths.control, question), paths):
        if time.monotonic() > deadline:
            raise _stuck(paths, "it has not answered")
        if control.is_locked(paths.lock):
            # On its way up or down; or it listens elsewhere.
            _check_place(paths)
            time.sleep(server.POLL_S)
        else:
            _start(paths, idle_minutes, environ)


def _is_ours(answer: Mapping[str, Any] | None, paths: Paths) -> bool:
    return answer is not None and answer.get("socket") == str(paths.socket)


def _check_place(paths: Paths) -> None:
    """Refuse when the supervisor of this data directory listens on another socket than we look for."""
    elsewhere = control.read_state(paths.state).get("socket", str(paths.socket))
    if elsewhere != str(paths.socket) and control.ask(Path(elsewhere).with_suffix(".ctl"), {"op": "hello"}):
        raise InfraError(
            f"the private server of {paths.data_dir} listens on {elsewhere}",
            why=f"this shell looks for it at {paths.socket}: XDG_RUNTIME_DIR or TMPDIR differ",
            fix="use the same setting here, or `agentflow down` in the shell that started it",
            code="AF-INFRA-031",
        )


def _start(paths: Paths, idle_minutes: float, environ: Mapping[str, str]) -> None:
    """Run the starter, which ends when the supervisor serves."""
    argv = [
        sys.executable, "-m", "agentflow.local", "--data-dir", str(paths.data_dir),
        "--socket", str(paths.socket), "--idle-minutes", str(idle_minutes),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=paths.data_dir,
            env=worker_environment(environ, paths.data_dir),
            timeout=START_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _stuck(paths, "it has not come up") from error
    if done.returncode:
        raise InfraError(
            "local mode could not be started",
            why=done.stderr.strip() or f"the starter left with {done.returncode}",
            fix=f"see {paths.log('supervisor')}; `agentflow doctor` checks what it needs",
            code="AF-INFRA-032",
        )


def _stuck(paths: Paths, what: str) -> InfraError:
    return InfraError(
        "the supervisor of local mode does not answer",
        why=f"{what} for {START_S:.0f} s",
        fix=f"see {paths.log('supervisor')}; `agentflow down` ends it",
        code="AF-INFRA-033",
    )


def down(config: Config) -> bool:
    """End worker, server and supervisor of the data directory; whether any was there.

    Open runs stay in the server's file and can be resumed. Raises `InfraError` when they do not go.
    """
    if config.redis_url is not None:
        return False
    paths = paths_of(config)
    left = control.read_state(paths.state)
    for place in {paths.control, Path(left.get("socket", paths.socket)).with_suffix(".ctl")}:
        if control.ask(place, {"op": "down"}) is not None:
            break
    deadline = time.monotonic() + DOWN_S
    was_up = control.is_locked(paths.lock)
    while control.is_locked(paths.lock):
        if time.monotonic() > deadline:
            raise InfraError(
                f"the supervisor (process {left.get('supervisor', '?')}) does not leave",
                why=f"waited {DOWN_S:.0f} s; {server.last_lines(paths.log('supervisor'))}",
                fix=f"kill {left.get('supervisor', 'PID')}",
                code="AF-INFRA-034",
            )
        time.sleep(server.POLL_S)
    return server.shut_down(paths.socket) or was_up


def last_words(config: Config) -> str:
    """The end of the worker's log, and where it is."""
    log = paths_of(config).log("worker")
    return f"{server.last_lines(log, 1)} (see {log})"


def status(config: Config) -> LocalStatus | None:
    """What runs for the data directory; None when nothing does (or Redis is not ours). Starts nothing."""
    if config.redis_url is not None:
        return None
    answer = control.ask(paths_of(config).control, {"op": "status"})
    if answer is None:
        return None
    return LocalStatus(**{name: answer[name] for name in LocalStatus.__slots__})
