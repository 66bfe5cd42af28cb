"""Which reply a scripted model gives: chosen by what the request says, never by who asks or how often.

A replies file is a list of rules. The first rule whose `when` texts are all in what the model was told
(system, user and tool messages, not its own words), and none of whose `unless` texts is, answers. Which
of its turns answers is the number of replies that the conversation already holds. So a dependent is
answered only if the hand-off is in its prompt, and a second attempt only if it was told what failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agentflow.errors import ConfigError

MAX_FILE_BYTES = 4_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _fault(value: Any) -> Any:
    """`fault: cut` is short for `{kind: cut}`, `{status: 429}` for `{kind: status, status: 429}`."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, Mapping) and "status" in value:
        return {"kind": "status", **value}
    return value


class Fault(_Strict):
    """What goes wrong on the wire instead of (or, for `cut` and `drop`, in the middle of) the reply.

    `times`: only the first so many requests meet it. A fault belongs to the network, so it alone may count;
    which reply is given never does.
    """

    kind: Literal["cut", "drop", "garbage", "no_choices", "error", "stall", "status"]
    status: int = 500
    retry_after: float | str | None = None
    code: str = ""
    message: str = "scripted fault"
    seconds: float = 60.0
    times: int | None = None


class Turn(_Strict):
    """One reply of the model: text, tool calls, or one of several, whichever fits the conversation."""

    when: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    text: str = ""
    calls: tuple[Annotated[dict[str, Any], Field(min_length=1, max_length=1)], ...] = ()
    finish: str = ""
    usage: dict[str, int] | Literal["missing"] | None = None
    delay: float = 0.0
    fault: Annotated[Fault | None, BeforeValidator(_fault)] = None
    one_of: tuple[Turn, ...] = ()


class Rule(_Strict):
    """A conversation: for whom it is, and its turns. With `repeat` the last turn answers for ever."""

    name: str
    when: tuple[str, ...] = Field(min_length=1)
    unless: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = Field(min_length=1)
    repeat: bool = False


class Script(_Strict):
    """A whole replies file."""

    replies: tuple[Rule, ...] = Field(min_length=1)


class NoReplyError(Exception):
    """Nothing in the script answers this request; the text says what came nearest and what it misses."""


def load_script(path: Path) -> Script:
    """Read a replies file; raises `ConfigError` with every place that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the replies in {path}", why=str(error)) from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes")
    try:
        return Script.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML", why=str(error)) from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)[:20]
        )
        raise ConfigError(
            f"the replies in {path} are not what the scripted server takes",
            why=wrong,
            fix="docs/runners.md shows the format",
        ) from error


def choose(script: Script, messages: Sequence[Mapping[str, Any]]) -> tuple[Rule, Turn]:
    """The rule and turn that answer a conversation; raises `NoReplyError`."""
    told = "\n".join(_text(m) for m in messages if m.get("role") != "assistant")
    said = sum(1 for m in messages if m.get("role") == "assistant")
    rule = next((r for r in script.replies if not _misses(r, told)), None)
    if rule is None:
        raise NoReplyError(f"no reply matches. {_nearest(script, told)}")
    if said >= len(rule.turns) and not rule.repeat:
        raise NoReplyError(f"{rule.name!r} has {len(rule.turns)} turns, and the conversation asks for more")
    turn = rule.turns[min(said, len(rule.turns) - 1)]
    return rule, _pick(rule, turn, told)


def _pick(rule: Rule, turn: Turn, told: str) -> Turn:
    choices = turn.one_of or (turn,)
    for choice in choices:
        if not _misses(choice, told):
            return choice
    missing = "; or ".join(", ".join(_misses(choice, told)) for choice in choices)
    raise NoReplyError(f"{rule.name!r} is asked for, but its turn does not fit: {missing}")


def _misses(rule: Rule | Turn, told: str) -> list[str]:
    """What keeps a rule from answering, in the order of its texts."""
    absent = [f"missing text {text!r}" for text in rule.when if text not in told]
    return absent + [f"must not hold {text!r}" for text in rule.unless if text in told]


def _nearest(script: Script, told: str) -> str:
    """The rule that matches furthest: its first texts say whose conversation it is."""

    def distance(rule: Rule) -> tuple[int, int]:
        begun = next((i for i, text in enumerate(rule.when) if text not in told), len(rule.when))
        return -begun, len(_misses(rule, told))

    rule = min(script.replies, key=distance)
    return f"The nearest is {rule.name!r}: {', '.join(_misses(rule, told))}"


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, which may come as a string or as a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""
