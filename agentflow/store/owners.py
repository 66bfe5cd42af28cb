"""Whose each key of the server is, and whether it goes when its owner does (I10).

The tables in the docstrings of `keys`, `packs` and `logs` are the rules: a key that stands in none of them is
nobody's, and one whose row promises a TTL must have one. What Celery and kombu keep is listed here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from agentflow.states import CLOSED
from agentflow.store import keys, logs, packs

#: What Celery and kombu keep, and whether it must have a TTL. Queues are lists of any name.
_FOREIGN = (
    ("celery-task-meta-", True),
    ("celery-taskset-meta-", True),
    ("_kombu.binding", False),
    ("unacked", False),
)
#: TTL column of what lives with its run, and of what is empty, hence absent, when nothing needs it.
_WITH_RUN, _EMPTIES_ITSELF, _NONE = "when closed", "empties itself", "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a table of keys."""

    pattern: str
    ttl: str
    owner: str
    names: re.Pattern[str]


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Every row of the three tables, the most exact patterns first."""
    found = []
    for module in (keys, packs, logs):
        for pattern, _, _, ttl, owner in re.findall(
            r"^\| `([^`]+)` \| ([^|]+) \| (.+) \| ([^|]+) \| ([^|]+) \|$", module.__doc__ or "", re.MULTILINE
        ):
            names = re.sub(r"<[a-z]+>", "(.*)", re.escape(pattern).replace("<id>", "([^:]+)"))
            found.append(Rule(pattern, ttl, owner, re.compile(names)))
    return tuple(sorted(found, key=lambda rule: (-rule.pattern.count(":"), rule.pattern.count("<"))))


def ownerless(client: redis.Redis) -> list[tuple[str, str]]:
    """Keys that nobody owns, or that would outlive their owner, and why. A look at a live server.

    What is found is looked at once more: a run may have been closed between two questions.
    """
    found = dict(_look(client, client.scan_iter(count=1000)))
    return sorted(_look(client, found)) if found else []


def _look(client: redis.Redis, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    listed = list(dict.fromkeys(names))
    pipe = client.pipeline(transaction=False)
    for key in listed:
        pipe.ttl(key)
        pipe.type(key)
    raw: list[Any] = pipe.execute()
    states = _run_states(client)
    alive = _alive(client)
    for key, ttl, kind in zip(listed, raw[::2], raw[1::2], strict=True):
        if kind != "none":
            why = _wrong(str(key), int(ttl), str(kind), states, alive)
            if why:
                yield str(key), why


def _run_states(client: redis.Redis) -> dict[str, str]:
    """The state of each run whose hash is there."""
    prefix = keys.run("")
    ids = {key.removeprefix(prefix).split(":")[0] for key in client.scan_iter(prefix + "*", count=1000)}
    found = {run_id: client.hget(keys.run(run_id), "state") for run_id in ids}
    return {run_id: str(state) for run_id, state in found.items() if state}


def _alive(client: redis.Redis) -> set[str]:
    """Who may own what empties itself: `runs` that are open or hold paths, registered `workers`."""
    found = set()
    if client.exists(keys.OPEN) or client.exists(keys.HOLDING):
        found.add("runs")
    if any(True for _ in client.scan_iter(keys.worker("*"), count=1000)):
        found.add("workers")
    return found


def _wrong(key: str, ttl: int, kind: str, states: dict[str, str], alive: set[str]) -> str:
    """What is wrong with one key, '' when nothing is."""
    foreign = next((must for prefix, must in _FOREIGN if key.startswith(prefix)), None)
    if foreign is not None:
        return "has no TTL" if foreign and ttl < 0 else ""
    found = ((rule, rule.names.fullmatch(key)) for rule in rules())
    rule, match = next(((rule, match) for rule, match in found if match), (None, None))
    if rule is None or match is None:
        return "" if kind == "list" or ".pidbox" in key else "stands in no table of keys: it is nobody's"
    if rule.ttl.startswith(_NONE):
        return ""
    if rule.ttl == _EMPTIES_ITSELF:
        owner = "workers" if "workers" in rule.owner else "runs"
        return "" if alive & {owner, "runs"} else f"is still there, but its owners ({rule.owner}) are not"
    if rule.ttl == _WITH_RUN:
        return _of_run(states.get(match[1]), ttl)
    return f"has no TTL ({rule.ttl} is promised)" if ttl < 0 else ""


def _of_run(state: str | None, ttl: int) -> str:
    if state is None:
        return "belongs to a run that is not there"
    if state in CLOSED:
        return "" if ttl >= 0 else f"has no TTL, but its run is {state}"
    return f"will be gone in {ttl} s, but its run is {state}" if ttl >= 0 else ""
