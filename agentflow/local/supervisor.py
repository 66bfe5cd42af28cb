"""The supervisor of a data directory: keeps its Redis server, and one worker while a run is open.

One process, one thread, one loop: it sleeps until a command asks something, a child ends, or it is
time to look whether a run is open. It holds a lock for as long as it lives, so there is never a second
one. Server and worker are tied to it by the kernel: when it is killed they go too, and the next
command starts all three again from the server's append-only file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket as sockets
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from agentflow.errors import InfraError
from agentflow.local import control, server
from agentflow.local.control import Paths
from agentflow.local.worker import Worker, append, end
from agentflow.states import RunState
from agentflow.store.ledger import Ledger

log = logging.getLogger("agentflow.supervisor")

#: Between two looks at whether a run is open: with a worker, and without one.
LOOK_S = 1.0
IDLE_LOOK_S = 5.0
#: How long a worker that was asked for waits for the asker's run (the submitter is still reading).
EXPECT_S = 60.0
#: How long the worker outlives the last run: the submitter may have a word to say about its end.
LINGER_S = 2.0
#: Starts of the server that may fail in a row before the supervisor gives up.
SERVER_STARTS = 4


class Supervisor:
    """Keeps the children. `serve()` returns when it is no longer needed."""

    def __init__(self, paths: Paths, *, idle_s: float) -> None:
        self._paths = paths
        self._idle_s = idle_s
        self._environment: Mapping[str, str] = dict(os.environ)
        self._server: subprocess.Popen[bytes] | None = None
        self._server_version = ""
        self._worker = Worker(paths)
        self._need = Need(paths)
        self._next_look = 0.0
        self._last_use = time.monotonic()
        self._leaving = False

    def start(self) -> sockets.socket:
        """Bring the server up; returns the socket that commands talk to. Raises `InfraError`."""
        self._end_leftovers()
        self._start_server()
        self._paths.control.unlink(missing_ok=True)
        listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        listener.bind(str(self._paths.control))
        self._paths.control.chmod(0o600)
        listener.listen(64)
        return listener

    def serve(self, listener: sockets.socket) -> None:
        """Until idle for long enough, or told to leave. Raises `InfraError` when the server will not stay."""
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(_wake_on_signals(self.leave), selectors.EVENT_READ)
            while not self._leaving:
                for key, _ in selector.select(self._pause()):
                    if key.fileobj is listener:
                        self._answer(listener)
                    else:
                        os.read(key.fd, 4096)
                self._tend()

    def leave(self) -> None:
        """End the loop."""
        self._leaving = True

    def close(self, listener: sockets.socket) -> None:
        """End the worker, then the server; nothing is left but data and logs."""
        self._worker.close()
        if self._server is not None:
            self._server.terminate()
            end(self._server, server.STOP_TIMEOUT_S)
        listener.close()
        for path in (self._paths.control, self._paths.socket, self._paths.state):
            path.unlink(missing_ok=True)

    def _pause(self) -> float:
        """How long nothing can happen by itself."""
        return max(0.05, self._next_look - time.monotonic())

    # -- commands --------------------------------------------------------------------------------

    def _answer(self, listener: sockets.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                question = control.receive(connection)
                self._last_use = time.monotonic()
                control.send(connection, self._obey(question))

    def _obey(self, question: Mapping[str, Any]) -> dict[str, Any]:
        if question.get("op") == "down":
            self.leave()
        elif question.get("op") == "work":
            self._environment = {str(k): str(v) for k, v in question.get("environment", {}).items()}
            self._need.expect()
            self._worker.start(self._environment)
            self._note()
        return self._describe()

    def _describe(self) -> dict[str, Any]:
        return {
            "supervisor": os.getpid(),
            "server": self._server.pid if self._server else 0,
            "server_version": self._server_version,
            "worker": self._worker.pid,
            "worker_name": self._worker.name,
            "worker_failures": self._worker.failures,
            "socket": str(self._paths.socket),
        }

    def _note(self) -> None:
        control.write_state(self._paths.state, self._describe())

    # -- children --------------------------------------------------------------------------------

    def _tend(self) -> None:
        """Replace what died, start what is needed, end what is not."""
        if self._leaving:
            return
        if self._server is not None and self._server.poll() is not None:
            log.warning("the server died (%d); starting it again", self._server.returncode)
            self._start_server()
        changed = self._worker.tend()
        now = time.monotonic()
        if changed or now >= self._next_look:
            self._need.look()
            changed = self._keep_worker() or changed
            self._next_look = now + (LOOK_S if self._worker.pid or self._need.exists else IDLE_LOOK_S)
        if self._need.exists or self._worker.pid:
            self._last_use = now
        elif now - self._last_use > self._idle_s:
            log.info("idle for %.0f s: leaving", self._idle_s)
            self.leave()
        if changed:
            self._note()

    def _keep_worker(self) -> bool:
        """Start or stop the worker as needed; whether it is another one now."""
        before = self._worker.pid
        if self._need.exists:
            self._worker.start(self._environment)
        else:
            self._worker.stop()
        return self._worker.pid != before

    def _start_server(self) -> None:
        found = server.find_binary()
        self._server_version = f"{found.name} {found.version}"
        for attempt in range(1, SERVER_STARTS + 1):
            with append(self._paths.log("redis")) as stream:
                child = server.launch(
                    found.path, socket=self._paths.socket, directory=self._paths.redis_data, log=stream
                )
            self._server = child
            try:
                server.await_answer(self._paths.socket, child.poll, self._paths.log("redis"))
            except InfraError:
                child.terminate()
                end(child, 1.0)
                if attempt == SERVER_STARTS:
                    raise
                time.sleep(0.1 * 2**attempt)
            else:
                log.info("server %s is up, process %d", self._server_version, child.pid)
                self._note()
                return

    def _end_leftovers(self) -> None:
        """End what a killed supervisor left where the kernel does not tie children to their parent."""
        left = control.read_state(self._paths.state)
        control.end_process(int(left.get("worker", 0)), str(left.get("worker_name") or "\0"), grace=1.0)
        control.end_process(int(left.get("server", 0)), str(self._paths.socket), grace=server.STOP_TIMEOUT_S)


class Need:
    """Whether a worker is needed: some run is open, or a command said that its run is coming."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._until = 0.0
        self._expected_until = 0.0

    @property
    def exists(self) -> bool:
        """The answer as of the last look."""
        return time.monotonic() < max(self._until, self._expected_until)

    def expect(self) -> None:
        """A command is about to open a run, or has just done so."""
        self._expected_until = time.monotonic() + EXPECT_S
        self.look()

    def look(self) -> None:
        """Ask the ledger. A run that is open is what was expected; should another one still come, the
        next look finds it.
        """
        if self._is_open():
            self._until = time.monotonic() + LINGER_S + LOOK_S
            self._expected_until = 0.0

    def _is_open(self) -> bool:
        """Whether a run wants a worker; one that is drained and has nothing running does not."""
        try:
            with server.client(self._paths.socket) as client:
                ledger = Ledger(client)
                runs = [ledger.run(run_id) for run_id in ledger.open_runs()]
        except (redis.RedisError, OSError) as error:
            log.warning("cannot look for open runs: %s", error)
            return False
        return any(run.running or run.state is not RunState.DRAINING for run in runs)


def _wake_on_signals(leave: Callable[[], None]) -> int:
    """Make SIGCHLD and SIGTERM wake the loop; returns the descriptor that becomes readable."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: leave())
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return reading
