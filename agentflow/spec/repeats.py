"""Repeats tasks for items and shards: `for_each`, `shards` and `chain`, on the document's tree.

Every copy keeps the place of what it was made from, so that a problem in one points into the file. What is
written wrongly is left as it is: the models say what is wrong with it.

    repeat     what an entry is repeated for; entries that share one are siblings
    slot       one item or shard of a repeat
    copy       one entry in one slot: `ID-KEY`, or the id with its {item} filled in
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from agentflow.errors import Problem
from agentflow.fields import parse_command, slug
from agentflow.places import Node, Source
from agentflow.spec.models import TASKS_MAX, ForEach, Shards

#: Values, characters and references that a file may come to by being repeated.
VALUES_MAX = 1_000_000
CHARS_MAX = 32 * 1024 * 1024
EDGES_MAX = 250_000
#: The longest ending of an id that an item gives.
KEY_MAX_CHARS = 32
ID_MAX_CHARS = 64
_WORD = r"item|items|index|count|shard|shards"
_PLACEHOLDER = re.compile(rf"\{{\{{(?:{_WORD})\}}\}}|\{{({_WORD})\}}")
#: `{items}` standing alone in a list is as many elements.
_ALL_ITEMS = "{items}"
_SHAPE_KEYS = ("for_each", "shards")
_for_each: TypeAdapter[tuple[str, ...]] = TypeAdapter(ForEach)
_shards: TypeAdapter[int] = TypeAdapter(Shards)


@dataclass(frozen=True, slots=True)
class Slot:
    """One item or shard. `key` is the ending of ids; `index` counts from one."""

    key: str
    items: tuple[str, ...]
    index: int
    count: int

    def value(self, word: str) -> str:
        """What a placeholder stands for in a text."""
        if word in ("item", "items"):
            return " ".join(self.items)
        return str(self.count if word in ("count", "shards") else self.index)

    def part_of_id(self, word: str) -> str:
        """What it stands for in an id."""
        return self.key if word in ("item", "items") else self.value(word)


@dataclass(frozen=True, eq=False, slots=True)
class Repeat:
    """What an entry is repeated for, and where that stands. Two are the same only when they are one."""

    slots: tuple[Slot, ...]
    place: tuple[int, int]
    numbered: bool = False


@dataclass(slots=True)
class _Entry:
    """A task as it is written, what it is repeated for, and the ids of its copies."""

    task: Node
    repeat: Repeat | None
    ids: list[str] = field(default_factory=list)


class _TooLargeError(Exception):
    """The file would come to more than is read."""


def slots_of(items: Sequence[str] | None, shards: int | None) -> tuple[Slot, ...]:
    """A slot for each item; for shards so many, each with its part of the items or with its number."""
    if shards is None:
        keys = _keys(items or ())
        return tuple(
            Slot(key, (item,), number, len(keys))
            for number, (key, item) in enumerate(zip(keys, items or (), strict=True), 1)
        )
    if not items:
        return tuple(Slot(str(n), (str(n),), n, shards) for n in range(1, shards + 1))
    parts = min(shards, len(items))
    size, more = divmod(len(items), parts)
    bounds = [n * size + min(n, more) for n in range(parts + 1)]
    return tuple(
        Slot(str(n + 1), tuple(items[bounds[n] : bounds[n + 1]]), n + 1, parts) for n in range(parts)
    )


def _keys(items: Iterable[str]) -> list[str]:
    """Short endings for ids, each once."""
    keys: dict[str, None] = {}
    for number, item in enumerate(items, 1):
        key = base = slug(item, str(number))[:KEY_MAX_CHARS].strip("-._") or str(number)
        again = 2
        while key in keys:
            key, again = f"{base}-{again}", again + 1
        keys[key] = None
    return list(keys)


def expand(top: Node, source: Source) -> tuple[Node, list[Problem]]:
    """The document with every repeated task written out, and what stands in the way of that."""
    lists = [top.data[key] for key in ("chain", "tasks") if _given(top, key)]
    if not lists or not all(isinstance(node.data, list) and node.data for node in lists):
        return top, []
    entries, problems = _entries(top, source)
    if not any(entry.repeat for entry in entries) and not _given(top, "chain"):
        return top, problems
    place = next((entry.repeat.place for entry in entries if entry.repeat), (top.line, top.col))
    try:
        tasks = _Expansion(entries).tasks()
    except _TooLargeError as error:
        return top, [*problems, source.problem("061", str(error), place, fix="repeat fewer tasks")]
    # A shape that could not be read stays, for the models to say what is wrong with it.
    gone = {"chain", *(key for key in _SHAPE_KEYS if _repeat_of(top))}
    data = {key: value for key, value in top.data.items() if key not in gone}
    return replace(top, data={**data, "tasks": replace(lists[-1], data=tasks)}), problems


def _entries(top: Node, source: Source) -> tuple[list[_Entry], list[Problem]]:
    """The chain's tasks and the others, each with its repeat."""
    whole = _repeat_of(top)
    chain = _tasks(top, "chain")
    problems: list[Problem] = []
    entries: list[_Entry] = []
    for number, link in enumerate(chain):
        problems += [_own_repeat(link, key, source) for key in _SHAPE_KEYS if _given(link, key)]
        entries.append(_Entry(_after(link, chain[number - 1]) if number else link, whole))
    for task in _tasks(top, "tasks"):
        own = _repeat_of(task)
        entries.append(_Entry(task, own or (None if chain else whole)))
    return entries, problems


