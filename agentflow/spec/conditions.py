"""Conditions of a hybrid's rules: a small language, parsed by hand and evaluated over plain facts.

or_    = and_ ("or" and_)*
and_   = not_ ("and" not_)*
not_   = "not" not_ | "(" or_ ")" | test
test   = NAME ("==" | "!=" | "<" | "<=" | ">" | ">=") VALUE
       | NAME ["not"] "in" "[" VALUE, ... "]" | "true" | "false"
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DEPTH_MAX = 20
#: What a condition may name, and whether it is a number of the whole feature or a word of the task.
NUMBERS = ("tasks", "roles", "files")
WORDS = ("role", "id", "tag", "priority", "output", "shard")
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>==|!=|<=|>=|<|>)|(?P<mark>[()\[\],])|(?P<quoted>"[^"]*"|'[^']*')|(?P<word>[A-Za-z0-9_.-]+))"""
)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

#: Facts about a task: numbers by name, and words as the set of those that hold (a task has several tags).
Facts = Mapping[str, Any]
Condition = Callable[[Facts], bool]


class ConditionError(ValueError):
    """The condition cannot be read; `column` (from one) says where."""

    def __init__(self, reason: str, column: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = column


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    column: int

    @property
    def bare(self) -> str:
        """The text of an unquoted word or a mark, else an empty string."""
        return "" if self.kind == "quoted" else self.text


def parse(text: str) -> Condition:
    """What decides whether a rule fits. Raises `ConditionError`."""
    reader = _Reader(_tokens(text), len(text) + 1)
    found = reader.either(0)
    reader.end()
    return found


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            column = at + len(text[at:]) - len(text[at:].lstrip()) + 1
            raise ConditionError(f"{text[column - 1]!r} means nothing here", column)
        kind = str(match.lastgroup)
        value = match[kind]
        column = match.start(kind) + 1
        tokens.append(_Token(kind, value[1:-1] if kind == "quoted" else value, column))
        at = match.end()
    return tokens


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[_Token], end: int) -> None:
        self.tokens = tokens
        self.last = _Token("end", "", end)
        self.at = 0

    def peek(self) -> _Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else self.last

    def take(self) -> _Token:
        token = self.peek()
        self.at += 1
        return token

    def end(self) -> None:
        token = self.peek()
        if token is not self.last:
            raise ConditionError(f"nothing was expected before {token.text!r}", token.column)

    def either(self, depth: int) -> Condition:
        parts = [self.both(depth)]
        while self.peek().bare == "or":
            self.take()
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else lambda facts: any(part(facts) for part in parts)

    def both(self, depth: int) -> Condition:
        parts = [self.negated(depth)]
        while self.peek().bare == "and":
            self.take()
            parts.append(self.negated(depth))
        return parts[0] if len(parts) == 1 else lambda facts: all(part(facts) for part in parts)

    def negated(self, depth: int) -> Condition:
        token = self.peek()
        if depth > DEPTH_MAX:
            raise ConditionError(f"nested more than {DEPTH_MAX} deep", token.column)
        if token.bare == "not":
            self.take()
            inner = self.negated(depth + 1)
            return lambda facts: not inner(facts)
        if token.bare == "(":
            self.take()
            inner = self.either(depth + 1)
            self.expect(")")
            return inner
        return self.test()

    def test(self) -> Condition:
        name = self.take()
        if name.bare in ("true", "false"):
            result = name.bare == "true"
            return lambda _facts: result
        if name.bare not in (*NUMBERS, *WORDS):
            raise ConditionError(
                f"{name.text!r} is nothing that a condition knows"
                if name is not self.last
                else "it ends too soon",
                name.column,
            )
        op = self.take()
        if op.bare in ("in", "not"):
            return self.member(name, negated=op.bare == "not")
        if op.kind != "op":
            raise ConditionError(f"a comparison is expected after {name.text!r}", op.column)
        return self.number(name, op) if name.text in NUMBERS else self.word(name, op)

    def member(self, name: _Token, *, negated: bool) -> Condition:
        if negated:
            self.expect("in")
        if name.text in NUMBERS:
            raise ConditionError(f"{name.text!r} is a number: compare it with < <= == >= >", name.column)
        self.expect("[")
        words = [self.value().text]
        while self.peek().bare == ",":
            self.take()
            words.append(self.value().text)
        self.expect("]")
        wanted = frozenset(words)
        return lambda facts: bool(wanted & _words(facts, name.text)) is not negated

    def number(self, name: _Token, op: _Token) -> Condition:
        value = self.value()
        if not value.text.isdecimal():
            raise ConditionError(f"{name.text!r} is compared with a whole number", value.column)
        compare, limit = _OPERATORS[op.text], int(value.text)
        return lambda facts: compare(facts[name.text], limit)

    def word(self, name: _Token, op: _Token) -> Condition:
        value = self.value()
        if op.text not in ("==", "!="):
            raise ConditionError(f"{name.text!r} is a word: compare it with == or !=", op.column)
        equal = op.text == "=="
        return lambda facts: (value.text in _words(facts, name.text)) is equal

    def value(self) -> _Token:
        token = self.take()
        if token.kind not in ("word", "quoted"):
            raise ConditionError("a value is expected here", token.column)
        return token

    def expect(self, mark: str) -> None:
        token = self.take()
        if token.bare != mark:
            raise ConditionError(f"{mark!r} is expected here", token.column)


def _words(facts: Facts, name: str) -> frozenset[str]:
    found: frozenset[str] = facts[name]
    return found
