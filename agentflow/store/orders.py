"""What operators tell the whole fleet, and whose a worker's name is.

Workers read their orders with every beat, so nothing has to reach them: an order stands in the ledger, and
whoever starts later finds it there too.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import cast

import redis

from agentflow.config import Config
from agentflow.errors import InfraError
from agentflow.store import keys, scripts
from agentflow.store.limits import FLEET, ROLE, Limits

DRAINED = "drained"
#: Why attempts and workers ended that were killed.
KILLED = "the fleet was killed"
_LEAVE = "leave:"


@dataclass(frozen=True, slots=True)
class Orders:
    """The orders at one moment. `kill` changes with each kill; who began after one does not obey it."""

    drained: bool = False
    reason: str = ""
    since_ms: int = 0
    kill: str = ""
    leaving: tuple[tuple[str, str], ...] = ()

    def leave(self, worker: str) -> str:
        """Why this worker is to leave; '' when it is not."""
        return dict(self.leaving).get(worker, "")


def refuse_drained(client: redis.Redis) -> None:
    """Raise `InfraError` while the fleet is drained."""
    orders = OrderBook(client).read()
    if orders.drained:
        raise InfraError(
            f"the fleet is drained: {orders.reason}",
            why="no worker starts an attempt until that ends",
            fix="`agentflow drain --resume`, or `agentflow scale N`",
            code="AF-FLEET-008",
        )


def configured_limits(config: Config) -> dict[str, int]:
    """`limits` of the configuration by the ledger's names; they hold until somebody sets others."""
    roles = {config.role_name(word) or word: slots for word, slots in config.limits.roles.items()}
    return {FLEET: config.limits.fleet, **{ROLE + role: slots for role, slots in roles.items()}}


def refuse_full(ledger: Limits, cap: int) -> None:
    """Raise `InfraError` while `cap` nodes or more wait for a slot (`fleet.queue_cap`; 0: no cap)."""
    if not cap:
        return
    waiting = sum(len(ledger.ready(run_id)) for run_id in ledger.open_runs()) + sum(ledger.waiting().values())
    if waiting >= cap:
        raise InfraError(
            f"{waiting} nodes wait for a slot already, and fleet.queue_cap is {cap}",
            fix="submit again later, start more workers, or raise fleet.queue_cap",
            code="AF-FLEET-009",
        )


class OrderBook:
    """Orders on one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def read(self) -> Orders:
        """All orders."""
        raw = cast("dict[str, str]", self._client.hgetall(keys.ORDERS))
        leaving = {k.removeprefix(_LEAVE): why for k, why in raw.items() if k.startswith(_LEAVE)}
        return Orders(
            drained=raw.get("state") == DRAINED,
            reason=raw.get("reason", ""),
            since_ms=int(raw.get("since_ms") or 0),
            kill=raw.get("kill", ""),
            leaving=tuple(sorted(leaving.items())),
        )

    def drain(self, reason: str, now_ms: int) -> None:
        """No worker begins an attempt; each leaves when it has finished. Holds until `resume`."""
        self._order("state", DRAINED, "reason", reason, "since_ms", now_ms)

    def resume(self) -> bool:
        """End a drain; whether there was one."""
        return bool(self._client.hdel(keys.ORDERS, "state", "reason", "since_ms"))

    def kill(self) -> None:
        """Every worker ends at once."""
        self._order("kill", uuid.uuid4().hex)

    def dismiss(self, worker: str, reason: str) -> None:
        """One worker finishes what it has and leaves."""
        self._order(_LEAVE + worker, reason)

    def _order(self, *words: str | int) -> None:
        scripts.call(self._client, "order", "", *words)

    def obeyed(self, worker: str) -> None:
        """A worker that was dismissed has left."""
        self._client.hdel(keys.ORDERS, _LEAVE + worker)

    # -- names -----------------------------------------------------------------------------------

    def take_name(self, worker: str, token: str) -> str:
        """Take or keep a worker's name; '' when it is ours now, else the token of who has it."""
        key = keys.name_of(worker)
        holder = str(self._client.get(key) or "")
        if holder == token and self._client.pexpire(key, keys.NAME_TTL_MS):
            return ""
        if holder != token and holder:
            return holder
        if self._client.set(key, token, nx=True, px=keys.NAME_TTL_MS):
            return ""
        return str(self._client.get(key) or "")

    def name_left_ms(self, worker: str) -> int:
        """How long the name is still its holder's; goes up again whenever the holder gives a sign of life."""
        return int(self._client.pttl(keys.name_of(worker)))

    def drop_name(self, worker: str, token: str) -> None:
        """Give a name back, when it is still `token`'s."""
        if self._client.get(keys.name_of(worker)) == token:
            self._client.delete(keys.name_of(worker))
