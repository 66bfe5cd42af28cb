"""Values that the configuration and the spec share: commands, durations, paths, environments.

Each is a pydantic type whose errors carry a number (the tail of a code such as `AF-SPEC-040`), a reason
and a fix; `places.py` puts file, line and column to them.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from agentflow.paths import PATH_MAX_CHARS, pattern_problem, plain_path_problem

COMMAND_MAX_CHARS = 20_000
#: Celery's results of a join are kept for seven days; nothing may take longer.
DURATION_MAX_S = 7 * 86_400
#: Task ids, role names and runner names: safe as file name, ref name, label and Redis key.
NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def refusal(number: str, reason: str, fix: str = "") -> PydanticCustomError:
    """A validation error with the tail of its code, its reason and its fix."""
    return PydanticCustomError(f"af_{number}", "{reason}", {"reason": reason, "fix": fix})


def not_built(what: str) -> PydanticCustomError:
    """The refusal of a field or value that a later version will bring."""
    return refusal("090", f"{what} is not built yet", "leave it out")


def _refuse_not_built(value: Any) -> None:
    if value is not None:
        raise not_built("this field")


#: A field of the published schema whose part is not built yet; giving it at all is refused.
NotBuilt = Annotated[Any, BeforeValidator(_refuse_not_built), WithJsonSchema({"x-not-built": True})]


# -- names -----------------------------------------------------------------------------------------


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise refusal("012", "expected a name (a string)", f"write it in quotes: '{value}'")
    if not re.fullmatch(NAME_PATTERN[1:-1], value):
        raise refusal(
            "014",
            "a name is 1 to 64 of a-z 0-9 _ . - and starts with a letter or digit",
            f"for example {slug(value)!r}",
        )
    return value


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]


def slug(text: str, fallback: str = "task") -> str:
    """A valid name made of any text: `Design the API!` is `design-the-api`."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9_.-]+", "-", ascii_text).strip("-._")
    return words[:64].rstrip("-._") or fallback


# -- commands --------------------------------------------------------------------------------------


def _shell_character(text: str) -> str:
    """The first character outside quotes that only a shell gives a meaning to, or an empty string."""
    quote = ""
    previous = " "
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
            elif quote == '"' and char in "$`":
                return char
        elif char in "'\"":
            quote = char
        elif char in "|&;<>()$`*?\n" or (char in "~#" and previous.isspace()):
            return char
        previous = char
    return ""


def _split_command(text: str) -> tuple[str, ...]:
    in_shell = f"[sh, -c, {json.dumps(text, ensure_ascii=False)}]"
    char = _shell_character(text.strip())
    if char:
        raise refusal(
            "040",
            f"{'a line break' if char == chr(10) else char!r} means something only to a shell, "
            "and commands run without one",
            f"quote it if it is meant literally, or write {in_shell}",
        )
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        raise refusal(
            "041", f"the command cannot be split: {error}", "close the quote, or write a list of words"
        ) from None
    if argv and re.match(r"[A-Za-z_]\w*=", argv[0]):
        raise refusal(
            "040",
            "a variable before a command means something only to a shell",
            f"use env:, or [env, {', '.join(argv)}]",
        )
    return argv


def parse_command(value: Any) -> tuple[str, ...]:
    """A command as argv. A string is split as a shell would, but no shell runs it."""
    if isinstance(value, str):
        argv = _split_command(value)
    elif isinstance(value, (list, tuple)):
        for word in value:
            if isinstance(word, bool) or not isinstance(word, (str, int)):
                raise refusal(
                    "012", f"a word of a command must be a string, not {_kind(word)}", "write it in quotes"
                )
        argv = tuple(str(word) for word in value)
    else:
        raise refusal(
            "012",
            f"a command is a string or a list of words, not {_kind(value)}",
            "for example 'pytest -q tests', or [pytest, -q, tests]",
        )
    if not argv or not argv[0].strip():
        raise refusal("041", "the command is empty", "for example 'pytest -q tests'")
    if sum(map(len, argv)) > COMMAND_MAX_CHARS:
        raise refusal("041", f"the command is longer than {COMMAND_MAX_CHARS} characters", "use a script")
    if any("\0" in word for word in argv):
        raise refusal("041", "the command holds a NUL character", "remove it")
    return argv


_ARGV_SCHEMA = {"type": "array", "minItems": 1, "items": {"type": ["string", "integer"]}}
Command = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_command),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _ARGV_SCHEMA]}),
]


def _command_list(value: Any) -> Any:
    if isinstance(value, str):
        raise refusal("012", "expected a list of commands", f"write it as a list: - {value}")
    return value


Commands = Annotated[tuple[Command, ...], BeforeValidator(_command_list)]


