"""What a command line changes in a feature file before it is read: strategy, shards, files, runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentflow.places import Node

_REPEATS = ("for_each", "shards")


@dataclass(frozen=True, slots=True)
class Changes:
    """Options of a command. `files` are read by every task; with `shards` each gets its part of them."""

    strategy: str | None = None
    shards: int | None = None
    files: tuple[str, ...] = ()
    runner: str | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to change."""
        return bool(self.strategy or self.shards or self.files or self.runner)


def changed(top: Node, changes: Changes) -> Node:
    """The document with these changes; one that is no mapping is returned as it is."""
    if not changes or not isinstance(top.data, dict):
        return top
    data = dict(top.data)
    if changes.strategy:
        data = {key: node for key, node in data.items() if key not in _without(changes.strategy)}
        data["strategy"] = _node(changes.strategy)
    if changes.runner:
        data["runner"] = _node(changes.runner)
    if changes.shards:
        data = _sharded(data, changes)
    if changes.files:
        repeated = changes.shards is not None and data.get("for_each") is not None
        data = _reading(data, ("{items}",) if repeated else changes.files)
    keys = {key: top.keys.get(key, (top.line, top.col)) for key in data}
    return replace(top, data=data, keys=keys)


def _without(strategy: str) -> tuple[str, ...]:
    """What another strategy than the file's makes void."""
    return {"concurrent": ("stages", "rules"), "pipeline": ("rules",)}.get(strategy, ())


def _sharded(data: Mapping[str, Node], changes: Changes) -> dict[str, Node]:
    """The number in place of every number of shards in the file; if it has none, at its top."""
    shards = _node(changes.shards)
    lists = {
        key: replace(data[key], data=[_with_shards(task, shards) for task in data[key].data])
        for key in ("chain", "tasks")
        if key in data and isinstance(data[key].data, list)
    }
    inside = any(_has(task, "shards") for node in lists.values() for task in node.data)
    if inside and "shards" not in data:
        return {**data, **lists}
    done = {**data, **lists, "shards": shards}
    if changes.files and not any(_has(task, *_REPEATS) for node in lists.values() for task in node.data):
        done.setdefault("for_each", Node([_node(name) for name in changes.files], 1, 1))
    return done


def _with_shards(task: Node, shards: Node) -> Node:
    return replace(task, data={**task.data, "shards": shards}) if _has(task, "shards") else task


def _has(task: Node, *keys: str) -> bool:
    return isinstance(task.data, dict) and any(key in task.data for key in keys)


def _reading(data: Mapping[str, Node], files: tuple[str, ...]) -> dict[str, Node]:
    """Every task reading these files besides its own."""
    done = dict(data)
    for key in ("chain", "tasks"):
        if key in data and isinstance(data[key].data, list):
            done[key] = replace(data[key], data=[_with_reads(task, files) for task in data[key].data])
    return done


def _with_reads(task: Node, files: tuple[str, ...]) -> Node:
    if not isinstance(task.data, dict):
        return task
    old = task.data.get("reads")
    if old is not None and not isinstance(old.data, list):
        return task
    have = [node.data for node in old.data] if old else []
    more = [_node(name) for name in files if name not in have]
    reads = replace(old, data=[*old.data, *more]) if old else Node(more, task.line, task.col)
    keys = {**task.keys, "reads": task.keys.get("reads", (task.line, task.col))}
    return replace(task, data={**task.data, "reads": reads}, keys=keys)


def _node(value: Any) -> Node:
    return Node(value, 1, 1)
