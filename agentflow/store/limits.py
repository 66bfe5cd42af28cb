"""What holds for the whole fleet: how many slots at once, who may use them, what was done to it.

Limits are `fleet` (slots at once over all runs) and `role:<role>` (the same for one role, in place of
the run's own limit for it). They are changed while everything runs: lowering one ends nothing, what is
above it finishes; raising one wakes what waited. Without a limit the fleet is as large as the slots of
its workers, which the leader counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import redis

from agentflow.errors import UsageError
from agentflow.store import keys, scripts
from agentflow.store.reading import Reading
from agentflow.store.scripts import Answer

#: The limit of all runs together; `role:<role>` are the others.
FLEET = "fleet"
ROLE = "role:"


def put_event(pipe: redis.Redis, entry: Mapping[str, Any]) -> None:
    """Put one entry on the list `system_events` (`pipe` may be a pipeline)."""
    pipe.lpush(keys.SYSTEM_EVENTS, json.dumps(entry, ensure_ascii=False, default=str))
    pipe.ltrim(keys.SYSTEM_EVENTS, 0, keys.SYSTEM_EVENTS_MAX - 1)


class Limits(Reading):
    """Limits and announcements that concern every run."""

    def set_limit(self, name: str, slots: int) -> Answer:
        """Set `fleet` or `role:<role>` to so many slots (0: no limit), at once, for every run.

        The answer's `others` are the nodes that have room now; they must be sent. Raises `UsageError` for
        another name or a negative number.
        """
        _check_limit(name, slots)
        return scripts.transition(self.client, "limit", "", name, slots)

    def limits(self) -> dict[str, int]:
        """The limits that are set, by name, in slots."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.LIMITS))
        return {name: int(slots) for name, slots in sorted(raw.items()) if int(slots) > 0}

    def default_limits(self, limits: Mapping[str, int]) -> None:
        """Set those limits that nobody has set (nor taken away) so far."""
        for name, slots in limits.items():
            _check_limit(name, slots)
            if slots:
                self.client.hsetnx(keys.LIMITS, name, str(slots))

    def set_capacity(self, slots: Mapping[str, int]) -> Answer:
        """Note how many slots consume each queue (the leader does); wakes what has room now."""
        flat = [word for queue, count in slots.items() for word in (queue, count)]
        return scripts.transition(self.client, "capacity", "", *flat)

    def capacity(self) -> dict[str, int]:
        """Slots of the registered workers by queue, as the leader counted last."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.CAPACITY))
        return {queue: int(slots) for queue, slots in raw.items()}

    def in_flight(self) -> dict[str, int]:
        """Nodes that run or hold a slot, in all runs: `fleet`, `role:<role>`, `queue:<queue>`."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.FLIGHT))
        return {name: int(count) for name, count in raw.items()}

    def waiting(self) -> dict[str, int]:
        """Nodes of all runs that are parked for want of room in the fleet, by queue.

        They have no message in the broker: whoever measures how much work lies there adds these.
        """
        raw = cast("dict[str, str]", self.client.hgetall(keys.WAITING))
        found: dict[str, int] = {}
        for name, count in raw.items():
            queue = name.partition("|")[2]
            found[queue] = found.get(queue, 0) + int(count)
        return found

    def announce(self, kind: str, **fields: Any) -> None:
        """Put a deed on the fleet (`fleet.scaled`, `worker.joined`, ...) on the list `system_events`.

        Each entry is a JSON object with `at` (ms of Redis' clock), `kind` and the given fields.
        """
        entry = json.dumps({"at": self.now_ms(), "kind": kind, **fields}, ensure_ascii=False, default=str)
        scripts.call(self.client, "announce", "", entry, keys.SYSTEM_EVENTS_MAX)


def _check_limit(name: str, slots: int) -> None:
    if name != FLEET and not (name.startswith(ROLE) and len(name) > len(ROLE)):
        raise UsageError(
            f"there is no limit called {name!r}", fix="`fleet`, or `role:` and the name of a role"
        )
    if slots < 0:
        raise UsageError(f"a limit of {slots} slots makes no sense", fix="give 0 for no limit")
