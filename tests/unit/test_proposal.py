"""The proposal from values alone: its verdicts, its waits, its Markdown, its files and the cost."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.canvas.plan import PlanNode
from agentflow.cleaning import clean, markdown_block, markdown_line
from agentflow.errors import UsageError
from agentflow.monitor import Event
from agentflow.proposal import files, making, markdown
from agentflow.proposal.values import Conflict, Judgement, Patch, Proof, Proposal, Report, Wait
from agentflow.results import NOT_METERED, NodeResult, RunResult, cost_report

SPENT = {
    "calls": 3, "input_tokens": 300, "output_tokens": 30, "cost_usd": 0.03,
    "models": {
        "big": {"calls": 1, "input_tokens": 200, "output_tokens": 20, "cost_usd": 0.02},
        "small": {"calls": 2, "input_tokens": 100, "output_tokens": 10, "cost_usd": 0.01},
    },
}  # fmt: skip
NODES = {
    "api": NodeResult("succeeded", "backend", 2, 4.0, commit="c" * 40, usage=SPENT),
    "ui": NodeResult(
        "failed", "frontend", 1, 1.0, reason="acceptance: 2 tests are red", usage={"cpu_s": 1.0}
    ),
    "never": NodeResult("skipped", "frontend", 0, 0.0),
}
RESULT = RunResult(
    run="r1", state="failed", feature="Shop", exit_code=1, root="/r", base="b" * 40, target="agentflow/shop",
    branch="", commit="", merged_ref="", total=3, completed=1, failed=1, skipped=1, cancelled=0,
    failed_nodes=("ui",), duration_s=5.0, node_seconds=5.0, speedup=1.0, calls=3, input_tokens=300,
    output_tokens=30, cost_usd=0.03, cpu_s=1.0, peak_memory_mb=9.0, reason="failed: ui", nodes=NODES,
)  # fmt: skip


def proof(**changes: Any) -> Proof:
    values: dict[str, Any] = {
        "node": "api", "role": "backend", "output": "change", "state": "succeeded", "attempts": 1,
        "seconds": 1.0, "worker": "w", "commit": "c" * 40, "checkpoint": "refs/agentflow/runs/r1/nodes/api",
        "summary": "did it", "patch": Patch("stat", "+x"),
        "judgement": Judgement(("pytest -q",), "red_then_green", "passed", {"passed": 3}),
    }  # fmt: skip
    return Proof(**values | changes)


def proposal(**changes: Any) -> Proposal:
    totals = {name: getattr(RESULT, name) for name in making._totals()}
    values: dict[str, Any] = {
        "run": "r1", "feature": "Shop", "goal": "", "state": "failed", "exit_code": 1, "reason": "failed: ui",
        "base": "b" * 40, "target": "agentflow/shop", "branch": "", "commit": "", "merged_ref": "",
        "opened": "2026-01-02T03:04:05+00:00", "closed": "2026-01-02T03:05:05+00:00", "totals": totals,
        "failed_nodes": ("ui",), "validation": Judgement((), "green", "not judged"),
        "patch": Patch("s", "+a\n"), "reports": (),
        "nodes": (proof(), proof(node="ui", role="frontend", state="failed", reason="red")),
        "conflicts": (), "waits": (), "costs": cost_report(RESULT),
    }  # fmt: skip
    return Proposal(**values | changes)


def test_cost_is_told_from_three_sides_that_add_up() -> None:
    report = cost_report(RESULT)
    for side in (report.nodes, report.roles, report.models):
        assert sum(part.cost_usd for part in side) == pytest.approx(report.total.cost_usd) == 0.03
        assert sum(part.input_tokens for part in side) == 300
    assert [(part.name, part.calls) for part in report.models] == [("big", 1), ("small", 2), (NOT_METERED, 0)]
    assert [part.name for part in report.roles] == ["backend", "frontend"]
    assert report.total.attempts == 3


@pytest.mark.parametrize(
    ("node", "expect", "commands", "verdict"),
    [
        (NODES["api"], "green", (("pytest", "-q"),), "passed"),
        (NODES["api"], "none", (("pytest", "-q"),), "not judged"),
        (NODES["api"], "green", (), "not judged"),
        (NODES["ui"], "green", (("pytest",),), "failed"),
        (NodeResult("failed", "x", 1, 1.0, reason="the command failed"), "green", (("t",),), "not reached"),
        (NODES["never"], "green", (("pytest",),), "not reached"),
    ],
)
def test_the_verdict_of_acceptance(
    node: NodeResult, expect: Any, commands: tuple[tuple[str, ...], ...], verdict: str
) -> None:
    planned = PlanNode(id="n", role="x", expect=expect, acceptance=commands)
    assert making.judgement_of(node, planned).verdict == verdict


def event(kind: str, at_ms: int, node: str = "a", reason: str = "") -> Event:
    return Event("1-0", "r1", kind, at_ms, node, "", 0, reason)


def test_waits_are_summed_by_reason_and_one_that_goes_on_counts_until_now() -> None:
    lock = "lock: src is held for b"
    waits = making.waits_of(
        [
            event("node.parked", 1000, reason=lock), event("node.woken", 3000), event("node.started", 3001),
            event("node.parked", 4000, reason=lock), event("node.woken", 4500),
            event("node.delayed", 6000, reason="the server is busy"), event("node.ready", 7000),
            event("node.parked", 8000, "z", "run limit: 1 at a time"), event("node.parked", 8050, "z", "x"),
        ],
        9000,
    )  # fmt: skip
    assert waits == [
        Wait("a", lock, 2.5), Wait("a", "the server is busy", 1.0), Wait("z", "x", 0.95),
    ]  # fmt: skip


def test_what_agents_say_is_data_in_markdown() -> None:
    evil = "](http://x) <script>alert(1)</script> @team | `code` \x1b[2J **b**"
    fenced = "````\n# not a heading\n```\n"
    text = markdown.render(
        proposal(
            feature=evil,
            reports=(
                Report("review", "reviewer", "block", "s", fenced),
                Report(
                    "sec",
                    "security",
                    evil,
                    "s",
                    "",
                    ({"severity": evil, "file": "a|b.py", "line": 3, "message": evil},),
                ),
            ),
            conflicts=(Conflict("api", "rerun", times=2, what=evil), Conflict("ui", "edge", ("api",))),
            patch=Patch(evil, "+```\n+</details>\n"),
        )
    )
    outside = re.sub(r"(?sm)^(```+)\w*\n.*?\n\1$", "", text)
    assert "<script>" not in outside
    assert "@team" not in outside
    assert "\x1b" not in text
    assert "\n# not a heading\n" in text
    assert "`````text\n````\n# not a heading\n```\n`````" in text
    rows = [
        line for line in text.splitlines() if line.startswith("| ") and "3" in line and "a\\|b.py" in line
    ]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 4


def test_the_markdown_says_proof_failures_conflicts_waits_and_cost() -> None:
    found = proposal(
        conflicts=(Conflict("ui", "edge", ("api",), what="it locks what they wrote"),),
        waits=(Wait("ui", "lock: src is held for api", 2.5),),
    )
    text = markdown.render(found)
    assert "- **ui** (frontend): red" in text
    assert "| api | backend | succeeded | 1 | passed, red\\_then\\_green: 3 passed | cccccccccccc |" in text
    assert "ui started on top of api" in text
    assert "| ui | 2.5 | lock: src is held for api |" in text
    assert "| big | 1 | 200 | 20 | 0.0200 |" in text
    assert "```diff\n+a\n```" in text
    assert "```diff" not in markdown.summary(found)


@given(st.text())
def test_no_text_ends_its_block_or_its_line(text: str) -> None:
    first, *middle, last = markdown_block(text)
    assert last == first.removesuffix("text")
    assert not any(line.lstrip().startswith(last) for line in middle)
    line = markdown_line(text)
    assert "\n" not in line
    assert "<" not in line
    assert clean(line) == line


def test_the_files_of_out(tmp_path: Path) -> None:
    nodes = (proof(), proof(node="a/b", role="back end", state="failed"), proof(node="a-b", role="back-end"))
    written = files.put_files(proposal(nodes=nodes), tmp_path / "deep" / "out")
    names = [path.name for path in written]
    assert names == [
        "proposal_20260102T030505Z.json", "proposal_20260102T030505Z.md",
        "backend_api_result.json", "backend_api.status",
        "back-end_a-b_result.json", "back-end_a-b.status",
        "back-end_a-b-2_result.json", "back-end_a-b-2.status",
        ".status",
    ]  # fmt: skip
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(names)
    one = json.loads(written[2].read_text())
    assert (one["v"], one["agent"], one["task_id"], one["success"]) == (1, "backend", "api", True)
    assert one["judgement"]["tests"] == {"passed": 3}
    assert written[3].read_text() == "succeeded\n"
    status = json.loads(written[-1].read_text())
    assert (status["state"], status["exit_code"], status["failed_nodes"]) == ("failed", 1, ["ui"])
    assert status["nodes"] == {"api": "succeeded", "a/b": "failed", "a-b": "succeeded"}


def test_a_name_cannot_leave_the_directory(tmp_path: Path) -> None:
    written = files.put_files(proposal(nodes=(proof(node="../../x", role=".."),)), tmp_path)
    assert {path.parent for path in written} == {tmp_path}


def test_a_directory_that_cannot_be_written_is_said_and_no_half_file_is_left(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(UsageError) as found:
        files.put_files(proposal(), place)
    assert found.value.code == "AF-OUT-001"
    taken = tmp_path / "out" / ".status"
    taken.mkdir(parents=True)
    with pytest.raises(UsageError):
        files.put_files(proposal(), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.part"))
    assert not list((tmp_path / "out").glob(".*.part"))
    assert stat.S_ISDIR(taken.stat().st_mode)
