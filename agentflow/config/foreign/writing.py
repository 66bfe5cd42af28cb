"""Writes an imported configuration as an agentflow.yaml with comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from agentflow.config.foreign.reading import Imported
from agentflow.config.foreign.rules import Steps
from agentflow.config.loading import check_text

#: The order of the sections in the file; others follow.
_ORDER = (
    "project", "redis", "slots", "idle_minutes", "default_runner", "runners", "roles", "worker", "fleet",
    "limits", "rate_limits", "breaker", "routing",
)  # fmt: skip
_WIDTH = 100
_WIDE = 10**6


def as_yaml(imported: Imported, name: str) -> str:
    """The text of an agentflow.yaml that loads. Raises `ConfigFileError` when a value cannot be ours."""
    tree: dict[str, Any] = {}
    for path, value in imported.draft.values.items():
        place = tree
        for step in path[:-1]:
            place = place.setdefault(step, {})
        if value != {} or path[-1] not in place:
            place[path[-1]] = value
    lines = [f"# agentflow.yaml, made from {name} ({imported.kind.file}) by `agentflow config import`."]
    for section in sorted(tree, key=lambda word: _ORDER.index(word) if word in _ORDER else len(_ORDER)):
        lines += _lines({section: tree[section]}, imported.draft.sources, ())
    lines += _left(imported)
    text = "\n".join(lines) + "\n"
    check_text(text, f"agentflow.yaml (from {name})")
    return text


def _lines(tree: Mapping[str, Any], sources: Mapping[Steps, list[str]], path: Steps) -> Iterator[str]:
    """The keys of a mapping, each with the file's keys that it comes from."""
    indent = "  " * len(path)
    for key, value in tree.items():
        here = (*path, key)
        name = _scalar(key)
        origin = sources.get(here)
        remark = f"  # from {', '.join(origin)}" if origin else ""
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:{remark}"
            yield from _lines(value, sources, here)
        elif isinstance(value, str) and "\n" in value:
            yield f"{indent}{name}: |-{remark}"
            rows = _escaped(value).rstrip("\n").split("\n")
            yield from (f"{indent}  {row}" if row else "" for row in rows)
        else:
            yield f"{indent}{name}: {_scalar(value)}{remark}"


def _scalar(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str):
        value = _escaped(value)
    elif isinstance(value, list):
        value = [_escaped(item) if isinstance(item, str) else item for item in value]
    text: str = yaml.safe_dump(value, default_flow_style=True, width=_WIDE, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _escaped(text: str) -> str:
    """`$$` would be read as one dollar."""
    return text.replace("$$", "$$$$")


def _left(imported: Imported) -> Iterator[str]:
    """What was not taken over, as comments."""
    if not imported.left:
        return
    yield ""
    yield "# Not taken over:"
    for row in imported.left:
        yield from textwrap.wrap(
            f"{row.key}: {row.remark}".replace("\n", " "), _WIDTH, initial_indent="#   ",
            subsequent_indent="#     ", break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
