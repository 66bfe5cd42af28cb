"""The live view and the plain lines, from values alone."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.cli import live, text
from agentflow.monitor import INTEGRATE, Event, NodeRecord, NodeStatus, RunRecord, RunStatus, waits_for
from agentflow.states import NodeState, RunState

NOW = 1_000_000
RUN = RunRecord(
    id="r1", state=RunState.OPEN, feature="Discounts", project="p", repo="/r", root="/r", base="0" * 40,
    target="agentflow/discounts", opened_ms=NOW - 61_000,
)  # fmt: skip


def node(name: str, state: NodeState, **fields: object) -> NodeRecord:
    return NodeRecord(id=name, role="backend", state=state, **fields)  # type: ignore[arg-type]


def status(*nodes: NodeRecord) -> RunStatus:
    by_id = {n.id: n for n in nodes}
    return RunStatus(RUN, tuple(NodeStatus(n, waits_for(n, by_id)) for n in nodes), NOW)


def plain(seen: RunStatus, **options: object) -> list[str]:
    arguments = {"width": 100, "height": 24} | options
    return [line.plain for line in live.view(seen, **arguments)]  # type: ignore[arg-type]


def test_failures_come_first_and_every_waiting_node_says_for_what() -> None:
    seen = status(
        node("models", NodeState.SUCCEEDED, attempt=2, started_ms=NOW - 50_000, ended_ms=NOW - 45_000),
        node("api", NodeState.RUNNING, attempt=2, started_ms=NOW - 12_400, parents=("models",)),
        node("docs", NodeState.PENDING, parents=("models", "api")),
        node("seed", NodeState.PARKED, reason="waits for the lock on src/shop held by api"),
        node("tests", NodeState.FAILED, attempt=3, reason="2 tests are red"),
        node("later", NodeState.READY),
    )
    head, *rows = plain(seen)
    assert "Discounts" in head
    assert "2/6 done · 1 failed · 1 running · 2 waiting" in head
    assert "1:01" in head
    assert [row.split()[1] for row in rows] == ["tests", "api", "seed", "later", "docs", "models"]
    assert "failed after 3 attempts: 2 tests are red" in rows[0]
    assert "running 12 s, attempt 2" in rows[1]
    assert "waits for the lock on src/shop held by api" in rows[2]
    assert "waits for a free slot" in rows[3]
    assert "waits for api" in rows[4]
    assert "models" not in rows[4]
    assert "succeeded in 5.0 s, attempt 2" in rows[5]


def test_what_does_not_fit_is_counted() -> None:
    nodes = [node(f"n{i}", NodeState.PENDING, parents=("x",)) for i in range(50)]
    lines = plain(status(*nodes, node("bad", NodeState.FAILED, attempt=1)), height=10, notice="draining")
    assert len(lines) == 9
    assert "bad" in lines[1]
    assert lines[-2] == "  … and 45 pending"
    assert lines[-1] == "draining"


@given(
    states=st.lists(st.sampled_from(list(NodeState)), max_size=60),
    height=st.integers(2, 40),
    width=st.integers(1, 120),
    reason=st.text(max_size=200),
    ascii_only=st.booleans(),
)
def test_never_taller_or_wider_than_the_terminal(
    states: list[NodeState], height: int, width: int, reason: str, *, ascii_only: bool
) -> None:
    nodes = [node(f"n{i}", state, reason=reason) for i, state in enumerate(states)]
    lines = live.view(status(*nodes), width=width, height=height, notice=reason, ascii_only=ascii_only)
    assert len(lines) < height
    assert all(line.cell_len <= width for line in lines)
    assert all("\n" not in line.plain and "\x1b" not in line.plain for line in lines)


def test_in_ascii_no_sign_is_left_that_an_old_terminal_cannot_show() -> None:
    nodes = [node(f"n{i}", state) for i, state in enumerate(NodeState)]
    lines = plain(status(*nodes), ascii_only=True, height=6)
    assert all(line.isascii() for line in lines)
    assert len({text.symbol(state, ascii_only=True) for state in NodeState}) == len(NodeState)


def test_the_integration_appears_when_it_can_run() -> None:
    waiting = status(node("a", NodeState.RUNNING), node(INTEGRATE, NodeState.PENDING, parents=("a",)))
    assert not any("integrate" in line for line in plain(waiting))
    running = status(node("a", NodeState.SUCCEEDED), node(INTEGRATE, NodeState.RUNNING, started_ms=NOW))
    assert any("integrate" in line for line in plain(running))
    assert "1/1 done" in plain(running)[0]


def test_a_transition_is_one_line_whatever_its_reason_holds() -> None:
    event = Event(
        "1-0", "r1", "node.settled", NOW + 1500, "api", "failed", 2, "red\nline \x1b]0;title\x07two"
    )
    assert live.plain_line(event, NOW) == "     1.5s  api  failed (attempt 2)  red line two"
    assert live.plain_line(Event("1-0", "r1", "node.ready", NOW, "api", "ready"), NOW) == ""
    parked = Event("1-0", "r1", "node.parked", NOW, "api", "parked", 0, "role backend is at its limit")
    assert live.plain_line(parked, NOW) == "     0.0s  api  waits  role backend is at its limit"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b[2Jb", "ab"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("a\x1b]52;c;unterminated\nb", "a\nb"),
        ("a\x9b31mb", "ab"),
        ("over\rwritten\b\b", "overwritten"),
        ("right\u202eleft", "rightleft"),
        ("[bold]kept[/bold]", "[bold]kept[/bold]"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_control_sequences_do_not_reach_the_terminal(raw: str, shown: str) -> None:
    assert text.clean(raw) == shown


@given(st.text())
def test_cleaned_text_holds_no_control_and_cleaning_twice_changes_nothing(raw: str) -> None:
    cleaned = text.clean(raw)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in cleaned)
    assert text.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.44, "0.4 s"), (9.99, "10.0 s"), (59.4, "59 s"), (187, "3:07"), (3727, "1:02:07")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_a_stream_that_cannot_show_our_signs_gets_ascii() -> None:
    assert text.is_ascii_only(io.TextIOWrapper(io.BytesIO(), encoding="ascii"), {})
    assert not text.is_ascii_only(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), {})
    assert text.is_ascii_only(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), {"TERM": "dumb"})


def test_status_names_each_node_once() -> None:
    lines = live.status_lines(
        status(node("a", NodeState.RUNNING, started_ms=NOW), node("b", NodeState.PENDING, parents=("a",)))
    )
    assert lines[0] == "r1  open  Discounts"
    assert lines[-1].split() == ["·", "b", "backend", "waits", "for", "a"]
