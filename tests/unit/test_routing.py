"""Where a node's message goes, and what an exclusive run locks."""

from __future__ import annotations

import pytest

from agentflow.canvas.opening import exclusive_locks, node_specs
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.canvas.routing import SYSTEM_QUEUE, decide_queue, feature_queue, queue_of


@pytest.mark.parametrize(
    ("asked", "by", "roles", "queue"),
    [
        (None, "role", {}, "tester"),
        (None, "role", {"tester": "slow"}, "slow"),
        (None, "feature", {}, "feature.user-log-in"),
        (None, "feature", {"tester": "slow"}, "slow"),
        ("mine", "feature", {"tester": "slow"}, "mine"),
    ],
)
def test_the_nearest_word_decides_the_queue(asked, by, roles, queue):
    found = decide_queue("tester", asked=asked, by=by, roles=roles, feature="User: log in!")
    assert queue_of("tester", found) == queue


@pytest.mark.parametrize(
    ("feature", "queue"),
    [
        ("Ünïcode / and more", "feature.n-code-and-more"),
        ("日本", "feature.feature"),
        ("x" * 80, "feature." + "x" * 40),
    ],
)
def test_a_feature_makes_a_queue_that_any_broker_takes(feature, queue):
    assert feature_queue(feature) == queue


def test_the_ledger_knows_the_queue_of_every_node():
    plan = Plan(
        feature="f", nodes=(PlanNode(id="a", role="tester"), PlanNode(id="b", role="docs", queue="mine"))
    )
    assert [spec.queue for spec in node_specs(plan)] == ["tester", "mine", SYSTEM_QUEUE]


@pytest.mark.parametrize(
    ("nodes", "paths"),
    [
        ([{"artifacts": ("src/a.py", "src/b/**")}, {"artifacts": ("src/b/x.py",)}], ["src/a.py", "src/b"]),
        ([{"artifacts": ("docs/*.md",)}, {"output": "report"}], ["docs"]),
        ([{"artifacts": ("docs/*.md",)}, {}], [""]),
        ([{"output": "report"}], []),
    ],
)
def test_an_exclusive_run_locks_all_that_its_nodes_may_write(nodes, paths):
    made = tuple(PlanNode(id=f"n{i}", role="tester", **node) for i, node in enumerate(nodes))
    assert [lock.path for lock in exclusive_locks(Plan(feature="f", nodes=made))] == sorted(paths)
