"""The live view and the plain lines, from values alone."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.cli import live, text
from agentflow.cli.attach import is_after
from agentflow.cli.lines import Line, Look, padded
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


def test_what_ended_before_is_one_line() -> None:
    undone = [node(f"u{i}", NodeState.CANCELLED, reason="rolled back") for i in range(2)]
    failed = [node(f"f{i}", NodeState.FAILED) for i in range(6)]
    seen = status(node("a", NodeState.SUCCEEDED), *undone, *failed, node("b", NodeState.RUNNING))
    assert live.ended_before(seen) == (
        "… 9 nodes ended before (1 succeeded, 6 failed, 2 rolled back): f0, f1, f2, f3 and 2 more"
    )
    assert live.ended_before(status(node("b", NodeState.RUNNING))) == ""
    assert (seen.done, seen.rolled_back, seen.total) == (7, 2, 10)
    assert "7/10 done · 6 failed · 1 running · 2 rolled back" in plain(seen)[0]
    assert [is_after(one, "7-9") for one in ("7-9", "7-10", "8-0", "6-10", "0")] == [
        False, True, True, False, False
    ]  # fmt: skip


def test_failures_come_first_and_every_waiting_node_says_for_what() -> None:
    seen = status(
        node("models", NodeState.SUCCEEDED, attempt=2, started_ms=NOW - 50_000, ended_ms=NOW - 45_000),
        node("api", NodeState.RUNNING, attempt=2, started_ms=NOW - 12_400, parents=("models",)),
        node("docs", NodeState.PENDING, parents=("models", "api")),
        node("seed", NodeState.PARKED, reason="lock: src/shop is held for api"),
        node("more", NodeState.PARKED, reason="role limit: 2 backend at a time"),
        node("tests", NodeState.FAILED, attempt=3, reason="2 tests are red"),
        node("later", NodeState.READY),
    )
    head, *rows = plain(seen)
    assert "Discounts" in head
    assert "2/7 done · 1 failed · 1 running · 3 waiting" in head
    assert "1:01" in head
    assert [row.split()[1] for row in rows] == ["tests", "api", "seed", "more", "later", "docs"]
    assert "failed after 3 attempts: 2 tests are red" in rows[0]
    assert "running 12 s, attempt 2" in rows[1]
    assert "waits for the lock: src/shop is held for api" in rows[2]
    assert "waits for room: role limit of 2 backend at a time" in rows[3]
    assert "waits for a free slot" in rows[4]
    assert "waits for api" in rows[5]
    assert "models" not in rows[5]
    gone = live.permanent(seen.nodes[0], NOW, width=100)
    assert gone.plain.split()[1:3] == ["models", "backend"]
    assert gone.plain.endswith("succeeded in 5.0 s, attempt 2")


def test_the_days_until_a_run_is_landed_are_not_its_work() -> None:
    end = node("@integrate", NodeState.SUCCEEDED, ended_ms=RUN.opened_ms + 5000)
    late = replace(RUN, state=RunState.LANDED, closed_ms=RUN.opened_ms + 86_400_000)
    assert RunStatus(late, (NodeStatus(end, ""),), NOW).seconds == 5


def test_a_queue_that_nobody_serves_is_named() -> None:
    ready = node("a", NodeState.READY)
    assert waits_for(ready, {}, "gpu") == "ready, but no worker serves queue gpu"


def test_the_last_failures_are_pinned_and_what_does_not_fit_is_counted() -> None:
    nodes = [node(f"n{i}", NodeState.PENDING, parents=("x",)) for i in range(50)]
    bad = [node(f"bad{i}", NodeState.FAILED, attempt=1, ended_ms=i) for i in range(5)]
    lines = plain(status(*nodes, *bad), height=14, notice="draining")
    assert len(lines) < 14
    assert [line.split()[1] for line in lines[1:4]] == ["bad4", "bad3", "bad2"]
    shown = sum(1 for line in lines if " n" in line and "waits" in line)
    assert lines[-2] == f"  … and {50 - shown} pending"
    assert lines[-1] == "draining"


def test_shards_are_counted_and_each_worker_s_is_named() -> None:
    seen = status(
        node("a1", NodeState.SUCCEEDED), node("a2", NodeState.SUCCEEDED),
        node("b1", NodeState.SUCCEEDED), node("b2", NodeState.RUNNING, worker="w1", started_ms=NOW),
        node("c1", NodeState.RUNNING, worker="w2", started_ms=NOW), node("c2", NodeState.PENDING),
    )  # fmt: skip
    seen = replace(seen, shards={"a1": "1", "a2": "1", "b1": "2", "b2": "2", "c1": "3", "c2": "3"})
    lines = plain(seen)
    assert "1/3 shards" in lines[0]
    assert lines[-1] == "shards  w1: 2; w2: 3"
    assert "1/3 shards" in live.heartbeat(seen)


def test_numbered_shards_stand_in_the_order_of_their_numbers() -> None:
    nodes = [node(f"n{i}", NodeState.RUNNING, worker="w", started_ms=NOW) for i in (10, 2, 1)]
    seen = replace(status(*nodes), shards={f"n{i}": str(i) for i in (10, 2, 1)})
    assert seen.shards_of_workers == {"w": ["1", "2", "10"]}


def test_who_serves_stands_below() -> None:
    seen = replace(status(node("a", NodeState.READY)), fleet="1 process (1 idle), 0/8 slots taken")
    assert plain(seen)[-1] == "workers 1 process (1 idle), 0/8 slots taken"


def test_the_heartbeat_says_what_runs_and_what_waits() -> None:
    running = [node(f"r{i}", NodeState.RUNNING, started_ms=NOW - 20_000) for i in range(6)]
    line = live.heartbeat(status(*running, node("p", NodeState.PARKED, reason="lock: a is held for r0")))
    assert line.startswith("    61.0s  run  0/7 done · 6 running · 1 waiting")
    assert "running: r0 (20 s), r1 (20 s), r2 (20 s), r3 (20 s) and 2 more" in line
    assert "waiting: p (waits for the lock: a is held for r0)" in line


@given(
    states=st.lists(st.sampled_from(list(NodeState)), max_size=60),
    height=st.integers(2, 40),
    width=st.integers(1, 120),
    reason=st.text(max_size=200),
    ascii_only=st.booleans(),
    colours=st.booleans(),
)
def test_never_taller_or_wider_than_the_terminal(
    states: list[NodeState], height: int, width: int, reason: str, *, ascii_only: bool, colours: bool
) -> None:
    nodes = [node(f"n{i}", state, reason=reason, worker=reason) for i, state in enumerate(states)]
    look = Look(ascii_only=ascii_only, colours=colours, weights=colours)
    seen = replace(status(*nodes), shards={"n0": reason, "n1": "x"}, fleet="1 process")
    lines = live.view(seen, width=width, height=height, notice=reason, look=look)
    lines += [live.permanent(n, NOW, width=width, look=look) for n in seen.nodes]
    assert len(lines) - len(nodes) < height
    for line in lines:
        assert line.cell_len <= width
        assert "\n" not in line.plain
        assert "\x1b" not in line.plain
        assert not ascii_only or line.plain.isascii()
        assert text.clean(line.ansi(look)) == line.plain


def test_in_ascii_no_sign_is_left_that_an_old_terminal_cannot_show() -> None:
    nodes = [node(f"n{i}", state) for i, state in enumerate(NodeState)]
    lines = plain(status(*nodes), look=Look(ascii_only=True), height=10)
    assert all(line.isascii() for line in lines)
    assert len({text.symbol(state, ascii_only=True) for state in NodeState}) == len(NodeState)
    assert "✓" not in text.plain_ascii("".join(text.symbol(s, ascii_only=False) for s in NodeState))


@pytest.mark.parametrize(
    ("environ", "codes"),
    [
        ({"TERM": "xterm"}, {"1", "31", "36"}),
        ({"TERM": "xterm", "NO_COLOR": "1"}, {"1"}),
        ({"TERM": "xterm", "NO_COLOR": ""}, {"1", "31", "36"}),
        ({"TERM": "dumb"}, set()),
        ({}, set()),
    ],
)
def test_colours_follow_the_terminal_and_no_color(environ: dict[str, str], codes: set[str]) -> None:
    look = Look.of(environ, ascii_only=False, terminal=True)
    seen = status(node("a", NodeState.FAILED, attempt=1), node("b", NodeState.RUNNING, started_ms=NOW))
    sent = "".join(line.ansi(look) for line in live.view(seen, width=80, height=24, look=look))
    assert {code for found in re.findall(r"\x1b\[([0-9;]*)m", sent) for code in found.split(";")} - {
        "0",
        "2",
    } == codes


def test_a_wide_character_is_never_cut_in_two() -> None:
    line = Line("実装する", "bold")
    assert [line.cut(width).plain for width in (8, 7, 4, 1)] == ["実装する", "実装す…", "実…", "…"]
    assert padded("実装", 3) == "実 "


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
    ("reason", "command"),
    [
        ("paused by its user", "resume r1"),
        ("budget: run: $1.00 of $1.20 spent", "resume r1 --budget +N"),
        ("budget: run: 900 tokens of 1000 tokens spent", "resume r1 --budget tokens=+N"),
        ("budget: role docs: $0.00 of $0.10 spent, $0.20 more wanted", "resume r1 --budget docs.usd=+N"),
        ("budget: role docs: 1 tokens of 2 tokens spent", "resume r1 --budget docs.tokens=+N"),
        ("budget: day: $1.00 of $1.20 spent", "budget set day.usd=+N; agentflow resume r1"),
        ("budget: org: 5 tokens of 6 tokens spent", "budget set org.tokens=+N; agentflow resume r1"),
    ],
)
def test_a_paused_run_says_what_lets_it_go_on(reason: str, command: str) -> None:
    """Without more to spend a run that has spent its budget would be paused again at once."""
    paused = Event("1-0", "r1", "run.paused", NOW, "", "paused", 0, reason)
    assert live.plain_line(paused, NOW) == f"     0.0s  run  paused  {reason}; `agentflow {command}` goes on"


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
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert text.is_ascii_only(utf8, {"TERM": "dumb"})
    assert text.is_ascii_only(utf8, {"TERM": "linux"})
    assert text.is_ascii_only(utf8, {"TERM": "xterm", "LC_ALL": "C"})
    assert not text.is_ascii_only(utf8, {"TERM": "xterm", "LC_ALL": "de_DE.UTF-8"})


def test_status_names_each_node_once() -> None:
    lines = live.status_lines(
        status(node("a", NodeState.RUNNING, started_ms=NOW), node("b", NodeState.PENDING, parents=("a",)))
    )
    assert lines[0] == "r1  open  Discounts"
    assert lines[-1].split() == ["·", "b", "backend", "waits", "for", "a"]
