"""Text of agents and repositories, made safe to show: no control sequences, one line, data in Markdown."""

from __future__ import annotations

import html
import re

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
#: Signs that Markdown gives a meaning to inside a line.
_MARKS = re.compile(r"([\\`*_\[\]|~$])")
_FENCES = re.compile(r"`{3,}")


def clean(text: str) -> str:
    """`text` without control sequences; newlines and tabs stay."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def one_line(text: str, limit: int = 300) -> str:
    """Cleaned text on one line, cut after `limit` characters."""
    joined = " ".join(clean(text).split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"


def markdown_line(text: str, limit: int = 300) -> str:
    """Text as data inside a line of Markdown: no markup, no HTML, no link, nobody mentioned."""
    escaped = _MARKS.sub(r"\\\1", html.escape(one_line(text, limit), quote=False))
    return escaped.replace("@", "@&#8203;").replace("://", ":&#8203;//")


def markdown_block(text: str, language: str = "text") -> list[str]:
    """Text as a fenced block that nothing inside it can end."""
    longest = max((len(found) for found in _FENCES.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}{language}", *clean(text).rstrip("\n").split("\n"), fence]
