"""What `rollback` says."""

from __future__ import annotations

import pytest

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.cli.returning import _lines
from agentflow.errors import UsageError
from agentflow.recovery.checkpoints import going_back
from agentflow.runs.rollback import RolledBack
from agentflow.states import NodeState
from agentflow.store.records import NodeRecord

PLAIN = RolledBack("run-1", "start", "c" * 40, "t" * 40, "refs/agentflow/x", (), ())


def told(**more: object) -> str:
    fields = {name: getattr(PLAIN, name) for name in PLAIN.__dataclass_fields__}
    return "\n".join(_lines(RolledBack(**(fields | more))))


def test_it_says_where_the_branch_is_and_what_can_be_typed() -> None:
    said = told(branch="letters", branch_at="b" * 40, undone=("a", "b"), kept=("c",))
    assert "the branch letters is at bbbbbbbbbbbb again" in said
    assert "undone: a, b" in said
    assert "kept: c" in said
    assert "git worktree add --detach ../before refs/agentflow/x" in said
    assert said.endswith("next: agentflow resume run-1")


def test_a_branch_that_is_gone_and_many_nodes() -> None:
    said = told(branch="letters", undone=tuple(f"n{i}" for i in range(12)))
    assert "the branch letters is gone again" in said
    assert "n9 and 2 more" in said


def test_a_run_without_a_repository_has_nothing_to_show() -> None:
    assert "worktree" not in told(ref="", commit="", tree="")


def test_a_node_that_is_called_start_is_meant_by_its_name() -> None:
    plan = Plan(
        feature="x", nodes=(PlanNode(id="start", role="r"), PlanNode(id="b", role="r", needs=("start",)))
    )
    nodes = {
        "start": NodeRecord("start", "r", NodeState.SUCCEEDED),
        "b": NodeRecord("b", "r", NodeState.SUCCEEDED, parents=("start",)),
    }
    found = {to: going_back(plan, nodes, to, keep_successful=False) for to in ("start", "")}
    assert (found["start"].holds, found["start"].undone) == ({"start"}, {"b"})
    assert (found[""].name, found[""].undone) == ("start", {"start", "b"})


def line() -> tuple[Plan, dict[str, NodeRecord]]:
    """Three stages: `a`; `t`, which failed, beside `u`; and `d`, which was skipped."""
    plan = Plan(
        feature="x",
        nodes=(
            PlanNode(id="a", role="r", stage="build"),
            PlanNode(id="t", role="r", needs=("a",), stage="check"),
            PlanNode(id="u", role="r", needs=("a",), stage="check"),
            PlanNode(id="d", role="r", needs=("t", "u"), stage="tell"),
        ),
    )
    found = {"a": "succeeded", "t": "failed", "u": "succeeded", "d": "skipped"}
    return plan, {
        node.id: NodeRecord(node.id, "r", NodeState(found[node.id]), parents=node.needs)
        for node in plan.nodes
    }


@pytest.mark.parametrize(
    ("to", "lacking"),
    [
        ("stage:check", "t has not succeeded (failed)"),
        ("check", "t has not succeeded (failed)"),
        ("stage:tell", "t, d have not succeeded (failed, skipped)"),
        ("t", "it has not succeeded (failed)"),
        ("before:d", "t has not succeeded (failed)"),
    ],
)
def test_what_is_not_whole_is_no_checkpoint(to: str, lacking: str) -> None:
    with pytest.raises(UsageError, match="no checkpoint of this run") as refused:
        going_back(*line(), to, keep_successful=False)
    assert refused.value.code == "AF-ROLLBACK-001"
    assert lacking in refused.value.what


@pytest.mark.parametrize(
    ("to", "undone"),
    [("build", {"u"}), ("u", set()), ("before:t", {"u"}), ("before:u", {"u"}), ("", {"a", "u"})],
)
def test_what_is_whole_can_be_gone_back_to_in_a_run_that_failed(to: str, undone: set[str]) -> None:
    assert going_back(*line(), to, keep_successful=False).undone == undone


def test_before_a_node_is_there_also_when_the_node_was_undone() -> None:
    plan, nodes = line()
    nodes |= {name: NodeRecord(name, "r", NodeState.CANCELLED, parents=("a",)) for name in "tu"}
    back = going_back(plan, nodes, "before:u", keep_successful=True)
    assert (back.name, back.holds, back.undone) == ("before:u", {"a"}, set())
