"""The supervisor: keeps the worker processes of this machine, and the private server of a data directory.

One process, one thread, one loop: it sleeps until a command asks something, a child ends, or it is
time to look at the ledger. It holds a lock for as long as it lives, so there is never a second
one. Server and workers are tied to it by the kernel: when it is killed they go too, and the next
command starts them again from the server's append-only file. For a Redis elsewhere there is one supervisor
for each address and data directory; it keeps workers only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket as sockets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis

from agentflow.local import control, server
from agentflow.local.control import Paths
from agentflow.local.crew import Crew
from agentflow.local.keeper import Keeper
from agentflow.local.need import Need, Scaling, Seen, Settings, look

log = logging.getLogger("agentflow.supervisor")

#: Between two looks at the ledger: while there is something to do, and else.
LOOK_S = 1.0
IDLE_LOOK_S = 5.0
#: Kinds of workers that come and go by themselves.
LOCAL, AUTO = "local", "auto"


class Supervisor:
    """Keeps the children. `serve()` returns when it is no longer needed. `url`: of a Redis elsewhere."""

    def __init__(self, paths: Paths, *, idle_s: float, url: str = "") -> None:
        self._paths = paths
        self._idle_s = idle_s
        self._url = url
        self._environment: Mapping[str, str] = dict(os.environ)
        self._keeper = None if url else Keeper(paths)
        self._crew = Crew(paths, self._client)
        self._settings = Settings()
        self._need = Need()
        self._scaling = Scaling()
        self._queues: set[str] = set()
        self._seen = Seen()
        #: The kill order that is known; another one ends everything until a command asks for a worker.
        self._known_kill = ""
        self._is_held = False
        self._next_look = 0.0
        self._last_use = time.monotonic()
        self._leaving = False

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        with server.client_at(self._url) if self._url else server.client(self._paths.socket) as client:
            yield client

    def start(self) -> sockets.socket:
        """Bring the server up; returns the socket that commands talk to. Raises `InfraError`."""
        self._end_leftovers()
        self._paths.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._keeper:
            self._keeper.start()
        self._paths.control.unlink(missing_ok=True)
        listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        listener.bind(str(self._paths.control))
        self._paths.control.chmod(0o600)
        listener.listen(64)
        self._note()
        self._look()
        self._known_kill = self._seen.orders.kill
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
        """End the workers, then the server; nothing is left but data and logs."""
        self._crew.close()
        if self._keeper:
            self._keeper.close()
        listener.close()
        for path in (self._paths.control, self._paths.state):
            path.unlink(missing_ok=True)

    def _pause(self) -> float:
        """How long nothing can happen by itself."""
        return max(0.05, self._next_look - time.monotonic())

    # -- commands --------------------------------------------------------------------------------

    def _answer(self, listener: sockets.socket) -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                question = control.receive(connection)
                self._last_use = time.monotonic()
                control.send(connection, self._obey(question))
        except (OSError, ValueError):
            log.debug("a question that was none", exc_info=True)
        except Exception:  # the boundary of a command: what it cannot do must not end the workers
            log.exception("a command was given up")

    def _obey(self, question: Mapping[str, Any]) -> dict[str, Any]:
        op = question.get("op")
        if op == "down":
            self.leave()
        elif op in ("work", "spawn"):
            self._environment = {str(k): str(v) for k, v in question.get("environment", {}).items()}
            self._settings = Settings.of(question.get("fleet", {}))
            self._look()
            self._known_kill, self._is_held = self._seen.orders.kill, False
            self._next_look = min(self._next_look, time.monotonic() + LOOK_S)
            hired = self._work() if op == "work" else self._spawn(question)
            self._note()
            return self._describe() | {"hired": hired}
        elif op == "dismiss":
            self._look()
            self._crew.dismiss(int(question["count"]), self._seen.busy, str(question["reason"]))
        return self._describe()

    def _work(self) -> list[str]:
        """A run is coming: the private server's worker is wanted."""
        if self._keeper and not self._seen.orders.drained:
            self._need.expect()
            return self._keep_local()
        return []

    def _spawn(self, question: Mapping[str, Any]) -> list[str]:
        queues = tuple(map(str, question.get("queues", ())))
        self._queues |= set(queues)
        # Counted here, where one question comes after the other: two callers may have seen the same room.
        count, room = int(question["count"]), self._settings.max_workers - len(self._crew.describe())
        if count > room:
            count = 0 if question.get("whole") else max(0, room)
        hired = [
            self._crew.hire(str(question["kind"]), int(question["slots"]), queues, self._environment)
            for _ in range(count)
        ]
        return [worker.name for worker in hired]

    def _describe(self) -> dict[str, Any]:
        workers = self._crew.describe()
        first = workers[0] if workers else {"pid": 0, "name": ""}
        return {
            "supervisor": os.getpid(),
            "server": self._keeper.pid if self._keeper else 0,
            "server_version": self._keeper.version if self._keeper else "",
            "worker": first["pid"],
            "worker_name": first["name"],
            "worker_failures": self._crew.failures,
            "workers": workers,
            "socket": str(self._paths.socket),
        }

    def _note(self) -> None:
        control.write_state(self._paths.state, self._describe())

    # -- children --------------------------------------------------------------------------------

    def _tend(self) -> None:
        """Replace what died, start what is needed, end what is not."""
        if self._leaving:
            return
        changed = bool(self._keeper and self._keeper.tend())
        ended = self._crew.reap()
        now = time.monotonic()
        if ended or now >= self._next_look:
            self._look()
            changed = self._keep_crew(now) or changed or ended
            is_quiet = self._crew.is_empty and not self._need.exists and not self._settings.autoscale
            self._next_look = now + (IDLE_LOOK_S if is_quiet else LOOK_S)
        self._leave_when_idle(now)
        if changed:
            self._note()

    def _leave_when_idle(self, now: float) -> None:
        """Workers that were spawned keep a private server only as long as a run is open."""
        spawned_only = self._keeper and not self._crew.staying(LOCAL)
        in_use = self._need.exists if spawned_only else not self._crew.is_empty
        if in_use or (self._settings.autoscale and not self._keeper):
            self._last_use = now
        elif now - self._last_use > self._idle_s:
            log.info("idle for %.0f s: leaving", self._idle_s)
            self.leave()

    def _look(self) -> None:
        seen = look(self._client, self._queues)
        if seen:
            self._seen = seen
            self._need.note(seen, LOOK_S)

    def _keep_crew(self, now: float) -> bool:
        """Start or end workers as needed; whether they are others now."""
        before = self._crew.describe()
        orders = self._seen.orders
        if orders.kill != self._known_kill:
            log.info("the fleet was killed; nothing is started until somebody asks for it")
            self._known_kill, self._is_held = orders.kill, True
        if self._is_held:
            # One that was starting when the order came does not know it as new.
            self._crew.stop()
        elif orders.drained:
            self._crew.abandon(self._seen.busy)
        if self._is_held or orders.drained:
            return before != self._crew.describe()
        self._crew.refill(self._environment)
        if self._settings.autoscale:
            self._scale(now)
        if self._keeper:
            if self._need.exists:
                self._keep_local()
            else:
                self._crew.stop(LOCAL)
        return before != self._crew.describe()

    def _keep_local(self) -> list[str]:
        """One worker at least while it is needed; any that serves everything will do."""
        if any(not worker.queues for worker in self._crew.staying()):
            self._crew.refill(self._environment)
            return []
        return [self._crew.hire(LOCAL, self._settings.slots_per_worker, (), self._environment).name]

    def _scale(self, now: float) -> None:
        seen, live = self._seen, self._crew.staying()
        busy = sum(seen.busy.get(worker.name, 0) for worker in live)
        wanted = self._scaling.desired(self._settings, len(live), busy, seen.waiting, seen.limit, now)
        for _ in range(wanted - len(live)):
            self._crew.hire(AUTO, self._settings.slots_per_worker, (), self._environment)
        if wanted < len(live):
            with contextlib.suppress(redis.RedisError, OSError):
                self._crew.dismiss(len(live) - wanted, seen.busy, "fewer workers are needed", AUTO)

    def _end_leftovers(self) -> None:
        """End what a killed supervisor left where the kernel does not tie children to their parent."""
        left = control.read_state(self._paths.state)
        for worker in left.get("workers", ()):
            control.end_process(int(worker["pid"]), str(worker["name"]) or "\0", grace=1.0)
        control.end_process(int(left.get("server", 0)), str(self._paths.socket), grace=server.STOP_TIMEOUT_S)


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
