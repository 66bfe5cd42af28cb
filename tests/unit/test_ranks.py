"""Ranks from measured durations: weights, fallbacks, and what they may not do to user priorities."""

from __future__ import annotations

import pytest

from agentflow.canvas.plan import PRIORITY_ORDER, Plan, PlanNode
from agentflow.canvas.ranks import RANK_MAX, ranked
from agentflow.store.durations import Durations

#: Three short nodes in a row beside one long node.
NODES = (
    PlanNode(id="a1", role="backend", rank=3),
    PlanNode(id="a2", role="backend", needs=("a1",), rank=2),
    PlanNode(id="a3", role="qa", needs=("a2",), rank=1),
    PlanNode(id="long", role="docs", rank=1),
)
PLAN = Plan(feature="f", nodes=NODES)


def test_the_longest_way_in_seconds_is_the_rank():
    known = {
        ("backend", "a1"): (1.0, 3),
        ("backend", "a2"): (2.0, 1),
        ("qa", "a3"): (4.0, 1),
        ("docs", "long"): (90.0, 1),
    }
    found = ranked(PLAN, Durations(known))
    assert {n.id: n.rank for n in found.nodes} == {"a1": 7.0, "a2": 6.0, "a3": 4.0, "long": 90.0}
    assert min(found.nodes, key=lambda n: n.order).id == "long"
    assert [n.message_priority for n in found.nodes] == [6, 6, 6, 4]


def test_a_plan_of_which_nothing_is_known_stays_as_it_is():
    assert ranked(PLAN, Durations()) is PLAN


def test_what_was_computed_from_the_old_ranks_is_not_kept():
    assert PLAN.by_id["long"].rank == 1
    found = ranked(PLAN, Durations({("docs", "long"): (90.0, 1)}))
    assert found.by_id["long"].rank == 90.0
    assert found.parents == PLAN.parents


@pytest.mark.parametrize(
    ("role", "task", "seconds"),
    [
        ("backend", "api", 10.0),
        # The mean of its role, by how many were measured.
        ("backend", "other", 25.0),
        # The mean of all.
        ("qa", "tests", 30.0),
    ],
)
def test_the_nearest_measurement_stands_for_what_is_not_known(role, task, seconds):
    known = {("backend", "api"): (10.0, 1), ("backend", "db"): (30.0, 3), ("docs", "readme"): (35.0, 4)}
    assert Durations(known).expected_s(role, task) == seconds


def test_without_any_measurement_a_node_weighs_one():
    assert Durations().expected_s("backend", "api") == 1.0


def test_no_way_however_long_reaches_into_another_priority():
    nodes = tuple(
        PlanNode(id=f"n{i}", role="backend", needs=(f"n{i - 1}",) if i else (), priority="low")
        for i in range(300)
    )
    plan = Plan(feature="f", nodes=(*nodes, PlanNode(id="other", role="qa")))
    found = ranked(plan, Durations({("backend", "x"): (7200.0, 1), ("qa", "other"): (1.0, 1)}))
    assert found.nodes[0].rank == pytest.approx(RANK_MAX)
    assert all(found.by_id["other"].order < n.order for n in found.nodes if n.priority == "low")
    assert all(round(n.order / 1e6) == PRIORITY_ORDER[n.priority] for n in found.nodes)
    ranks = [n.rank for n in found.nodes if n.priority == "low"]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == len(ranks)
