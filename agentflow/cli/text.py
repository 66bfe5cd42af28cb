"""Text for terminals: cleaned of control sequences, with symbols that the terminal can show."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from agentflow.cleaning import clean, one_line
from agentflow.states import NodeState, RunState

__all__ = [
    "ASCII", "can_encode", "clean", "count", "duration", "in_github_actions", "is_ascii_only",
    "is_dumb_terminal", "one_line", "plain_ascii", "put", "run_style", "say", "style_of", "symbol", "table",
    "workflow_command",
]  # fmt: skip

#: Lines that begin like this are commands to the runner of a GitHub workflow.
_COMMAND_SIGNS = ("::", "##[")

#: (symbol, the same in ASCII, style); the word of the state always stands beside it.
_NODE_SYMBOLS: dict[NodeState, tuple[str, str, str]] = {
    NodeState.SUCCEEDED: ("✓", "+", "green"),
    NodeState.FAILED: ("✗", "x", "bold red"),
    NodeState.RUNNING: ("●", "*", "cyan"),
    NodeState.READY: ("○", "o", ""),
    NodeState.PENDING: ("·", ".", "dim"),
    NodeState.PARKED: ("‖", "=", "yellow"),
    NodeState.DELAYED: ("↻", "~", "yellow"),
    NodeState.SKIPPED: ("▹", "-", "dim"),
    NodeState.CANCELLED: ("⊘", "/", "dim"),
}
#: Our signs as old terminals can show them.
ASCII: dict[int, str] = str.maketrans(
    {"…": "...", "→": "->", "—": "-", "█": "#", "░": "."}
    | {sign: spelled for sign, spelled, _ in _NODE_SYMBOLS.values() if sign != "·"}
    | {"·": "-"}
)

MINUTE_S = 60
HOUR_S = 3600
#: Below this many seconds a tenth is shown.
FINE_S = 10


def symbol(state: NodeState, *, ascii_only: bool) -> str:
    """The one-character sign of a state."""
    return _NODE_SYMBOLS[state][1 if ascii_only else 0]


def style_of(state: NodeState) -> str:
    """The rich style of a state."""
    return _NODE_SYMBOLS[state][2]


def run_style(state: RunState) -> str:
    """The rich style of a run's state."""
    if state in (RunState.FAILED, RunState.CONFLICT):
        return "bold red"
    return "green" if state in (RunState.LANDED, RunState.READY_TO_LAND) else ""


def plain_ascii(text: str) -> str:
    """`text` with our own signs spelled in ASCII."""
    return text.translate(ASCII)


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3:07`, `1:02:07`."""
    if seconds < FINE_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    hours, rest = divmod(whole, HOUR_S)
    minutes, left = divmod(rest, MINUTE_S)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def count(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def is_dumb_terminal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal cannot move its cursor."""
    return environ.get("TERM", "dumb") == "dumb"


def is_ascii_only(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether our signs cannot be shown there: encoding, locale, TERM=dumb or the kernel's console.

    Python takes UTF-8 for the C locale; a terminal of somebody who asks for C by LC_ALL may not.
    """
    locale = environ.get("LC_ALL", "")
    if environ.get("TERM") in ("dumb", "linux") or (locale and "utf" not in locale.lower()):
        return True
    return not can_encode(stream)


def can_encode(stream: TextIO) -> bool:
    """Whether the stream's encoding has our signs."""
    try:
        "✓●‖…".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def say(text: str = "") -> None:
    """A line for people, on stderr; in GitHub Actions never one that the runner takes for a command."""
    if in_github_actions() and text.lstrip().startswith(_COMMAND_SIGNS):
        text = f"| {text}"
    _print(text, sys.stderr, people=True)


def put(text: str = "") -> None:
    """Data, on stdout: into a pipe or a file as it is."""
    _print(text, sys.stdout, people=sys.stdout.isatty())


def in_github_actions(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a step of a GitHub workflow, whose runner reads commands from the output."""
    return environ.get("GITHUB_ACTIONS") == "true"


def workflow_command(name: str, message: str = "", **properties: str) -> None:
    """A command to the runner of a GitHub workflow (`::group::…`), on stderr; its data cannot end it."""
    told = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    line = f"::{name}{' ' + told if told else ''}::{_escaped(message)}"
    _print(line, sys.stderr, people=True)


def _escaped(data: str, also: str = "") -> str:
    return "".join(f"%{ord(sign):02X}" if sign in "%\r\n" + also else sign for sign in clean(data))


def _print(text: str, stream: TextIO, *, people: bool) -> None:
    encoding = stream.encoding or "utf-8"
    if (people and is_ascii_only(stream)) or not can_encode(stream):
        text = plain_ascii(text)
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, two spaces between; the last one as long as it is."""
    cells = [list(header), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
