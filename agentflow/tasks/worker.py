"""Bootsteps of a worker: register, renew, reconcile when leader, drain.

They run in any `celery -A agentflow worker`; nothing else has to be started.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from celery import bootsteps, signals
from celery.worker import state

from agentflow.app import SYSTEM_QUEUE, get_app, queue
from agentflow.errors import InfraError
from agentflow.store import keys
from agentflow.store.client import NO_ANSWER, Unreachable, check
from agentflow.store.fleet import Fleet
from agentflow.tasks.attempt import DRAINED
from agentflow.tasks.attempts import ATTEMPTS
from agentflow.tasks.context import Context, current
from agentflow.tasks.maintenance import Reconciler, scan_safely
from agentflow.tasks.roles import register

log = logging.getLogger("agentflow.worker")

#: Pools in which kill -9 loses messages for good (measured; docs/redis.md).
REFUSED_POOLS = ("gevent", "eventlet")
#: Seconds between two looks for a Redis that does not answer.
RETRY_S = 2.0
#: Seconds that attempts have to end once they were told to.
RELEASE_S = 10.0
#: Seconds between two messages of task events.
EVENTS_EVERY_S = 0.25


class AgentflowStep(bootsteps.StartStopStep):
    """Starts the threads that keep this worker's word to the ledger."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._every_role = not kwargs.get("queues")
        parent.app.amqp.queues.select_add(queue(SYSTEM_QUEUE))
        # Workers know of each other through the ledger; asking around costs a second at the start.
        parent.options.update(without_mingle=True, without_gossip=True)

    def start(self, parent: Any) -> None:
        """Check that this worker may serve the ledger, then start renewing and reconciling."""
        context = current()
        pool = type(parent.pool).__module__
        if any(name in pool for name in REFUSED_POOLS):
            leave(
                InfraError(
                    f"the pool {pool} is refused",
                    why="after kill -9 it loses messages",
                    fix="start the worker with --pool threads",
                    code="AF-INFRA-006",
                )
            )
        self._wait_for_ledger(context)
        heart = Heart(context, parent, every_role=self._every_role)
        self._begin("renew", heart.beat, context.config.renew_ms / 1000)
        signals.worker_ready.connect(heart.ready, weak=False)
        if context.config.reconcile:
            reconciler = Reconciler(context, parent.hostname)
            self._begin("reconcile", lambda: scan_safely(reconciler), context.config.scan_ms / 1000)

    def _wait_for_ledger(self, context: Context) -> None:
        """Wait while Redis is away (it may be starting too); leave, saying why, when it cannot be used."""
        while True:
            try:
                check(context.client, context.config.client_url())
                agree_on_schema(context)
            except InfraError as error:
                if error.code != NO_ANSWER:
                    leave(error)
                log.warning("%s", error.explain())
                self._stop.wait(RETRY_S)
                state.maybe_shutdown()
            else:
                return

    def _begin(self, name: str, work: Callable[[], None], seconds: float) -> None:
        def loop() -> None:
            while not self._stop.is_set():
                work()
                self._stop.wait(seconds)

        thread = threading.Thread(target=loop, name=f"agentflow-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self, parent: Any) -> None:
        """Drain: let attempts finish within the grace period, then release them (nothing is counted).

        Leases are renewed until the last attempt has ended; then the worker is off the register.
        """
        ATTEMPTS.close()
        if not ATTEMPTS.wait_empty(current().config.grace_s):
            ATTEMPTS.drain(DRAINED)
            ATTEMPTS.wait_empty(RELEASE_S)
        self._stop.set()
        try:
            fleet = Fleet(current().client)
            fleet.forget(parent.hostname)
            fleet.resign(parent.hostname)
        except Unreachable:
            log.info("Redis is away; the register forgets this worker by itself")

    def terminate(self, parent: Any) -> None:
        """As `stop`."""
        self.stop(parent)


def leave(error: InfraError) -> NoReturn:
    """End a worker that cannot serve, with the error in place of a traceback."""
    log.critical("%s", error.explain())
    raise SystemExit(int(error.exit_code)) from error


def agree_on_schema(context: Context) -> None:
    """Raise `InfraError` when the ledger on this Redis has another layout than this worker knows."""
    schema = Fleet(context.client).agree_on_schema()
    if schema != keys.SCHEMA_VERSION:
        raise InfraError(
            f"the ledger has schema {schema}, this worker {keys.SCHEMA_VERSION}",
            fix="upgrade the older side; running work stays safe meanwhile",
            code="AF-INFRA-005",
        )


class Heart:
    """One beat: renew every lease in one call, tell lost attempts to end, sign the register."""

    def __init__(self, context: Context, worker: Any, *, every_role: bool) -> None:
        self._context = context
        self._worker = worker
        self._every_role = every_role
        self._fleet = Fleet(context.client)
        self._is_ready = False

    def ready(self, **_: Any) -> None:
        """The worker consumes: from now on it is on the register."""
        self._is_ready = True
        self.beat()

    def beat(self) -> None:
        """Never raises: while Redis is away the leases are kept by the watchers' own patience."""
        try:
            self._renew()
            if self._is_ready:
                self._sign()
                self._learn_roles()
        except Unreachable as error:
            log.warning("Redis is away: %s", error)
        except Exception:
            log.exception("this beat was given up")

    def _renew(self) -> None:
        lost = self._context.ledger.renew(ATTEMPTS.alive(), ttl_ms=self._context.config.lease_ttl_ms)
        for key, why in lost.items():
            ATTEMPTS.end(key, why)

    def _sign(self) -> None:
        self._fleet.register(
            self._worker.hostname,
            pid=os.getpid(),
            host=socket.gethostname(),
            slots=self._worker.concurrency,
            roles=[q for q in self._worker.app.amqp.queues.consume_from if q != SYSTEM_QUEUE],
            busy=len(ATTEMPTS),
            now_ms=self._context.ledger.now_ms(),
        )

    def _learn_roles(self) -> None:
        """A role that a run brought along (a project's own) gets its Celery task and queue here."""
        app, consumer = self._worker.app, self._worker.consumer
        if not self._every_role:
            return
        for role in self._fleet.roles() - set(app.amqp.queues.consume_from):
            register(app, role)
            app.amqp.queues.select_add(queue(role))
            consumer.call_soon(consumer.update_strategies)
            consumer.call_soon(consumer.add_task_queue, role)


class EventsInBatches(bootsteps.StartStopStep):
    """Sends what monitors are told four times a second, not with each task.

    Celery flushes its buffer whenever an event comes in, which wakes the loop and costs a no-op node 15 %
    of the worker's time; in batches it is a quarter of that.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._timer: Any = None
        self._dispatcher: Any = None

    def start(self, parent: Any) -> None:
        """Take the dispatcher of this connection over (after a lost connection there is a new one)."""
        self._dispatcher = parent.event_dispatcher
        if parent.hub and self._dispatcher:
            self._dispatcher.on_send_buffered = None
            self._timer = parent.timer.call_repeatedly(EVENTS_EVERY_S, self._dispatcher.flush)

    def stop(self, parent: Any) -> None:
        """Send what is there; while the connection is lost Celery keeps it for the next one."""
        del parent
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._dispatcher.flush()


def _refuse_claims(*_: Any, **__: Any) -> None:
    """SIGTERM: what the pool still takes from the broker goes back to it."""
    ATTEMPTS.close()


signals.worker_shutting_down.connect(_refuse_claims)
get_app().steps["worker"].add(AgentflowStep)
get_app().steps["consumer"].add(EventsInBatches)
