"""How the end of a run is told."""

from __future__ import annotations

from typing import Any

from agentflow.cli import summary
from agentflow.results import NodeResult, RunResult

BASE = RunResult(
    run="r1", state="landed", feature="Discounts", exit_code=0, root="/r", base="b" * 40,
    target="agentflow/discounts", branch="agentflow/discounts-2", commit="c" * 40, merged_ref="", total=7,
    completed=7, failed=0, skipped=0, cancelled=0, failed_nodes=(), duration_s=23.0, node_seconds=58.0,
    speedup=2.52, calls=21, input_tokens=40_000, output_tokens=2_000, cost_usd=0.126, cpu_s=1.0,
    peak_memory_mb=50.0, reason="", nodes={},
)  # fmt: skip


def lines(**changes: Any) -> list[str]:
    values = {name: getattr(BASE, name) for name in BASE.__slots__} | changes
    return summary.lines(RunResult(**values), " shop/cart.py | 2 ++\n 1 file changed\n")


def test_a_landed_run_names_the_branch_it_is_on_and_what_to_type() -> None:
    assert lines() == [
        "landed on agentflow/discounts-2 as cccccccccccc: Discounts",
        "   shop/cart.py | 2 ++",
        "   1 file changed",
        "7/7 nodes in 23 s · 58 s of work (2.5 times as fast) · 21 calls, 42,000 tokens, $0.13",
        "next: git diff bbbbbbbbbbbb..agentflow/discounts-2",
    ]


def test_a_run_that_is_ready_says_how_to_land_it() -> None:
    said = lines(state="ready_to_land", branch="")
    assert said[0].startswith("ready to land on agentflow/discounts as cccccccccccc")
    assert said[-1] == "next: agentflow diff r1; agentflow land r1"


def test_a_failed_node_is_named_with_its_reason_cleaned() -> None:
    node = NodeResult(state="failed", role="backend", attempts=3, seconds=1.0, reason="red\n\x1b[31mtests")
    said = lines(state="failed", completed=5, failed=1, skipped=1, failed_nodes=("api",), nodes={"api": node})
    assert "  failed: api after 3 attempts: red tests" in said
    assert "1 skipped, 0 cancelled" in said[3]
    assert said[-2:] == ["look: agentflow why r1 api; agentflow logs r1 api", "next: agentflow resume r1"]


def test_a_red_validation_says_how_to_look_at_the_merged_tree() -> None:
    said = lines(state="failed", reason="validation is red", merged_ref="refs/agentflow/runs/r1/merged")
    assert said[0] == "failed: Discounts (validation is red)"
    assert any("git worktree add --detach ../merged refs/agentflow/runs/r1/merged" in line for line in said)


def test_of_many_failures_each_is_named() -> None:
    nodes = {f"n{i}": NodeResult(state="failed", role="x", attempts=1, seconds=0) for i in range(30)}
    said = lines(state="failed", failed_nodes=tuple(nodes), nodes=nodes)
    assert len([line for line in said if line.startswith("  failed:")]) == summary.FAILED_SHOWN
    assert "  failed too: " + ", ".join(f"n{i}" for i in range(10, 30)) in said
    many = {f"n{i}": nodes["n0"] for i in range(200)}
    assert lines(state="failed", failed_nodes=tuple(many), nodes=many)[-3].endswith("n99 and 100 more")


def test_a_run_without_model_calls_has_no_bill() -> None:
    assert "tokens" not in " ".join(lines(calls=0))


def test_a_spent_budget_is_raised_where_it_was_spent() -> None:
    paused = {"state": "paused", "exit_code": 5, "completed": 0}
    said = lines(**paused, reason="budget: role docs: $0.00 of $0.10 spent, $0.20 more wanted")
    assert said[-1] == "next: agentflow resume r1 --budget docs.usd=+N"
    said = lines(**paused, reason="budget: day: 90 tokens of 90 tokens spent")
    assert said[-1] == "next: agentflow budget set day.tokens=+N; agentflow resume r1"


def test_nodes_that_spent_their_own_budgets_are_all_given_more() -> None:
    reason = "budget: node: $0.30 of $0.50 spent, $0.30 more wanted"
    nodes = {
        name: NodeResult(state="failed", role="x", attempts=1, seconds=0, reason=reason) for name in "ab"
    }
    said = lines(state="failed", exit_code=5, reason="failed: a, b", failed_nodes=("a", "b"), nodes=nodes)
    assert said[-1] == "next: agentflow resume r1 --budget node:a.usd=+N --budget node:b.usd=+N"
