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
from agentflow.config import Config
from agentflow.errors import InfraError
from agentflow.local import launching
from agentflow.store import keys
from agentflow.store.client import NO_ANSWER, Unreachable, check
from agentflow.store.fleet import Fleet
from agentflow.store.orders import OrderBook
from agentflow.tasks import names
from agentflow.tasks.attempt import DRAINED
from agentflow.tasks.attempts import ATTEMPTS
from agentflow.tasks.context import Context, current
from agentflow.tasks.departure import DEPARTURE, start_afresh
from agentflow.tasks.heart import Heart
from agentflow.tasks.maintenance import Reconciler, scan_safely, sweep_safely, tidy_safely

log = logging.getLogger("agentflow.worker")

#: Pools in which kill -9 loses messages for good (measured; docs/redis.md).
REFUSED_POOLS = ("gevent", "eventlet")
#: Seconds between two looks for a Redis that does not answer.
RETRY_S = 2.0
#: Seconds that attempts have to end once they were told to.
RELEASE_S = 10.0
#: Seconds that a beat which is under way has to end.
LAST_BEAT_S = 2.0
#: Seconds between two looks of a worker that waits for a drained fleet.
WAIT_S = 0.5
#: Seconds between two looks for what closed runs left on this machine.
TIDY_EVERY_S = 3600.0
#: Seconds between two looks for workspaces of runs that have ended.
SWEEP_EVERY_S = 5.0
#: Seconds between two messages of task events.
EVENTS_EVERY_S = 0.25


class AgentflowStep(bootsteps.StartStopStep):
    """Starts the threads that keep this worker's word to the ledger."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._heart: Heart | None = None
        self._every_role = not choose_queues(parent.app, current().config)
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
        self._patiently(lambda: self._enter(context, parent))
        heart = self._heart
        if heart is None:
            return
        self._begin("renew", heart.beat, context.config.renew_ms / 1000)
        signals.worker_ready.connect(heart.ready, weak=False)
        if context.config.reconcile:
            reconciler = Reconciler(context, parent.hostname)
            self._begin("reconcile", lambda: scan_safely(reconciler), context.config.scan_ms / 1000)
        self._begin("tidy", lambda: tidy_safely(context), TIDY_EVERY_S)
        self._begin("sweep", lambda: sweep_safely(context), SWEEP_EVERY_S)

    def _patiently(self, enter: Callable[[], None]) -> None:
        """Wait while Redis is away (it may be starting too); leave, saying why, when it cannot be used."""
        while True:
            try:
                enter()
            except InfraError as error:
                if error.code != NO_ANSWER:
                    leave(error)
                log.warning("%s", error.explain())
            except Unreachable as error:
                log.warning("Redis is away: %s", error)
            else:
                return
            self._stop.wait(RETRY_S)
            state.maybe_shutdown()

    def _enter(self, context: Context, parent: Any) -> None:
        """Be let in: by the server, the ledger's layout, whoever has our name, and the fleet's orders."""
        check(context.client, context.config.client_url())
        agree_on_schema(context, parent.hostname)
        self._heart = heart = Heart(context, parent, every_role=self._every_role)
        names.take(context, parent.hostname, heart.token, self._look_up)
        book = OrderBook(context.client)
        # Its predecessor of this name may have died with messages in a queue that only it consumed.
        Fleet(context.client).close_near(parent.hostname)
        while (orders := book.read()).drained:
            heart.obey_kill(orders)
            heart.sign("waiting", f"the fleet is drained: {orders.reason}")
            book.take_name(parent.hostname, heart.token)
            self._look_up(WAIT_S)
        heart.tell_limits()
        heart.learn()

    def _look_up(self, seconds: float) -> None:
        """Sleep a little; raises what ends a worker that was told to leave meanwhile."""
        self._stop.wait(seconds)
        state.maybe_shutdown()

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
        del parent
        ATTEMPTS.close()
        if not DEPARTURE.wait(current().config.grace_s):
            ATTEMPTS.drain(DRAINED)
            ATTEMPTS.wait_empty(RELEASE_S)
        self._stop.set()
        # A beat that is under way would put this worker on the register again.
        for thread in self._threads:
            thread.join(LAST_BEAT_S)
        if self._heart is None:
            return
        try:
            self._heart.sign_off(DEPARTURE.reason or "it ended")
        except Unreachable:
            log.info("Redis is away; the register forgets this worker by itself")

    def terminate(self, parent: Any) -> None:
        """As `stop`."""
        self.stop(parent)


def choose_queues(app: Any, config: Config) -> bool:
    """Consume what `-Q` says, else what `worker.queues` says; False when neither says anything.

    An alias of a role stands for the role's queue.
    """
    queues = app.amqp.queues
    # Celery keeps `-Q` to itself; what is chosen by now is less than the whole table only when it was given.
    given = () if set(queues.consume_from) == set(queues) else queues.consume_from
    wanted = list(given or config.worker.queues)
    if not wanted:
        return False
    names = dict.fromkeys(launching.resolve(name, config) for name in wanted)
    queues.select([queues.add(queue(name)).name for name in names])
    return True


def leave(error: InfraError) -> NoReturn:
    """End a worker that cannot serve, with the error in place of a traceback."""
    log.critical("%s", error.explain())
    raise SystemExit(int(error.exit_code)) from error


def agree_on_schema(context: Context, name: str) -> None:
    """Raise `InfraError` when the ledger on this Redis has another layout than this worker knows.

    The register says why, unless another worker has that name.
    """
    fleet = Fleet(context.client)
    try:
        fleet.require_schema()
    except InfraError as error:
        if not context.client.exists(keys.name_of(name)):
            fleet.refuse(name, pid=os.getpid(), host=socket.gethostname(), reason=error.what)
        raise


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
    DEPARTURE.told()


def _come_back(*_: Any, **__: Any) -> None:
    """The worker has ended; one that left for its memory's sake begins anew."""
    if DEPARTURE.again:
        start_afresh()


signals.worker_shutting_down.connect(_refuse_claims)
signals.worker_shutdown.connect(_come_back)
get_app().steps["worker"].add(AgentflowStep)
get_app().steps["consumer"].add(EventsInBatches)
