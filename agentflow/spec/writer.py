"""Writes a feature file for people: comments, block texts, tasks in the order in which they can start.

What is written is read back by `reader.py` as the same spec: scalars that mean something else in YAML are
quoted by the rules of both YAML 1.1 (the library's) and 1.2 (the reader's).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from agentflow import graph

WIDTH = 100
#: The order of keys; anything else follows in its own order.
_TOP = ("feature", "goal", "base", "target", "validate")
_TASK = ("id", "title", "role", "needs", "inputs", "output", "reads", "artifacts", "acceptance", "prompt")
_FLOW = frozenset({"needs", "inputs", "reads", "artifacts"})
_FIRST_LINE = re.compile(r"^  - id: .*$", re.MULTILINE)


class _Flow(list[Any]):
    """A list that stands on one line."""


class _Dumper(yaml.SafeDumper):
    """Block texts as `|`, lists indented below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 (the library's signature)
        """Indent a list below its key."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the library's signature)
        """Write equal lists twice; an alias would only puzzle."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _flow(dumper: yaml.SafeDumper, value: _Flow) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Flow, _flow)
# The reader takes `1e5` for a number, the library does not: without this it would not be quoted.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\.?[0-9]+[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def write_spec(data: Mapping[str, Any], *, header: Iterable[str] = ()) -> str:
    """The text of a feature file with this data (a spec's keys, JSON values; empty ones are left out).

    `header` are lines for the comment at its top. Each wave of tasks is announced by a comment. Raises
    `CycleError`, and `KeyError` for needs that are not there.
    """
    tasks: list[Mapping[str, Any]] = list(data.get("tasks") or ())
    by_id = {str(task["id"]): task for task in tasks}
    waves = graph.waves({name: list(task.get("needs") or ()) for name, task in by_id.items()})
    ordered = [_ordered(by_id[name], _TASK) for wave in waves for name in wave]
    top = _ordered({key: value for key, value in data.items() if key != "tasks"}, _TOP)
    comment = "".join(f"# {_one_line(line)}\n" for line in header)
    return comment + _dump(top) + "\n" + _with_waves(_dump({"tasks": ordered}), waves)


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)


def _ordered(values: Mapping[str, Any], first: Sequence[str]) -> dict[str, Any]:
    keys = [*(key for key in first if key in values), *(key for key in values if key not in first)]
    return {
        key: _Flow(values[key]) if key in _FLOW else _tidy(values[key])
        for key in keys
        if values[key] not in (None, "", [], (), {})
    }


def _tidy(value: Any) -> Any:
    """A block text without blanks at the ends of its lines, which would force quotes on it."""
    if isinstance(value, str) and "\n" in value:
        return "\n".join(line.rstrip() for line in value.split("\n")).strip("\n")
    return value


def _with_waves(text: str, waves: Sequence[Sequence[str]]) -> str:
    """A comment before the first task of each wave. Only a task of ours begins at that indentation."""
    places = [match.start() for match in _FIRST_LINE.finditer(text)]
    starts = [sum(map(len, waves[:number])) for number in range(len(waves))]
    for number in reversed(range(len(waves))):
        word = "Starts at once" if number == 0 else f"Wave {number + 1}: starts when what it needs is done"
        at = places[starts[number]]
        text = f"{text[:at]}{chr(10) if number else ''}  # {word}\n{text[at:]}"
    return text


def _one_line(text: str) -> str:
    """Printable text on one line: a comment ends with its line."""
    return "".join(char if char.isprintable() else " " for char in text).strip()