def _own_repeat(link: Node, key: str, source: Source) -> Problem:
    reason = f"a task of a chain has no {key} of its own"
    fix = f"write {key} at the top: the whole chain is repeated"
    return source.problem("060", reason, link.keys[key], fix=fix)


def _tasks(top: Node, key: str) -> list[Node]:
    """The tasks of a list, whatever they are: the models refuse what is none."""
    items: list[Node] = top.data[key].data if _given(top, key) else []
    return items


def _given(node: Node, key: str) -> bool:
    return isinstance(node.data, dict) and key in node.data and node.data[key].data is not None


def _repeat_of(node: Node) -> Repeat | None:
    """What `for_each` and `shards` of a mapping say; None when there is neither, or they are wrong."""
    given = [key for key in _SHAPE_KEYS if _given(node, key)]
    if not given:
        return None
    try:
        items = _for_each.validate_python(node.data["for_each"].plain()) if "for_each" in given else None
        shards = _shards.validate_python(node.data["shards"].plain()) if "shards" in given else None
    except ValidationError:
        return None
    return Repeat(slots_of(items, shards), node.keys[given[0]], numbered=items is None)


def _after(link: Node, before: Node) -> Node:
    """A link of a chain, needing the one before it too."""
    if not (isinstance(link.data, dict) and isinstance(before.data, dict) and "id" in before.data):
        return link
    name = before.data["id"].data
    needs = link.data.get("needs")
    if needs is not None and (not isinstance(needs.data, list) or name in [n.data for n in needs.data]):
        return link
    place = (link.line, link.col)
    old = needs or Node([], *place)
    return replace(
        link,
        data={**link.data, "needs": replace(old, data=[*old.data, Node(name, *place)])},
        keys={**link.keys, "needs": link.keys.get("needs", place)},
    )


