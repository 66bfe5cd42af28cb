"""YAML and JSON with the place of every key and value.

The text is composed from parser events, not by the library's own composer: libyaml's recursion ends the
whole process on some thousand nested brackets, and aliases that multiply (a "YAML bomb") must be
counted before they are expanded. Scalars mean what YAML 1.2 says: `on`, `no`, `10:30` and dates are
strings.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agentflow.errors import Problem

FILE_MAX_BYTES = 1024 * 1024
#: Nested mappings and lists.
DEPTH_MAX = 40
#: Values of one file with its aliases expanded.
NODES_MAX = 100_000
VALUE_MAX_CHARS = 60

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]{1,20}\.[0-9]*|\.?[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAG = "tag:yaml.org,2002:"
#: A password may hold what an address may not, so up to the last @.
_PASSWORD = re.compile(r"(://[^/@\s:]*:)\S*@")
_SURROGATES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")

Location = Sequence[int | str]


@dataclass(slots=True)
class Node:
    """A value with its place (1-based). `data` is a scalar, a list of nodes or a mapping to nodes."""

    data: Any
    line: int
    col: int
    #: The place of each key, when `data` is a mapping.
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Values below and including this one, aliases expanded.
    size: int = 1

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.data, dict):
            return {key: node.plain() for key, node in self.data.items()}
        if isinstance(self.data, list):
            return [node.plain() for node in self.data]
        return self.data

    def place(self, location: Location, *, of_key: bool = False) -> tuple[int, int]:
        """Line and column of what is at `location`; steps that are not there are passed over."""
        node, place = self, (self.line, self.col)
        for step in location:
            below = _below(node, step)
            if below is None:
                continue
            place = node.keys.get(str(step), (below.line, below.col)) if of_key else (below.line, below.col)
            node = below
        return place


def _below(node: Node, step: int | str) -> Node | None:
    if isinstance(node.data, dict) and isinstance(step, str):
        return node.data.get(step)
    if isinstance(node.data, list) and isinstance(step, int) and step < len(node.data):
        found: Node = node.data[step]
        return found
    return None


@dataclass(frozen=True, slots=True)
class Source:
    """A text with the name that its problems are reported under and the head of their codes."""

    name: str
    code: str

    def problem(
        self, number: str, reason: str, place: tuple[int, int] = (1, 1), *, value: str = "", fix: str = ""
    ) -> Problem:
        """One problem of this text."""
        return Problem(self.name, *place, f"{self.code}-{number}", reason, value, fix)


class Unreadable(Exception):
    """The text is not a document at all; `problems` say why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


def read_text(path: Path, source: Source) -> str:
    """The text of a file of at most 1 MiB of UTF-8. Raises `Unreadable`."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise Unreadable(
            source.problem("001", f"cannot read the file: {why}", fix="check the path")
        ) from None
    if len(raw) > FILE_MAX_BYTES:
        raise Unreadable(
            source.problem(
                "002", f"the file is larger than {FILE_MAX_BYTES // 1024} KiB", fix="split the feature"
            )
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        col = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise Unreadable(
            source.problem("003", "the file is not UTF-8", (line, col), fix="save it as UTF-8")
        ) from None


def read_yaml(text: str, source: Source) -> tuple[Node, list[Problem]]:
    """The document of a text, and what is wrong with it without making it unreadable.

    Raises `Unreadable` when there is no document: empty, not YAML, several documents, too deep, or
    aliases that multiply.
    """
    if len(text.encode(errors="surrogatepass")) > FILE_MAX_BYTES:
        raise Unreadable(source.problem("002", f"the text is larger than {FILE_MAX_BYTES // 1024} KiB"))
    composer = _Composer(text, source)
    return composer.document(), composer.problems


def read_json(text: str, source: Source) -> tuple[Node, list[Problem]]:
    """As `read_yaml`, for a JSON text: what JSON allows and YAML does not is read too."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(
            source.problem("004", f"not JSON: {error.msg.lower()}", (error.lineno, error.colno))
        ) from None
    except (RecursionError, ValueError):
        raise Unreadable(source.problem("008", "nested too deeply, or a number too long")) from None
    joined = _SURROGATES.sub(lambda pair: json.loads(f'"{pair.group()}"'), text)
    return read_yaml(joined.replace("\t", " "), source)


