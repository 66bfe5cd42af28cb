"""A terminal with lines that stay and, below them, a block that is drawn again and again.

Only the cursor is moved, upwards from the block's last line; nothing is assumed of what stands above. When
the terminal becomes narrower or lower than the block was drawn for, terminals disagree about where its lines
are now: the screen is then cleared, and the last lines that stay are printed again above the block.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from agentflow.cli.lines import Line, Look

#: Permanent lines that are kept to be printed again: more than a screen has.
KEPT = 300
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CLEAR_LINE, _CLEAR_BELOW, _CLEAR_SCREEN = "\x1b[2K", "\x1b[J", "\x1b[H\x1b[2J"
_USUAL = os.terminal_size((80, 24))


class Screen:
    """Draws on one stream. Not thread-safe: one thread draws."""

    def __init__(self, stream: TextIO, look: Look) -> None:
        self.look = look
        self._stream = stream
        self._block: list[str] = []
        self._stay: deque[str] = deque(maxlen=KEPT)
        self._size = self.size()

    def size(self) -> os.terminal_size:
        """Columns and rows of the terminal now; 80 x 24 where nobody knows."""
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return _USUAL
        return found if found.columns > 0 and found.lines > 0 else _USUAL

    def open(self) -> None:
        """Hide the cursor: it would jump about."""
        self._write(_HIDE_CURSOR)

    def draw(self, stay: Sequence[Line], block: Sequence[Line]) -> None:
        """Print lines that stay, then the block; nothing is written when nothing is new."""
        lines = [line.ansi(self.look) for line in block]
        lasting = [line.ansi(self.look) for line in stay]
        size = self.size()
        shrunk = size.columns < self._size.columns or size.lines <= len(self._block)
        self._size = size
        self._stay.extend(lasting)
        if shrunk:
            room = max(0, size.lines - len(lines) - 1)
            again = list(self._stay)[-room:] if room else []
            self._write(_CLEAR_SCREEN + "".join(f"{line}\n" for line in again) + "\n".join(lines))
        elif lasting or len(lines) != len(self._block):
            self._write(
                self._to_top()
                + "".join(f"{_CLEAR_LINE}{line}\n" for line in lasting)
                + "\n".join(f"{_CLEAR_LINE}{line}" for line in lines)
                + _CLEAR_BELOW
            )
        elif lines != self._block:
            known = zip(lines, self._block, strict=True)
            self._write(
                self._to_top() + "\n".join("" if new == old else f"{_CLEAR_LINE}{new}" for new, old in known)
            )
        self._block = lines

    def close(self) -> None:
        """Leave the last block where it is and give the cursor back."""
        self._write(("\n" if self._block else "") + _SHOW_CURSOR)
        self._block = []

    def _to_top(self) -> str:
        rows = len(self._block) - 1
        return "\r" + (f"\x1b[{rows}A" if rows > 0 else "")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
