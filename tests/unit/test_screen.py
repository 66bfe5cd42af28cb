"""The block that is drawn again and again, read back by a terminal emulator."""

from __future__ import annotations

import io
import os

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.cli.lines import Line, Look
from agentflow.cli.screen import Screen


class Drawn(Screen):
    """A screen on an emulated terminal whose size can be set."""

    def __init__(self, columns: int = 40, rows: int = 10) -> None:
        self.now = os.terminal_size((columns, rows))
        self.terminal = pyte.HistoryScreen(columns, rows, history=1000, ratio=1)
        self._feed = pyte.Stream(self.terminal)
        super().__init__(io.StringIO(), Look())

    def size(self) -> os.terminal_size:
        return self.now

    def resize(self, columns: int, rows: int) -> None:
        self.now = os.terminal_size((columns, rows))
        self.terminal.resize(rows, columns)

    def put(self, stay: list[str], block: list[str]) -> None:
        self.draw([Line(text) for text in stay], [Line(text) for text in block])

    def _write(self, text: str) -> None:
        self._feed.feed(text.replace("\n", "\r\n"))

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.terminal.display if line.strip()]

    @property
    def everything(self) -> list[str]:
        columns = self.terminal.columns
        top = ["".join(row[i].data for i in range(columns)).rstrip() for row in self.terminal.history.top]
        return [*top, *self.shown]


def test_lines_that_stay_scroll_away_above_the_block() -> None:
    drawn = Drawn(rows=6)
    for number in range(20):
        drawn.put([f"done {number}"], [f"head {number}", "running"])
    assert drawn.shown == ["done 16", "done 17", "done 18", "done 19", "head 19", "running"]
    assert drawn.everything == [*(f"done {i}" for i in range(20)), "head 19", "running"]


def test_a_smaller_block_leaves_nothing_of_the_larger_one() -> None:
    drawn = Drawn()
    drawn.put([], ["head", "a long line of text", "b", "c"])
    drawn.put([], ["head", "a"])
    assert drawn.shown == ["head", "a"]
    drawn.put([], ["head", "x", "y"])
    assert drawn.shown == ["head", "x", "y"]


@pytest.mark.parametrize("size", [(20, 10), (40, 5), (20, 5), (80, 24)])
def test_another_size_leaves_one_block_and_what_stayed(size: tuple[int, int]) -> None:
    drawn = Drawn()
    drawn.put([f"done {i}" for i in range(5)], ["head", *(f"row {i}" for i in range(5))])
    drawn.resize(*size)
    block = ["head", "row 0"]
    drawn.put(["done 5"], block)
    drawn.put([], block)
    assert drawn.shown.count("head") == 1
    assert drawn.shown[-2:] == block
    assert "done 5" in drawn.shown


def test_nothing_is_written_when_nothing_is_new() -> None:
    drawn = Drawn()
    drawn.put([], ["head", "a"])
    before = list(drawn.terminal.display)
    writes: list[str] = []
    drawn._write = writes.append  # type: ignore[method-assign]
    drawn.put([], ["head", "a"])
    assert not writes
    drawn.put([], ["head", "b"])
    assert "head" not in writes[0]
    assert list(drawn.terminal.display) == before


@settings(max_examples=60)
@given(
    frames=st.lists(
        st.tuples(
            st.lists(st.text("abc", min_size=1, max_size=30), max_size=3),
            st.lists(st.text("xyz", min_size=1, max_size=30), min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_after_any_frames_every_line_that_stays_is_there_once_then_the_last_block(
    frames: list[tuple[list[str], list[str]]],
) -> None:
    drawn = Drawn()
    for stay, block in frames:
        drawn.put(stay, block)
    assert drawn.everything == [*(line for stay, _ in frames for line in stay), *frames[-1][1]]
