"""How a plan is cut into segments, and which Celery objects they become."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from celery import Celery
from helpers.workers import noop_plan

from agentflow.canvas.compile import INTEGRATE, SEGMENT_MAX, Canvas
from agentflow.canvas.routing import priority_of

APP = Celery("test", broker="memory://", backend="cache+memory://")


def cut(parents, **more) -> Canvas:
    return Canvas(noop_plan(parents, **more), "run", 1, APP)


def test_a_line_is_one_chain():
    canvas = cut({"a": [], "b": ["a"], "c": ["b"]})
    assert canvas.segments == {"a": ("a", "b", "c")}
    chain = canvas.tail("a")
    assert [t.args for t in chain.tasks] == [("run", "a"), ("run", "b"), ("run", "c")]
    assert all(t.immutable for t in chain.tasks)
    assert [t.args[1] for t in canvas.tail("b").tasks] == ["b", "c"]


def test_a_long_line_is_cut_and_goes_on_by_a_chord_of_one():
    line = {f"n{i}": ([f"n{i - 1}"] if i else []) for i in range(SEGMENT_MAX + 2)}
    canvas = cut(line)
    assert [len(s) for s in canvas.segments.values()] == [SEGMENT_MAX, 2]
    (join,) = canvas.joins_of(f"n{SEGMENT_MAX - 1}")
    assert (join.parents, join.heads) == ((f"n{SEGMENT_MAX - 1}",), (f"n{SEGMENT_MAX}",))


def test_an_optional_node_ends_its_segment():
    canvas = cut({"a": [], "b": ["a"], "c": ["b"]}, optional=["b"])
    assert list(canvas.segments.values()) == [("a", "b"), ("c",)]
    assert [j.heads for j in canvas.joins_of("b")] == [("c",)]
    assert canvas.fork("b") == []


def test_a_fork_is_a_group_and_a_join_a_chord():
    canvas = cut({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]})
    assert canvas.fork("a") == ["b", "c"]
    assert sorted(t.args[1] for t in canvas.tails(["b", "c"]).tasks) == ["b", "c"]
    (join,) = canvas.joins_of("b")
    assert (join.parents, join.heads) == (("b", "c"), ("d",))
    assert canvas.body(join).args[1] == "d"


def test_joins_with_the_same_parents_share_one_chord():
    layer = {f"a{i}": [] for i in range(50)} | {f"b{i}": [f"a{j}" for j in range(50)] for i in range(50)}
    canvas = cut(layer)
    assert len(canvas.joins) == 2
    assert all(len(canvas.joins_of(node)) == 1 for node in layer)


def test_redundant_edges_are_no_edges():
    canvas = cut({"a": [], "b": ["a"], "c": ["a", "b"]})
    assert canvas.segments == {"a": ("a", "b", "c")}


def test_the_feature_ends_in_the_integration():
    canvas = cut({"a": [], "b": [], "c": ["a"]})
    (last,) = [j for j in canvas.joins.values() if INTEGRATE in j.heads]
    assert last.parents == ("b", "c")
    assert canvas.signature(INTEGRATE).options["queue"] == "agentflow.system"


@pytest.mark.parametrize("seed", range(5))
def test_every_edge_is_a_chain_a_fork_or_an_arrival_and_nothing_else_is(seed):
    source = random.Random(seed)
    nodes = [f"n{i}" for i in range(60)]
    parents = {n: source.sample(nodes[:i], min(i, source.randint(0, 3))) for i, n in enumerate(nodes)}
    optional = source.sample(nodes, 10)
    canvas = cut(parents, optional=optional)
    carried = set()
    for segment in canvas.segments.values():
        carried |= set(itertools.pairwise(segment))
    for node in nodes:
        carried |= {(node, child) for child in canvas.fork(node)}
        carried |= {(node, head) for join in canvas.joins_of(node) for head in join.heads}
    edges = {(p, n) for n, its in canvas.plan.parents.items() for p in its}
    assert carried == edges | {(sink, INTEGRATE) for sink in canvas.plan.sinks}


def test_the_longest_chain_stays_far_below_64_kb():
    line = {"n" + "x" * 60 + f"{i:02}": [] for i in range(SEGMENT_MAX)}
    names = list(line)
    canvas = cut({n: names[i - 1 : i] if i else [] for i, n in enumerate(names)})
    assert len(json.dumps(canvas.tail(names[0]))) < 32 * 1024


@pytest.mark.parametrize(
    ("priority", "rank", "expected"),
    [
        ("critical", 10, 0),
        ("critical", 1, 1),
        ("high", 10, 2),
        ("medium", 10, 4),
        ("medium", 0, 6),
        ("low", 0, 9),
    ],
)
def test_the_users_priority_goes_before_the_way_to_the_end(priority, rank, expected):
    assert priority_of(priority, rank, 10) == expected
