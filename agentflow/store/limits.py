"""What holds for the whole fleet: how many slots at once, who may use them, what was done to it.

Limits are `fleet` (slots at once over all runs), `role:<role>` and `class:<complexity>` (the same for one
role or complexity, in place of the run's own limit for it). They are changed while everything runs:
lowering one ends nothing, what is above it finishes; raising one wakes what waited. Without a limit the
fleet is as large as the slots of its workers, which the leader counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from agentflow.errors import UsageError
from agentflow.store import keys, scripts
from agentflow.store.reading import Reading
from agentflow.store.scripts import Answer

#: The limit of all runs together; `role:<role>` and `class:<complexity>` are the others.
FLEET = "fleet"
ROLE = "role:"
CLASS = "class:"
COMPLEXITIES = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause of the fleet or of a role. `since_ms`: of Redis' clock."""

    name: str
    reason: str
    since_ms: int


def put_event(pipe: redis.Redis, entry: Mapping[str, Any]) -> None:
    """Put one entry on the list `system_events` (`pipe` may be a pipeline)."""
    pipe.lpush(keys.SYSTEM_EVENTS, json.dumps(entry, ensure_ascii=False, default=str))
    pipe.ltrim(keys.SYSTEM_EVENTS, 0, keys.SYSTEM_EVENTS_MAX - 1)


class Limits(Reading):
    """Limits and announcements that concern every run."""

    def set_limit(self, name: str, slots: int) -> Answer:
        """Set `fleet`, `role:<role>` or `class:<complexity>` to so many slots (0: no limit), at once.

        The answer's `others` are the nodes that have room now; they must be sent. Raises `UsageError` for
        another name or a negative number.
        """
        _check_limit(name, slots)
        return scripts.transition(self.client, "limit", "", name, slots)

    def set_run_limit(self, run_id: str, name: str, slots: int) -> Answer:
        """Let so many nodes of one run be at work at once: `all`, of a role or `class:..` (0: no limit).

        A limit of the same name in the fleet stands in place of the run's own. Raises `UsageError` for what
        the run does not have.
        """
        if slots < 0:
            raise UsageError(f"a limit of {slots} slots makes no sense", fix="give 0 for no limit")
        answer = scripts.transition(self.client, "run_limit", run_id, name, slots)
        if answer.head[0] == "unknown":
            what = "all, a role of it, or class:high"
            raise UsageError(f"run {run_id} has no node of the role {name!r}", fix=what)
        return answer

    def run_limits(self, run_id: str) -> dict[str, int]:
        """The limits of one run that are set: `all`, by role, and by complexity (`class:..`)."""
        nodes = cast("list[str]", json.loads(self.client.hget(keys.run(run_id), "order") or "[]"))
        pipe = self.client.pipeline(transaction=False)
        pipe.hget(keys.run(run_id), "max_concurrent")
        for node in nodes:
            pipe.hmget(keys.node(run_id, node), ["role", "role_limit"])
        pipe.hmget(keys.run(run_id), [f"most:{name}" for name in COMPLEXITIES])
        most, *roles, classes = pipe.execute()
        found = {"all": int(most or 0), **{str(role): int(limit or 0) for role, limit in roles}}
        found |= {CLASS + name: int(limit or 0) for name, limit in zip(COMPLEXITIES, classes, strict=True)}
        return {name: slots for name, slots in found.items() if slots > 0}

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

    def pause(self, name: str, reason: str) -> bool:
        """Let nothing of `fleet` or `role:<role>` start until `unpause`; False when that holds already."""
        _check_name(name)
        return scripts.transition(self.client, "pause", "", "pause", name, reason).head[0] == "paused"

    def unpause(self, name: str) -> Answer | None:
        """End such a pause; None when there was none. The answer's `others` have room now: send them."""
        _check_name(name)
        answer = scripts.transition(self.client, "pause", "", "resume", name, "")
        return answer if answer.head[0] == "resumed" else None

    def pauses(self) -> dict[str, Pause]:
        """What is paused for every run, by name."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.PAUSED))
        found = {}
        for name, value in sorted(raw.items()):
            since, _, reason = value.partition(" ")
            found[name] = Pause(name, reason, int(since))
        return found

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
    if name.startswith(CLASS):
        check_class(name)
    else:
        _check_name(name)
    if slots < 0:
        raise UsageError(f"a limit of {slots} slots makes no sense", fix="give 0 for no limit")


def check_class(name: str) -> None:
    """Raise `UsageError` when `class:<complexity>` names no complexity."""
    if name.removeprefix(CLASS) not in COMPLEXITIES:
        raise UsageError(f"there is no complexity for {name!r}", fix="class:low, class:medium or class:high")


def _check_name(name: str) -> None:
    if name != FLEET and not (name.startswith(ROLE) and len(name) > len(ROLE)):
        raise UsageError(
            f"there is no limit called {name!r}", fix="`fleet`, or `role:` and the name of a role"
        )
