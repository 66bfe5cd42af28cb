"""Applies the rules of an older system to one of its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.config.foreign.conversions import put_redis_together, shown
from agentflow.config.foreign.kinds import kind_of
from agentflow.config.foreign.rules import Draft, Kind, Rule, Steps, Unfit
from agentflow.config.model import ConfigFileError
from agentflow.errors import UsageError
from agentflow.places import Node, Source, Unreadable, read_json, read_text, read_yaml

_UNKNOWN = Rule("**", None, "not a key of such a file that is known here")


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one key: a key of ours with a remark, or nothing and the reason."""

    key: str
    line: int
    value: str
    ours: str
    remark: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A file of an older system as our configuration."""

    kind: Kind
    rows: tuple[Row, ...]
    draft: Draft

    @property
    def taken(self) -> tuple[Row, ...]:
        """The keys that have become one of ours."""
        return tuple(row for row in self.rows if row.ours)

    @property
    def left(self) -> tuple[Row, ...]:
        """The keys without a counterpart."""
        return tuple(row for row in self.rows if not row.ours)


def read_foreign(path: Path) -> Imported:
    """All keys of a file, each with what it becomes.

    Raises `ConfigFileError` when it is no YAML or JSON, `UsageError` when it is of no kind that is known.
    """
    source = Source(str(path), "AF-CONFIG")
    try:
        text = read_text(path, source)
        read = read_json if path.suffix == ".json" else read_yaml
        node, problems = read(text, source)
    except Unreadable as error:
        raise ConfigFileError(error.problems) from None
    if problems:
        raise ConfigFileError(problems)
    document = node.plain()
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a configuration: it holds no keys", code="AF-CONFIG-050")
    kind = kind_of(str(path), document)
    draft = Draft(document)
    rows = [row for path_, below in leaves(node, kind.rules) for row in [_row(path_, below, kind, draft)]]
    draft.key = ""
    put_redis_together(draft)
    return Imported(kind, tuple(rows), draft)


def leaves(node: Node, rules: tuple[Rule, ...], path: Steps = ()) -> Iterator[tuple[Steps, Node]]:
    """The keys of a file, down to what a rule takes as a whole or what holds no further keys."""
    taken = any(rule.match(path) is not None and not rule.pattern.endswith("**") for rule in rules)
    below: list[tuple[str, Node]] = []
    if not taken or not path:
        if isinstance(node.data, dict):
            below = list(node.data.items())
        elif isinstance(node.data, list) and any(isinstance(item.data, dict) for item in node.data):
            below = [(str(index), item) for index, item in enumerate(node.data)]
    if not below:
        yield path, node
    for key, item in below:
        yield from leaves(item, rules, (*path, key))


def _row(path: Steps, node: Node, kind: Kind, draft: Draft) -> Row:
    key = ".".join(path)
    value = node.plain()
    rule = _UNKNOWN
    stars: Steps = ()
    for candidate in kind.rules:
        found = candidate.match(path)
        if found is not None:
            rule, stars = candidate, found
            break
    if rule.convert is None:
        return Row(key, node.line, _hidden(key, value), "", rule.why)
    draft.key = key
    try:
        ours, _, remark = rule.convert(draft, stars, value).partition("; ")
    except Unfit as error:
        return Row(key, node.line, _hidden(key, value), "", str(error))
    return Row(key, node.line, _hidden(key, value), ours, remark)


def _hidden(key: str, value: Any) -> str:
    """The value for the table; that of a key or password is not shown."""
    name = key.rpartition(".")[2].lower()
    secret = any(word in name for word in ("password", "api_key", "apikey", "secret"))
    return "***" if secret and isinstance(value, str) and not value.startswith("${") else shown(value)
