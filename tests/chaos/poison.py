"""Messages that no honest sender makes, for any queue: each must be logged and dropped, and end nobody."""

from __future__ import annotations

import base64
import json
import random
import uuid
from typing import Any

import redis

from agentflow.app import INTEGRATE_TASK, ROLE_TASK

#: Characters of the huge ones.
HUGE = 3_000_000
#: Marks what this module made, so that a log can be asked whether it was told.
MARK = "poison"


def _envelope(task: str, args: object, *, body: str | None = None, **headers: Any) -> dict[str, Any]:
    """A Celery message of the second protocol, as kombu writes it into Redis."""
    ident = f"{MARK}-{uuid.uuid4()}"
    told = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return {
        "body": base64.b64encode((told if body is None else body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": ident, "root_id": ident, "argsrepr": MARK, **headers},
        "properties": {
            "correlation_id": ident,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "poison"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def _without(message: dict[str, Any], *path: str) -> dict[str, Any]:
    """The message, less one thing."""
    at = message
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    return message


def _with(message: dict[str, Any], value: object, *path: str) -> dict[str, Any]:
    """The message with another value at one place."""
    at = message
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return message


def _name_queue(message: object, queue: str) -> None:
    """Where kombu puts it back when a worker leaves with it: not into a list that nobody would ever read."""
    found = message
    for name in ("properties", "delivery_info"):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, dict):
        found["routing_key"] = queue


def messages(role: str, run: str, node: str) -> dict[str, str | bytes]:
    """Every kind, by name. `run` and `node` are real ones: a message may name them and still be bad."""
    task = ROLE_TASK + role

    def good() -> dict[str, Any]:
        return _envelope(task, [run, node])

    made: dict[str, Any] = {
        "no properties": _without(good(), "properties"),
        "no delivery tag": _without(good(), "properties", "delivery_tag"),
        "no delivery info": _without(good(), "properties", "delivery_info"),
        "properties of the wrong kind": _with(good(), 7, "properties"),
        "tag of the wrong kind": _with(good(), {"a": 1}, "properties", "delivery_tag"),
        "no body": _without(good(), "body"),
        "body of the wrong kind": _with(good(), {"a": 1}, "body"),
        "body that is not base64": _with(good(), "%%%", "body"),
        "body that is not JSON": _envelope(task, [], body="{"),
        "body that is no list": _envelope(task, [], body='"text"'),
        "body that is too short": _envelope(task, [], body="[[]]"),
        "body of deep lists": _envelope(task, [], body="[" * 100_000 + "]" * 100_000),
        "unknown encoding": _with(good(), "rot13", "properties", "body_encoding"),
        "unknown charset": _with(good(), "klingon", "content-encoding"),
        "pickle": _with(good(), "application/x-python-serialize", "content-type"),
        "no content type": _without(good(), "content-type"),
        "headers of the wrong kind": _with(good(), [1], "headers"),
        "no headers": _without(good(), "headers"),
        "no task": _without(good(), "headers", "task"),
        "no id": _without(good(), "headers", "id"),
        "task of the wrong kind": _with(good(), ["x"], "headers", "task"),
        "unknown task": _envelope("agentflow.role.nobody-has-it", [run, node]),
        "unknown task without an id": _without(_envelope("nobody.has.it", [run]), "headers", "id"),
        "a task of Celery's": _envelope("celery.backend_cleanup", [1, 2, 3]),
        "unknown node": _envelope(task, [run, f"{MARK}-node"]),
        "unknown run": _envelope(task, [f"{MARK}-run", node]),
        "unknown run to integrate": _envelope(INTEGRATE_TASK, [f"{MARK}-run"]),
        "a node to integrate": _envelope(INTEGRATE_TASK, [run, f"{MARK}-node"]),
        "no arguments": _envelope(task, []),
        "one argument": _envelope(task, [run]),
        "arguments of the wrong kind": _envelope(task, [{"a": 1}, [2]]),
        "nothing for arguments": _envelope(task, [None, None]),
        "odd characters": _envelope(task, [f"{MARK}:*|\n\x00{run}", "../../..|\ud800"]),
        "extra arguments": _envelope(task, [run, node, "more", 4]),
        "arguments of the old schema": _envelope(task, [{"run": run, "node": node, "schema": 1}]),
        "unknown embed": _envelope(task, [], body=json.dumps([[run, f"{MARK}-node"], {}, {"x": 1}, 7])),
        "due in a hundred years": _envelope(
            task, [run, f"{MARK}-node"], eta="2126-01-01T00:00:00", expires="2126-01-02T00:00:00"
        ),
        "an odd due time": _envelope(task, [run, f"{MARK}-node"], eta="tomorrow"),
        "expired": _envelope(task, [run, f"{MARK}-node"], expires="2001-01-01T00:00:00+00:00"),
        "odd retries": _envelope(task, [run, f"{MARK}-node"], retries="many", timelimit="soon"),
        "huge argument": _envelope(task, [f"{MARK}-" + "x" * HUGE, "n"]),
        "huge header": _envelope(task, [run, f"{MARK}-node"], argsrepr=MARK + "y" * HUGE),
        "a list": [1, 2, 3],
        "a number": 12,
        "nothing": None,
        "protocol 1": {
            **good(), "headers": {},
            "body": base64.b64encode(json.dumps({"task": task, "id": MARK, "args": [run]}).encode()).decode(),
        },
    }  # fmt: skip
    for message in made.values():
        _name_queue(message, role)
    raw: dict[str, str | bytes] = {
        "not JSON": f"{MARK} {{",
        "empty": "",
        "not text": b"\xff\xfe\x00\x80",
        "half a message": json.dumps(good())[:100],
        "a huge text": MARK + "z" * HUGE,
        "deep lists": "[" * 100_000,
    }
    return raw | {name: json.dumps(message) for name, message in made.items()}


def pour(client: redis.Redis, queue: str, poison: dict[str, str | bytes], rng: random.Random) -> list[str]:
    """Put all of it into a queue, in any order and at any priority; the names in that order."""
    names = list(poison)
    rng.shuffle(names)
    for name in names:
        priority = rng.randrange(10)
        client.lpush(queue if priority == 0 else f"{queue}\x06\x16{priority}", poison[name])
    return names
