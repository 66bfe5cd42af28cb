"""Workers, the reconciling leader, and what lies in the broker's queues."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, cast

import redis

from agentflow.store import keys

#: kombu's Redis transport keeps one list per priority: `queue` for 0, `queue\x06\x16N` for 1-9.
PRIORITIES = range(10)
_SEPARATOR = "\x06\x16"
#: Milliseconds that the leader's lease lasts.
LEADER_TTL_MS = 1500


class Fleet:
    """The register of workers and the election of the one that reconciles."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def register(
        self, name: str, *, pid: int, host: str, slots: int, roles: Iterable[str], busy: int, now_ms: int
    ) -> None:
        """Say that this worker lives; forgotten `WORKER_TTL_S` after the last call."""
        fields: dict[str, str | int] = {
            "pid": pid,
            "host": host,
            "slots": slots,
            "roles": " ".join(sorted(roles)),
            "schema": keys.SCHEMA_VERSION,
            "seen_ms": now_ms,
            "busy": busy,
        }
        pipe = self._client.pipeline(transaction=True)
        pipe.hset(keys.worker(name), mapping=cast("Any", fields))
        pipe.expire(keys.worker(name), keys.WORKER_TTL_S)
        pipe.execute()

    def forget(self, name: str) -> None:
        """Take a worker off the register."""
        self._client.delete(keys.worker(name))

    def lead(self, name: str) -> bool:
        """Become or stay the leader; exactly one name holds it for `LEADER_TTL_MS`."""
        if self._client.set(keys.LEADER, name, nx=True, px=LEADER_TTL_MS):
            return True
        if self._client.get(keys.LEADER) != name:
            return False
        self._client.pexpire(keys.LEADER, LEADER_TTL_MS)
        return True

    def resign(self, name: str) -> None:
        """Give the leadership up, when held."""
        if self._client.get(keys.LEADER) == name:
            self._client.delete(keys.LEADER)

    def agree_on_schema(self) -> str:
        """The version of the ledger's layout on this Redis (ours, when it is new)."""
        self._client.setnx(keys.SCHEMA, keys.SCHEMA_VERSION)
        return str(self._client.get(keys.SCHEMA))

    def roles(self) -> set[str]:
        """Roles that some run asked for."""
        return cast("set[str]", self._client.smembers(keys.ROLES))

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
    except (ValueError, KeyError, IndexError, TypeError):
        return None
