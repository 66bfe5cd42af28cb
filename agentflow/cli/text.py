"""Text for terminals: cleaned of control sequences, with symbols that the terminal can show."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from agentflow.states import NodeState, RunState

if TYPE_CHECKING:
    from rich.console import Console

#: Escape sequences: CSI; OSC/DCS/PM/APC with their text (ended by BEL, ST or the line); two-byte ones.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\n]*?(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*[0-~]?",
    re.MULTILINE,
)
#: Other controls, invisible and direction-changing characters: a name must not look like another.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)

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
_ASCII = str.maketrans({"…": "...", "·": "-", "→": "->", "—": "-", "█": "#", "░": "."})

MINUTE_S = 60
HOUR_S = 3600
#: Below this many seconds a tenth is shown.
FINE_S = 10


def clean(text: str) -> str:
    """`text` without control sequences; newlines and tabs stay."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def one_line(text: str, limit: int = 300) -> str:
    """Cleaned text on one line, cut after `limit` characters."""
    joined = " ".join(clean(text).split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"


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
    return text.translate(_ASCII)


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
    """Whether our signs cannot be shown there (encoding, or TERM=dumb)."""
    if environ.get("TERM") == "dumb":
        return True
    try:
        "✓●‖…".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def say(text: str = "") -> None:
    """A line for people, on stderr."""
    _print(text, sys.stderr)


def put(text: str = "") -> None:
    """A line of data, on stdout."""
    _print(text, sys.stdout)


def _print(text: str, stream: TextIO) -> None:
    shown = plain_ascii(text) if is_ascii_only(stream) else text
    encoding = stream.encoding or "utf-8"
    print(shown.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def console(stream: TextIO) -> Console:
    """A rich console that never reads markup; colours follow the terminal and NO_COLOR."""
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, two spaces between; the last one as long as it is."""
    cells = [list(header), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
