"""One line of a terminal: pieces of plain text with a style, measured in columns, cut to fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Styles by the names that `text.style_of` gives; colour never says what the words do not.
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
#: What NO_COLOR leaves: weight, no hue.
_HUELESS = frozenset({"bold", "dim"})


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can show."""

    ascii_only: bool = False
    colours: bool = False
    weights: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str], *, ascii_only: bool, terminal: bool) -> Look:
        """The look of a stream: https://no-color.org takes the colours, TERM=dumb all styles."""
        weights = terminal and environ.get("TERM", "dumb") != "dumb"
        return cls(ascii_only, colours=weights and not environ.get("NO_COLOR"), weights=weights)


class Line:
    """Pieces of text, each with a style ('' for none). No piece holds a newline or a control character."""

    __slots__ = ("_pieces",)

    def __init__(self, text: str = "", style: str = "") -> None:
        self._pieces = [(text, style)] if text else []

    def add(self, text: str, style: str = "") -> Line:
        """Append a piece."""
        if text:
            self._pieces.append((text, style))
        return self

    @property
    def plain(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self._pieces)

    @property
    def cell_len(self) -> int:
        """Columns that the line takes."""
        return columns(self.plain)

    def cut(self, width: int, mark: str = "…") -> Line:
        """The line in at most `width` columns; a cut one ends in `mark` (one column)."""
        if self.cell_len <= width:
            return self
        kept, left = Line(), width - 1
        for text, style in self._pieces:
            part = "".join(_fitting(text, left))
            kept.add(part, style)
            left -= columns(part)
            if part != text:
                break
        return kept.add(mark) if width > 0 else Line()

    def in_ascii(self, table: Mapping[int, str]) -> Line:
        """In ASCII: signs of the table as it spells them, any other as `?`."""
        spelled = Line()
        for text, style in self._pieces:
            spelled.add(text.translate(table).encode("ascii", "replace").decode(), style)
        return spelled

    def ansi(self, look: Look) -> str:
        """The line as the terminal is sent it."""
        if not look.weights:
            return self.plain
        return "".join(_styled(text, style, look) for text, style in self._pieces)


def _styled(text: str, style: str, look: Look) -> str:
    words = [word for word in style.split() if look.colours or word in _HUELESS]
    return f"\x1b[{';'.join(_CODES[word] for word in words)}m{text}\x1b[0m" if words else text


def columns(text: str) -> int:
    """Columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fitting(text: str, width: int) -> Iterator[str]:
    """The characters from the beginning that fit."""
    used = 0
    for sign in text:
        used += columns(sign)
        if used > width:
            return
        yield sign


def padded(text: str, width: int) -> str:
    """The text in exactly `width` columns."""
    fitted = text if columns(text) <= width else "".join(_fitting(text, width))
    return fitted + " " * (width - columns(fitted))
