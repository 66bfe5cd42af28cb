"""Loads the Lua scripts and calls them by digest."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

import redis
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

_SHARED = (
    "lib.lua",
    "locks.lua",
    "line.lua",
    "exclusive.lua",
    "work.lua",
    "room.lua",
    "pauses.lua",
    "budget.lua",
    "isolation.lua",
    "admission.lua",
    "nodes.lua",
    "endings.lua",
    "breaker.lua",
)
#: These need nothing of the ledger's shared text.
_ALONE = frozenset({"renew", "register", "lead", "resign", "announce", "order"})
#: These need only some of it, or a text of their own.
_TEXTS = {
    "throttle": ("lib.lua", "windows.lua"),
    "landing": ("lib.lua",),
    "requeue": (*_SHARED, "caps.lua"),
    "reopen": (*_SHARED, "again.lua"),
    "retry": (*_SHARED, "again.lua"),
    "heal": (*_SHARED, "counting.lua"),
    "abandon": (*_SHARED, "counting.lua"),
}
#: Where every script takes the time from (seconds, microseconds), and nowhere else: a simulation has another
#: clock (`tests/helpers/simulation`).
_CLOCK = "local function clock() return redis.call('TIME') end"
#: A full Redis must still be able to end what it holds, and to say who lives (flags of Redis 7.0).
_ALLOW_OOM = _ALONE | {
    "throttle",
    "settle",
    "requeue",
    "close",
    "control",
    "charge",
    "pause",
    "deadlines",
    "cancel_role",
    "unbar",
    "landing",
    "abandon",
    "capacity",
    "due",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a transition says, and whom it moved: newly ready, woken, and ended nodes of the run.

    `others` are nodes that were woken in other runs, as (run, node): whoever made the transition sends
    them too.
    """

    head: tuple[str, ...]
    ready: tuple[str, ...] = ()
    woken: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


#: Raised for a script that a full server does not run.
Refused = OutOfMemoryError


def is_defect(error: BaseException) -> bool:
    """Whether a script could not make sense of what it found (the server itself has refused nothing)."""
    is_full = isinstance(error, OutOfMemoryError) or "OOM" in str(error)
    return isinstance(error, ResponseError) and "user_script" in str(error) and not is_full


@functools.cache
def source(name: str) -> str:
    """The text of one script with what all of them share."""
    folder = resources.files("agentflow.store") / "lua"
    names = () if name in _ALONE else _TEXTS.get(name, _SHARED)
    head = "#!lua flags=allow-oom\n" if name in _ALLOW_OOM else "#!lua\n"
    texts = [(folder / part).read_text("utf-8") for part in (*names, f"{name}.lua")]
    return "\n".join((head + _CLOCK, *texts))


@functools.cache
def _digest(name: str) -> str:
    return hashlib.sha1(source(name).encode()).hexdigest()  # noqa: S324 (Redis names scripts so)


def call(client: redis.Redis, name: str, *args: str | float) -> list[Any]:
    """Run a script atomically; loads it when the server does not have it (a restart forgets)."""
    try:
        return cast("list[Any]", client.evalsha(_digest(name), 0, *args))
    except NoScriptError:
        return cast("list[Any]", client.eval(source(name), 0, *args))


def transition(client: redis.Redis, name: str, *args: str | float) -> Answer:
    """Run a script that ends in the common answer (four lists as lines)."""
    raw: Sequence[Any] = call(client, name, *args)
    *head, ready, woken, ended, others = (str(part) for part in raw)
    elsewhere = (line.split("|", 1) for line in _lines(others))
    return Answer(
        tuple(head),
        _lines(ready),
        _lines(woken),
        _lines(ended),
        tuple((run, node) for run, node in elsewhere),
    )


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()