def _kind(value: Any) -> str:
    """The kind of a YAML value, in the words of a person."""
    names: list[tuple[type | tuple[type, ...], str]] = [
        (type(None), "nothing"),
        (bool, "true/false"),
        ((int, float), "a number"),
        (str, "a string"),
        ((list, tuple), "a list"),
        (dict, "a mapping"),
    ]
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


# -- durations -------------------------------------------------------------------------------------


def parse_duration(value: Any) -> float:
    """Seconds of a number (seconds) or of a string such as `90s`, `10m`, `1h30m`."""
    if isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise refusal("012", "expected a time", "a number of seconds, or for example 90s, 10m, 1h30m")
    if not 0 <= seconds <= DURATION_MAX_S:
        raise refusal("013", "the time must be between 0 and 7 days", "for example 10m")
    return seconds


def _positive_duration(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise refusal(
            "013", "the time must be more than nothing", "for example 10m; leave it out for no limit"
        )
    return seconds


def _duration_schema(lowest: str) -> dict[str, Any]:
    return {
        "anyOf": [
            {"type": "number", lowest: 0, "maximum": DURATION_MAX_S},
            {"type": "string", "pattern": f"^{_DURATION.pattern}$"},
        ]
    }


Duration = Annotated[
    float, BeforeValidator(_positive_duration), WithJsonSchema(_duration_schema("exclusiveMinimum"))
]
Delay = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_duration_schema("minimum"))]


# -- environments ----------------------------------------------------------------------------------


def _environment(value: Any) -> Any:
    if not isinstance(value, dict):
        raise refusal("012", f"expected a mapping of names to values, not {_kind(value)}", "NAME: value")
    done: dict[str, str] = {}
    for name, item in value.items():
        if not _ENV_NAME.fullmatch(str(name)):
            raise refusal("014", f"{name!r} is not the name of a variable", "letters, digits and _ only")
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise refusal(
                "012", f"the value of {name} must be a string, not {_kind(item)}", f"{name}: '{item}'"
            )
        if "\0" in str(item):
            raise refusal("012", f"the value of {name} holds a NUL character", "remove it")
        done[str(name)] = str(item)
    return done


Environ = Annotated[
    dict[str, str],
    BeforeValidator(_environment),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^{_ENV_NAME.pattern}$"},
            "additionalProperties": {"type": ["string", "integer"]},
        }
    ),
]


# -- paths -----------------------------------------------------------------------------------------


def _checked(problem_of: Callable[[str], tuple[str, str] | None]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise refusal("012", f"expected a path, not {_kind(value)}", "for example src/app.py")
        problem = problem_of(value)
        if problem:
            raise refusal("030", *problem)
        return value

    return check


_PATH_SCHEMA = WithJsonSchema({"type": "string", "minLength": 1, "maxLength": PATH_MAX_CHARS})
_pattern = _checked(pattern_problem)
Pattern = Annotated[str, BeforeValidator(_pattern), _PATH_SCHEMA]
PlainPath = Annotated[str, BeforeValidator(_checked(plain_path_problem)), _PATH_SCHEMA]


class SharedArtifact(BaseModel):
    """An artifact that several nodes may hold at once: they read it, or they append to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    mode: Literal["read", "append"]


def _artifact(value: Any) -> str | SharedArtifact:
    """The pattern of `path` or of `{path, mode: write}`, else pattern and mode."""
    if isinstance(value, SharedArtifact):
        return value
    if not isinstance(value, dict):
        return _pattern(value)
    unknown = sorted(set(value) - {"path", "mode"}, key=str)
    if unknown or "path" not in value:
        raise refusal(
            "010" if unknown else "011",
            f"unknown key {unknown[0]!r}" if unknown else "the key 'path' is missing",
            "an artifact is a pattern, or {path: PATTERN, mode: write, read or append}",
        )
    path, mode = _pattern(value["path"]), value.get("mode", "write")
    if mode == "write":
        return path
    if mode not in {"read", "append"}:
        raise refusal("013", f"{mode!r} is not a mode", "write, read or append")
    return SharedArtifact(path=path, mode=mode)


#: What a node may write or append to, or reads while nobody else may write it: a pattern (to be written), or
#: a `SharedArtifact`.
Artifact = Annotated[
    str | SharedArtifact,
    BeforeValidator(_artifact),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": PATH_MAX_CHARS},
                {
                    "type": "object",
                    "required": ["path"],
                    "additionalProperties": False,
                    "properties": {
                        "path": {"type": "string", "minLength": 1, "maxLength": PATH_MAX_CHARS},
                        "mode": {"enum": ["write", "read", "append"]},
                    },
                },
            ]
        }
    ),
]

#: Counts, on and off, numbers and texts as YAML means them: `"3"` is no number and `1` is not true.
Count = Annotated[int, Field(strict=True, ge=0)]
AtLeastOne = Annotated[int, Field(strict=True, ge=1)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True, ge=0)]
Text = Annotated[str, Field(strict=True, min_length=1)]
