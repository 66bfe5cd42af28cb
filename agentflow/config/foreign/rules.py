"""A rule: what one key of an older system becomes.

A file's keys are dotted; in a pattern `*` stands for one step and a last `**` for all that is below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Steps = tuple[str, ...]


class Unfit(Exception):
    """A value has no counterpart; the text says why."""


@dataclass(slots=True)
class Draft:
    """Our configuration while it is put together, and the whole file that it is made from."""

    source: dict[str, Any]
    #: Path -> value.
    values: dict[Steps, Any] = field(default_factory=dict)
    #: Path -> the file's keys that it comes from, for the comments of the result.
    sources: dict[Steps, list[str]] = field(default_factory=dict)
    #: Parts of the Redis address, which is one key with us.
    redis: dict[str, Any] = field(default_factory=dict)
    #: The file's key that is being converted.
    key: str = ""

    def set(self, path: Sequence[str], value: Any) -> str:
        """Give one of our keys a value; returns the key for the table."""
        steps = tuple(path)
        self.values[steps] = value
        named = self.sources.setdefault(steps, [])
        if self.key and self.key not in named:
            named.append(self.key)
        return ".".join(steps)

    def at(self, *path: str, default: Any = None) -> Any:
        """A value of the file."""
        value: Any = self.source
        for step in path:
            if not isinstance(value, dict) or step not in value:
                return default
            value = value[step]
        return value


#: Puts a value into the draft and returns the key of ours that holds it, with a remark behind a `;` if
#: there is one. `steps` are what the stars of the pattern stood for. Raises `Unfit`.
Convert = Callable[[Draft, Steps, Any], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a table: a pattern with a conversion, or with the reason why there is none."""

    pattern: str
    convert: Convert | None = None
    why: str = ""

    def match(self, path: Steps) -> Steps | None:
        """What the stars stand for when the path fits, else None."""
        steps = self.pattern.split(".")
        if steps[-1] == "**":
            steps, path = steps[:-1], path[: len(steps) - 1]
        if len(steps) != len(path):
            return None
        stars = []
        for step, given in zip(steps, path, strict=True):
            if step == "*":
                stars.append(given)
            elif step != given:
                return None
        return tuple(stars)


@dataclass(frozen=True, slots=True)
class Kind:
    """One older system's file: its name, the keys that give it away, all top-level keys, its rules."""

    name: str
    file: str
    signs: frozenset[str]
    rules: tuple[Rule, ...]

    def top(self) -> frozenset[str]:
        """The keys that such a file has at its top."""
        return frozenset(rule.pattern.split(".")[0] for rule in self.rules) - {"*"}


def put(ours: str) -> Convert:
    """The value as it is, under a key of ours; `{0}` is what the first star stood for."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        return draft.set([step.format(*steps) for step in ours.split(".")], value)

    return convert


def no(pattern: str, why: str) -> Rule:
    """A rule for a key without a counterpart."""
    return Rule(pattern, None, why)


def later(pattern: str, what: str) -> Rule:
    """A rule for a key whose section is not built yet."""
    return Rule(pattern, None, f"{what} is not built yet")


def in_spec(pattern: str, ours: str) -> Rule:
    """A rule for a key that belongs to a single feature with us."""
    return Rule(pattern, None, f"said by each feature: {ours} in its YAML file")
