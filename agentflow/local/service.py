"""What commands ask of the supervisor on this machine: be up, start workers, go, say what runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.config import Config
from agentflow.errors import InfraError
from agentflow.local import control, server
from agentflow.local.control import Paths
from agentflow.local.launching import environment_for
from agentflow.local.worker import GRACE_S

#: How long a supervisor may take from its start until it serves, and another command to start one.
START_S = 40.0
#: How long `down` waits: the worker's grace, the server's, and some.
DOWN_S = GRACE_S + server.STOP_TIMEOUT_S + 5


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """What runs for a data directory: process ids (0: not running).

    `worker` and `worker_name` are the first of the `workers`, which have name, pid, slots, queues and kind.
    `worker_failures` counts workers that died at their start, in a row.
    """

    supervisor: int
    server: int
    server_version: str
    worker: int
    worker_name: str
    worker_failures: int
    workers: list[dict[str, Any]]
    socket: str


def paths_of(config: Config) -> Paths:
    """Where the supervisor is: that of the private server, or that of workers for a Redis elsewhere."""
    socket = config.socket_path()
    if config.redis_url is None:
        return Paths(config.data_dir, socket)
    told = f"{config.data_dir.resolve()}\0{config.client_url()}"
    team = hashlib.sha256(told.encode()).hexdigest()[:12]
    return Paths(config.data_dir, socket.with_name(f"{team}.sock"), team)


def ensure(config: Config, *, worker: bool = True, environ: Mapping[str, str] = os.environ) -> None:
    """Return when the private server answers; with `worker`, one is on its way as well.

    Finds what runs, else starts it. Does nothing when the configuration names a Redis of its own.
    The worker gets `environ`, so that it knows the keys of the shell that submits. Cheap when all is
    up (one question over a unix socket). Raises `InfraError`.
    """
    if config.redis_url is None:
        _ask({"op": "work" if worker else "hello"}, config, environ)


def spawn(
    config: Config,
    count: int,
    *,
    kind: str,
    slots: int,
    queues: Sequence[str] = (),
    whole: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> list[str]:
    """Start worker processes that are kept running here, and the supervisor for them; their names.

    Not more than make `fleet.max_workers` here: fewer are started then, or with `whole` none. They are
    replaced when they die, not when they leave of themselves. Raises `InfraError`.
    """
    question = {"op": "spawn", "count": count, "kind": kind, "slots": slots, "queues": list(queues)}
    return list(_ask({**question, "whole": whole}, config, environ)["hired"])


def dismiss(config: Config, count: int, reason: str) -> None:
    """Let so many of the workers that are kept here leave, when they have finished what they have."""
    control.ask(paths_of(config).control, {"op": "dismiss", "count": count, "reason": reason})


def _ask(question: Mapping[str, Any], config: Config, environ: Mapping[str, str]) -> dict[str, Any]:
    """The answer of the supervisor, which is started when there is none."""
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
    told = {"environment": environment_for(config, environ), "fleet": config.fleet.model_dump(mode="json")}
    question = {**question, **(told if question["op"] != "hello" else {})}
    answer = control.ask(paths.control, question)
    if answer is not None and _is_ours(answer, paths):
        return answer
    # Two commands at once: the lock lets one start the supervisor, the other one finds it.
    with control.locked(paths.start_lock, timeout=START_S) as mine:
        if not mine:
            raise _stuck(paths, "another command has been starting it")
        return _find_or_start(paths, question, config, environ)


def _find_or_start(
    paths: Paths, question: Mapping[str, Any], config: Config, environ: Mapping[str, str]
) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while True:
        answer = control.ask(paths.control, question)
        if answer is not None and _is_ours(answer, paths):
            return answer
        if time.monotonic() > deadline:
            raise _stuck(paths, "it has not answered")
        if control.is_locked(paths.lock):
            # On its way up or down; or it listens elsewhere.
            _check_place(paths)
            time.sleep(server.POLL_S)
        else:
            _start(paths, config, environ)


def _is_ours(answer: Mapping[str, Any], paths: Paths) -> bool:
    return answer.get("socket") == str(paths.socket)


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


def _start(paths: Paths, config: Config, environ: Mapping[str, str]) -> None:
    """Run the starter, which ends when the supervisor serves."""
    argv = [
        sys.executable, "-m", "agentflow.local", "--data-dir", str(paths.data_dir),
        "--socket", str(paths.socket), "--idle-minutes", str(config.idle_minutes), "--team", paths.team,
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
            env=environment_for(config, environ),
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
    """End the workers kept here, their supervisor and the private server; whether any was there.

    A Redis elsewhere stays as it is. Open runs stay in the ledger and can be resumed. Raises `InfraError`
    when they do not go.
    """
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
    return (not paths.team and server.shut_down(paths.socket)) or was_up


def last_words(config: Config) -> str:
    """The end of the worker's log, and where it is."""
    log = paths_of(config).log("worker")
    return f"{server.last_lines(log, 1)} (see {log})"


def status(config: Config) -> LocalStatus | None:
    """What runs for the data directory; None when nothing does (or Redis is not ours). Starts nothing."""
    return supervised(config) if config.redis_url is None else None


def supervised(config: Config) -> LocalStatus | None:
    """What a supervisor keeps here, for a private server (as `status`) or for a Redis elsewhere."""
    answer = control.ask(paths_of(config).control, {"op": "status"})
    if answer is None:
        return None
    return LocalStatus(**{name: answer[name] for name in LocalStatus.__slots__})