class _Expansion:
    """Writes out the copies of all entries, within bounds."""

    def __init__(self, entries: list[_Entry]) -> None:
        self.entries = entries
        self.chars_left = CHARS_MAX
        self.edges_left = EDGES_MAX
        self.by_id: dict[str, _Entry] = {}

    def tasks(self) -> list[Node]:
        """All tasks. Raises `_TooLargeError`."""
        sizes = [(len(e.repeat.slots) if e.repeat else 1, _size(e.task)) for e in self.entries]
        if sum(count for count, _ in sizes) > TASKS_MAX:
            total = sum(count for count, _ in sizes)
            raise _TooLargeError(f"the feature would have {total:,} tasks, and at most {TASKS_MAX:,} are run")
        if sum(count * size for count, size in sizes) > VALUES_MAX:
            raise _TooLargeError(f"the feature would have more than {VALUES_MAX:,} values")
        for entry in self.entries:
            self._name(entry)
        made: list[Node] = []
        for entry in self.entries:
            if not isinstance(entry.task.data, dict):
                made.append(entry.task)
            elif entry.repeat is None:
                made.append(self._copy(entry, None))
            else:
                made.extend(self._copy(entry, slot) for slot in entry.repeat.slots)
        return made

    def _name(self, entry: _Entry) -> None:
        name = entry.task.data.get("id") if isinstance(entry.task.data, dict) else None
        if name is None or not isinstance(name.data, str):
            return
        self.by_id.setdefault(name.data, entry)
        if entry.repeat:
            entry.ids = [_id_in(name.data, slot) for slot in entry.repeat.slots]

    def _copy(self, entry: _Entry, slot: Slot | None) -> Node:
        """One task: its references first, they name entries; then its texts."""
        data: dict[str, Node] = {}
        for key, value in entry.task.data.items():
            if slot and key in _SHAPE_KEYS:
                continue
            if key in ("needs", "inputs") and isinstance(value.data, list):
                data[key] = replace(value, data=self._references(value.data, entry, slot))
            elif slot and key == "id" and isinstance(value.data, str):
                data[key] = replace(value, data=_id_in(value.data, slot))
            else:
                data[key] = self._filled(value, slot, command=key == "acceptance") if slot else value
        if slot:
            shard = Node(slot.key, *(entry.repeat.place if entry.repeat else (1, 1)))
            data.setdefault("shard", shard)
            self._say_part(data, entry, slot)
        return replace(entry.task, data=data)

    def _say_part(self, data: dict[str, Node], entry: _Entry, slot: Slot) -> None:
        """Tell an agent its part when its prompt does not."""
        prompt = entry.task.data.get("prompt")
        if prompt is None or not isinstance(prompt.data, str) or _has_placeholder(prompt.data):
            return
        if entry.repeat and entry.repeat.numbered:
            part = f"Do part {slot.index} of {slot.count} of this; others do the other parts."
        else:
            part = f"Do this for: {' '.join(slot.items)}"
        self._take(len(prompt.data) + len(part))
        data["prompt"] = replace(prompt, data=f"{prompt.data.rstrip()}\n\n{part}")

    def _references(self, nodes: list[Node], entry: _Entry, slot: Slot | None) -> list[Node]:
        """Ids as they are after all copies are made; the id of a repeated task is that of all its copies."""
        found: dict[str, Node] = {}
        odd: list[Node] = []
        for node in nodes:
            if not isinstance(node.data, str):
                odd.append(node)
                continue
            for name in self._ids(node.data, entry, slot):
                found.setdefault(name, replace(node, data=name))
        self.edges_left -= len(found)
        if self.edges_left < 0:
            raise _TooLargeError(f"the feature would have more than {EDGES_MAX:,} needs")
        return [*found.values(), *odd]

    def _ids(self, name: str, entry: _Entry, slot: Slot | None) -> Iterable[str]:
        other = self.by_id.get(name)
        if slot and _has_placeholder(name):
            return [_id_text(name, slot)]
        if other is None or other.repeat is None:
            return [name]
        return [_id_in(name, slot)] if slot and other.repeat is entry.repeat else other.ids

    def _filled(self, node: Node, slot: Slot, *, command: bool = False) -> Node:
        """A value with its placeholders filled in; what holds none is shared by all copies."""
        if isinstance(node.data, str):
            return self._text(node, slot)
        if isinstance(node.data, dict):
            data = {k: self._filled(n, slot, command=k == "command") for k, n in node.data.items()}
            same = all(data[k] is n for k, n in node.data.items())
            return node if same else replace(node, data=data)
        if isinstance(node.data, list):
            items = [new for n in node.data for new in self._element(n, slot, command=command)]
            same = len(items) == len(node.data) and all(map(_is, items, node.data))
            return node if same else replace(node, data=items)
        return node

    def _element(self, node: Node, slot: Slot, *, command: bool) -> list[Node]:
        if node.data == _ALL_ITEMS:
            self._take(sum(map(len, slot.items)))
            return [replace(node, data=item) for item in slot.items]
        if command and isinstance(node.data, str):
            return [self._command(node, slot)]
        return [self._filled(node, slot)]

    def _command(self, node: Node, slot: Slot) -> Node:
        """A command is split before items are filled in: none of them can become two words, or a shell's."""
        if not _has_placeholder(node.data):
            return node
        try:
            words = parse_command(node.data)
        except PydanticCustomError:
            return node
        split = [Node(word, node.line, node.col) for word in words]
        return self._filled(replace(node, data=split), slot)

    def _text(self, node: Node, slot: Slot) -> Node:
        if not _has_placeholder(node.data):
            return node
        longest = max(len(slot.value("items")), 8)
        self._take(len(node.data) + longest * len(_PLACEHOLDER.findall(node.data)))
        return replace(node, data=_PLACEHOLDER.sub(lambda m: _fill(m, slot.value), node.data))

    def _take(self, chars: int) -> None:
        self.chars_left -= chars
        if self.chars_left < 0:
            raise _TooLargeError(f"the feature would have more than {CHARS_MAX:,} characters")


def _size(task: Node) -> int:
    """The values of one copy."""
    own: int = sum(task.data[key].size for key in _SHAPE_KEYS if _given(task, key))
    return task.size - own


def _is(one: Node, other: Node) -> bool:
    return one is other


def _has_placeholder(text: str) -> bool:
    return "{" in text and _PLACEHOLDER.search(text) is not None


def _fill(match: re.Match[str], value: Any) -> str:
    """`{item}` is filled in, `{{item}}` is the word itself."""
    return value(match[1]) if match[1] else match[0][1:-1]


def _id_text(text: str, slot: Slot) -> str:
    return _PLACEHOLDER.sub(lambda m: _fill(m, slot.part_of_id), text) if "{" in text else text


def _id_in(name: str, slot: Slot) -> str:
    """The id of a copy: its placeholders filled in, else with the slot's key behind it."""
    filled = _id_text(name, slot)
    return filled if filled != name else f"{name[: ID_MAX_CHARS - len(slot.key) - 1]}-{slot.key}"
