"""What `rollback` says."""

from __future__ import annotations

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.cli.returning import _lines
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
