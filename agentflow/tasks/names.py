"""A worker's name belongs to one process: leases and the register tell workers apart by it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agentflow import host
from agentflow.errors import InfraError
from agentflow.store.orders import OrderBook
from agentflow.tasks.context import Context

log = logging.getLogger("agentflow.worker")

#: Seconds between two looks at a name that somebody else has.
LOOK_S = 0.2


def take(context: Context, name: str, token: str, pause: Callable[[float], None]) -> None:
    """Take a worker's name, of a dead process at once or as soon as it has been silent for long enough.

    Raises `InfraError` as soon as its holder gives a sign of life.
    """
    book = OrderBook(context.client)
    left_ms = None
    while holder := book.take_name(name, token):
        where, pid, _ = holder.split("|", 2)
        if where == host.place() and not host.is_alive(int(pid)):
            log.info("the last process called %s is dead", name)
            book.drop_name(name, holder)
            context.ledger.expire_worker(name)
            continue
        now_left_ms = book.name_left_ms(name)
        if left_ms is not None and now_left_ms > left_ms:
            raise InfraError(
                f"there is a worker called {name} already",
                why=f"it is process {pid} on {where.partition('/')[0]} and has just given a sign of life; "
                "what two workers of one name hold could not be told apart",
                fix="give this one another name: -n NAME@HOST (agentflow worker: --name NAME)",
                code="AF-FLEET-004",
            )
        left_ms = now_left_ms
        pause(LOOK_S)
