"""Workers, the reconciling leader, and what lies in the broker's queues."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import cast

import redis

from agentflow.errors import InfraError
from agentflow.store import keys, scripts

#: kombu's Redis transport keeps one list per priority: `queue` for 0, `queue\x06\x16N` for 1-9.
PRIORITIES = range(10)
_SEPARATOR = "\x06\x16"
#: State on the register of a worker that does not serve.
REFUSED = "refused"
#: Milliseconds that the leader's lease lasts.
LEADER_TTL_MS = 1500


class Fleet:
    """The register of workers and the election of the one that reconciles."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def register(
        self,
        name: str,
        *,
        pid: int,
        host: str,
        slots: int,
        roles: Iterable[str],
        busy: int,
        now_ms: int,
        queues: Iterable[str] | None = None,
        every: bool = False,
        facts: Mapping[str, str | int | float] | None = None,
    ) -> bool:
        """Say that this worker lives; forgotten `WORKER_TTL_S` after the last call. Whether it was not known:
        it is new, was away for long, or the server has lost what it knew.

        `queues`: what it consumes (None: the queues of its roles); `every`: it also takes up what is new.
        `facts`: further fields of its `WorkerRecord`.
        """
        roles = sorted(roles)
        fields: dict[str, str | int | float] = {
            **(facts or {}),
            "pid": pid,
            "host": host,
            "slots": slots,
            "roles": " ".join(roles),
            "queues": " ".join(roles if queues is None else sorted(queues)),
            "every": int(every),
            "schema": keys.SCHEMA_VERSION,
            "seen_ms": now_ms,
            "busy": busy,
        }
        flat = [word for field in fields.items() for word in field]
        said = scripts.call(self._client, "register", "", name, keys.WORKER_TTL_S, now_ms, *flat)
        return bool(said[0] == "new")

    def refuse(self, name: str, *, pid: int, host: str, reason: str) -> None:
        """Say on the register why a worker does not serve; forgotten after `WORKER_TTL_S`."""
        now_ms = int(self._client.time()[0]) * 1000
        facts = {"state": REFUSED, "reason": reason}
        self.register(name, pid=pid, host=host, slots=0, roles=(), busy=0, now_ms=now_ms, facts=facts)

    def foreign_schema(self) -> str:
        """The version of the ledger's layout when it is not ours; '' when it is, or there is none."""
        found = str(self._client.get(keys.SCHEMA) or "")
        return "" if found == keys.SCHEMA_VERSION else found

    def forget(self, name: str) -> None:
        """Take a worker off the register."""
        # No transaction: a full server refuses every one.
        pipe = self._client.pipeline(transaction=False)
        pipe.delete(keys.worker(name))
        pipe.zrem(keys.WORKER_NAMES, name)
        pipe.execute()

    def prune(self, now_ms: int) -> None:
        """Forget the names of workers whose record has been gone for a while."""
        self._client.zremrangebyscore(keys.WORKER_NAMES, "-inf", now_ms - 4 * 1000 * keys.WORKER_TTL_S)

    def lead(self, name: str) -> bool:
        """Become or stay the leader; exactly one name holds it for `LEADER_TTL_MS`."""
        return bool(scripts.call(self._client, "lead", "", name, LEADER_TTL_MS)[0])

    def resign(self, name: str) -> None:
        """Give the leadership up, when held."""
        scripts.call(self._client, "resign", "", name)

    def agree_on_schema(self) -> str:
        """The version of the ledger's layout on this Redis: ours, when it is new or nobody uses it.

        An older layout is taken over when no run is open and no worker is registered: closed runs are read
        alike by both.
        """
        ours = keys.SCHEMA_VERSION
        # Read first: on a full Redis what runs must still be looked at and ended.
        if not self._client.exists(keys.SCHEMA) and self._client.setnx(keys.SCHEMA, ours):
            return ours
        found = str(self._client.get(keys.SCHEMA))
        in_use = self._client.exists(keys.OPEN) or any(
            self._client.hget(key, "state") != REFUSED for key in self._client.scan_iter(keys.WORKERS + "*")
        )
        if found.isdigit() and int(found) < int(ours) and not in_use:
            self._client.set(keys.SCHEMA, ours)
            return ours
        return found

    def require_schema(self) -> None:
        """Raise `InfraError` when the ledger on this Redis has another layout than this version knows."""
        schema = self.agree_on_schema()
        if schema != keys.SCHEMA_VERSION:
            raise InfraError(
                f"the ledger on this Redis has schema {schema}, this agentflow {keys.SCHEMA_VERSION}",
                why="it belongs to another version, and both would misread each other",
                fix="upgrade the older side; running work stays safe meanwhile",
                code="AF-INFRA-005",
            )

    def roles(self) -> set[str]:
        """Roles that some run asked for."""
        return cast("set[str]", self._client.smembers(keys.ROLES))

    def queues(self) -> set[str]:
        """Queues that some run asked for."""
        return cast("set[str]", self._client.smembers(keys.QUEUES))

    def queue_lengths(self, queues: Iterable[str]) -> dict[str, int]:
        """Messages that wait in each queue, all priorities together."""
        names = list(queues)
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            for key in _lists(name):
                pipe.llen(key)
        counts = cast("list[int]", pipe.execute())
        size = len(PRIORITIES)
        return {name: sum(counts[i * size : (i + 1) * size]) for i, name in enumerate(names)}

    def open_near(self, worker: str) -> None:
        """Note that a worker has a queue of its own."""
        self._client.sadd(keys.NEAR, worker)

    def close_near(self, worker: str) -> None:
        """Remove a worker's own queue with whatever is in it."""
        name = keys.NEAR_QUEUE + worker
        pipe = self._client.pipeline(transaction=False)
        pipe.delete(*_lists(name), *(prefix + name for prefix in keys.KOMBU_BINDINGS))
        pipe.srem(keys.NEAR, worker)
        pipe.execute()

    def near(self) -> set[str]:
        """Workers that have a queue of their own."""
        return cast("set[str]", self._client.smembers(keys.NEAR))

    def take_back(self, queue: str) -> list[tuple[str, str]]:
        """Take every message out of a queue; the (run, node) pairs of those that are ours.

        One at a time: a consumer that takes one meanwhile has it for itself.
        """
        found = []
        for key in _lists(queue):
            while (message := cast("str | None", self._client.rpop(key))) is not None:
                pair = _pair(message)
                if pair:
                    found.append(pair)
        return found

    def waiting(self, queue: str) -> set[tuple[str, str]]:
        """The (run, node) pairs of the messages that lie in a queue's ten lists."""
        pipe = self._client.pipeline(transaction=False)
        for key in _lists(queue):
            pipe.lrange(key, 0, -1)
        found = set()
        for messages in cast("list[list[str]]", pipe.execute()):
            for message in messages:
                pair = _pair(message)
                if pair:
                    found.add(pair)
        return found


def _lists(queue: str) -> list[str]:
    return [queue if p == 0 else f"{queue}{_SEPARATOR}{p}" for p in PRIORITIES]


def _pair(message: str) -> tuple[str, str] | None:
    """Run and node of a message of ours (its first two arguments); None for any other."""
    try:
        envelope = json.loads(message)
        body = envelope["body"]
        if envelope.get("properties", {}).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        args = json.loads(body)[0]
        return str(args[0]), str(args[1])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
