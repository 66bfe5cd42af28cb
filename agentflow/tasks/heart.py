"""One beat of a worker: renew every lease, read the orders, look at the machine, sign the register."""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from typing import Any

from agentflow import host
from agentflow.app import SYSTEM_QUEUE, WORKER_QUEUE, queue
from agentflow.store import keys
from agentflow.store.breakers import Breakers
from agentflow.store.client import Unreachable
from agentflow.store.fleet import Fleet
from agentflow.store.governor import Governor, configured_rates
from agentflow.store.orders import KILLED, OrderBook, Orders, configured_limits
from agentflow.tasks import affinity
from agentflow.tasks.admission import Admission
from agentflow.tasks.attempts import ATTEMPTS
from agentflow.tasks.context import Context
from agentflow.tasks.departure import DEPARTURE
from agentflow.tasks.roles import register

log = logging.getLogger("agentflow.worker")

#: Attempts that the register names for each worker.
NAMED_ATTEMPTS = 16
_PROCESS = uuid.uuid4().hex


class Heart:
    """Of one worker process; `beat` is called every second by one thread, from before it consumes until its
    last attempt has ended.
    """

    def __init__(self, context: Context, worker: Any, *, every_role: bool) -> None:
        self._context = context
        self._worker = worker
        self._every_role = every_role
        self._fleet = Fleet(context.client)
        self._orders = OrderBook(context.client)
        self._admission = Admission(context.config)
        self._place = host.place()
        self._started_ms = context.ledger.now_ms()
        self._born = host.born(os.getpid())
        self._kill = self._orders.read().kill
        self._is_ready = False
        self._is_refused = False
        affinity.NEAR.belong_to(worker)
        #: Tells this process from another one that wants its name.
        self.token = f"{self._place}|{os.getpid()}|{_PROCESS}"

    def ready(self, **_: Any) -> None:
        """The worker consumes: from now on it is on the register."""
        self._is_ready = True
        self._context.ledger.announce(
            "worker.joined", worker=self._worker.hostname, slots=self._worker.concurrency
        )
        self.beat()

    def beat(self) -> None:
        """Never raises: while Redis is away the leases are kept by the watchers' own patience."""
        try:
            if self._is_outdated():
                return
            self._renew()
            orders = self._orders.read()
            self.obey_kill(orders)
            # Whoever has lost its name must not sign with it: the record is the other one's.
            if self._obey(orders) and self._is_ready:
                self._look()
                self.sign()
                self.learn()
                affinity.NEAR.give_back(self._context)
        except Unreachable as error:
            log.warning("Redis is away: %s", error)
        except Exception:
            log.exception("this beat was given up")

    def _is_outdated(self) -> bool:
        """Whether the fleet has gone over to another schema while this worker could not hear it (asleep, or
        cut off). It writes nothing more to a ledger that it would misread: its leases run out, others go on.
        """
        schema = "" if self._is_refused else self._fleet.foreign_schema()
        if schema:
            self._is_refused = True
            told = f"the ledger on this Redis has schema {schema} by now, this worker {keys.SCHEMA_VERSION}"
            name = self._worker.hostname
            self._fleet.refuse(name, pid=os.getpid(), host=socket.gethostname(), reason=told)
            ATTEMPTS.drain("lost")
            self._leave(told, patient=False)
        return self._is_refused

    def _renew(self) -> None:
        lost = self._context.ledger.renew(ATTEMPTS.alive(), ttl_ms=self._context.config.lease_ttl_ms)
        for key, why in lost.items():
            ATTEMPTS.end(key, why)

    def _obey(self, orders: Orders) -> bool:
        """Leave when told to; whether the name is still this worker's."""
        name = self._worker.hostname
        if self._orders.take_name(name, self.token):
            self._leave("another process has its name by now", patient=False)
            return False
        if not self._is_ready:
            return True
        if orders.drained:
            self._leave(f"the fleet is drained: {orders.reason}")
        elif orders.leave(name):
            self._leave(orders.leave(name))
        return True

    def _look(self) -> None:
        before = self._admission.reason
        self._admission.look()
        reason = self._admission.reason
        if bool(reason) != bool(before):
            log.warning("this worker %s", f"holds back: {reason}" if reason else "takes on again")
            kind = "worker.held" if reason else "worker.resumed"
            self._context.ledger.announce(kind, worker=self._worker.hostname, reason=reason)
        self._admission.apply(self._worker.consumer)
        if too_large := self._admission.over_ceiling():
            self._leave(too_large, again=True)
        elif idle := self._admission.idle_for_too_long():
            self._leave(idle)

    def _leave(self, reason: str, *, patient: bool = True, again: bool = False) -> None:
        def wake() -> None:
            self._worker.consumer.call_soon(lambda: None)

        DEPARTURE.begin(reason, patient=patient, again=again, wake=wake if self._is_ready else None)

    def obey_kill(self, orders: Orders) -> None:
        """End now when the fleet was killed since this worker began."""
        if orders.kill != self._kill:
            self.die()

    def die(self) -> None:
        """End now. What runs here is ready again and nothing is counted; its processes die with this one."""
        ATTEMPTS.close()
        ended = ATTEMPTS.keys()
        for run, node, fence in ended:
            self._context.ledger.requeue(run, node, fence, reason=KILLED)
        self.sign_off(KILLED, attempts=len(ended))
        os.kill(os.getpid(), signal.SIGKILL)

    def state(self) -> tuple[str, str]:
        """What the register says of this worker, and why."""
        if ATTEMPTS.closed:
            return "draining", DEPARTURE.reason
        if self._admission.reason:
            return "held", self._admission.reason
        return ("working" if len(ATTEMPTS) else "idle"), ""

    def sign(self, state: str = "", reason: str = "") -> None:
        """Put this worker on the register."""
        worker = self._worker
        consumed = [q for q in worker.app.amqp.queues.consume_from if not q.startswith(SYSTEM_QUEUES)]
        if not state:
            state, reason = self.state()
        is_new = self._fleet.register(
            worker.hostname,
            pid=os.getpid(),
            host=socket.gethostname(),
            slots=worker.concurrency,
            roles=consumed,
            queues=consumed,
            every=self._every_role,
            busy=len(ATTEMPTS),
            now_ms=self._context.ledger.now_ms(),
            facts={
                "state": state,
                "reason": reason,
                "room": self._admission.room(worker.concurrency),
                "running": " ".join(ATTEMPTS.nodes()[:NAMED_ATTEMPTS]),
                "memory_mb": self._admission.memory_mb,
                "load": host.load(),
                "place": self._place,
                "started_ms": self._started_ms,
                "born": self._born,
            },
        )
        if is_new:
            # A server that lost its data has lost the limits too; what waits is woken under them.
            self.tell_limits()

    def tell_limits(self) -> None:
        """Note in the ledger what the configuration limits, for the whole fleet."""
        config = self._context.config
        self._context.ledger.default_limits(configured_limits(config))
        Governor(self._context.client).configure(configured_rates(config))
        Breakers(self._context.client).configure(config.breaker)

    def sign_off(self, reason: str, *, attempts: int = 0) -> None:
        """Take this worker off the register, unless another process has its name by now. A refused one stays
        on it for a while, with the reason.
        """
        name = self._worker.hostname
        if self._is_refused or self._orders.take_name(name, self.token):
            return
        self._context.ledger.announce("worker.left", worker=name, reason=reason, attempts=attempts)
        affinity.NEAR.close(self._context)
        self._fleet.forget(name)
        self._fleet.resign(name)
        self._orders.obeyed(name)
        self._orders.drop_name(name, self.token)

    def learn(self) -> None:
        """Take up what a run brought along: each role gets its Celery task here (any queue may carry it),
        and a worker that serves everything the queue too.
        """
        app = self._worker.app
        consumer = self._worker.consumer if self._is_ready else None
        roles = self._fleet.roles()
        fresh = [role for role in roles if register(app, role)]
        if fresh and consumer:
            consumer.call_soon(consumer.update_strategies)
        if not self._every_role:
            return
        for name in (roles | self._fleet.queues()) - set(app.amqp.queues.consume_from):
            app.amqp.queues.select_add(queue(name))
            if consumer:
                consumer.call_soon(consumer.add_task_queue, name)


#: Queues that are no role's and no feature's.
SYSTEM_QUEUES = (SYSTEM_QUEUE, WORKER_QUEUE)