def scalar(text: str) -> Any:
    """What an unquoted scalar means: nothing, true/false, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    is_number = _FLOAT.fullmatch(text) and any(char in text for char in ".eE")
    return float(text) if is_number and any(map(str.isdigit, text)) else text


class _Composer:
    """Builds the tree of one document out of parser events."""

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self.lines = text.split("\n")
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node | None] = {}
        self._text = text

    def document(self) -> Node:
        """The only document of the text."""
        try:
            self._loader = _Loader(self._text)
        except yaml.YAMLError as error:
            raise Unreadable(self._explain(error)) from None
        try:
            return self._only_document()
        except yaml.YAMLError as error:
            raise Unreadable(self._explain(error)) from None
        finally:
            self._loader.dispose()

    def _only_document(self) -> Node:
        self._loader.get_event()
        event = self._loader.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            self._fail("006", "the file is empty", (1, 1), "see `agentflow init` for one to start from")
        node = self._node(self._loader.get_event(), 0)
        self._loader.get_event()
        event = self._loader.get_event()
        if not isinstance(event, yaml.StreamEndEvent):
            self._fail("004", "the file holds a second document", _mark(event), "remove what follows ---")
        if node.data is None:
            self._fail("006", "the file is empty", (1, 1), "see `agentflow init` for one to start from")
        return node

    def _node(self, event: Any, depth: int) -> Node:
        if depth > DEPTH_MAX:
            self._fail("008", f"nested more than {DEPTH_MAX} deep", _mark(event))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._check_tag(event)
        if event.anchor:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event), *_mark(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            node = self._mapping(event, depth)
        if node.size > NODES_MAX:
            self._fail(
                "008", f"more than {NODES_MAX} values, aliases counted where they are used", _mark(event)
            )
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            self._fail("004", f"the alias *{event.anchor} has no anchor before it", _mark(event))
        node = self._anchors[event.anchor]
        if node is None:
            self._fail("008", f"the alias *{event.anchor} holds itself", _mark(event))
        return node

    def _scalar(self, event: Any) -> Any:
        is_text = event.tag == f"{_TAG}str" or not (event.tag or event.implicit[0])
        return event.value if is_text or event.tag == "!" else scalar(event.value)

    def _check_tag(self, event: Any) -> None:
        """Only YAML's own tags; `!!python/…` and the like are refused, not passed over."""
        known = (None, "!", *(_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map")))
        if event.tag not in known:
            self._fail("004", f"tags such as {event.tag} are not read", _mark(event), "leave the tag out")

    def _sequence(self, event: Any, depth: int) -> Node:
        node = Node([], *_mark(event))
        while not isinstance(event := self._loader.get_event(), yaml.SequenceEndEvent):
            item = self._node(event, depth + 1)
            node.data.append(item)
            node.size += item.size
        return node

    def _mapping(self, event: Any, depth: int) -> Node:
        node = Node({}, *_mark(event))
        merged: list[Node] = []
        while not isinstance(event := self._loader.get_event(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._fail("004", "a key must be a word", _mark(event), "quote it if it holds { or [")
            key, place = event.value, _mark(event)
            value = self._node(self._loader.get_event(), depth + 1)
            node.size += value.size
            if key == "<<" and event.implicit[0]:
                merged.extend(value.data if isinstance(value.data, list) else [value])
            elif key in node.data:
                first = node.keys[key][0]
                self.problems.append(
                    self.source.problem(
                        "007", f"the key {key!r} stands here twice", place, value=f"first in line {first}"
                    )
                )
            else:
                node.data[key], node.keys[key] = value, place
        for other in merged:
            self._merge(node, other)
        return node

    def _merge(self, node: Node, other: Node) -> None:
        if not isinstance(other.data, dict):
            self._fail("004", "<< takes a mapping", (other.line, other.col))
        for key, value in other.data.items():
            if key not in node.data:
                node.data[key], node.keys[key] = value, other.keys[key]

    def _fail(self, number: str, reason: str, place: tuple[int, int], fix: str = "") -> typing.NoReturn:
        raise Unreadable(self.source.problem(number, reason, place, fix=fix))

    def _explain(self, error: yaml.YAMLError) -> Problem:
        """A parser's error in our words, with tabs named."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is None:
            return self._explain_character(error)
        line, col = mark.line + 1, mark.column + 1
        tab = self._tab(line)
        if tab:
            return self.source.problem(
                "005", "a tab indents this line, and YAML allows only spaces", tab, fix="replace it by spaces"
            )
        reason = " ".join(filter(None, [getattr(error, "context", ""), getattr(error, "problem", "")]))
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return self.source.problem(
            "004", f"not YAML: {reason}", (line, col), value=show(text.strip()) if text.strip() else "",
            fix="look for a missing quote, colon or bracket here or just before",
        )  # fmt: skip

    def _explain_character(self, error: yaml.YAMLError) -> Problem:
        """The reader's error has no mark: a character that YAML does not allow."""
        for number, text in enumerate(self.lines, 1):
            bad = re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]", text)
            if bad:
                return self.source.problem(
                    "003", "a control character", (number, bad.start() + 1), value=show(bad.group()),
                    fix="remove it",
                )  # fmt: skip
        return self.source.problem("004", f"not YAML: {error}")

    def _tab(self, line: int) -> tuple[int, int] | None:
        """The first tab in the indentation at the error, or just above where its cause may be."""
        for number in (line, line - 1):
            if 1 <= number <= len(self.lines):
                text = self.lines[number - 1]
                indentation = text[: len(text) - len(text.lstrip())]
                if "\t" in indentation:
                    return number, indentation.index("\t") + 1
        return None


def _mark(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def masked(text: str) -> str:
    """The text with the password of an address in it replaced by `***`."""
    return _PASSWORD.sub(r"\1***@", text)


def show(value: Any) -> str:
    """A value for a message: on one line, short, without control characters and passwords."""
    text = masked(repr(value))
    return text if len(text) <= VALUE_MAX_CHARS else f"{text[: VALUE_MAX_CHARS - 3]}..."
