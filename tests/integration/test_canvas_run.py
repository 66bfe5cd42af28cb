"""The canvas carries a run through a real worker: every edge is kept and none is added."""

from __future__ import annotations

from collections import Counter

import pytest
from helpers.wait import wait_until
from helpers.workers import DAG, noop_plan, place, stage, starts_and_ends
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow.store.events import EventLog
from agentflow.store.records import INTEGRATE


@st.composite
def dags(draw: st.DrawFn) -> dict[str, list[str]]:
    """Any DAG of two to seven nodes, redundant edges included."""
    size = draw(st.integers(2, 7))
    return {
        f"n{i}": sorted(draw(st.sets(st.sampled_from([f"n{j}" for j in range(i)])))) if i else []
        for i in range(size)
    }


@pytest.fixture(scope="module")
def theatre(redis_server, tmp_path_factory):
    """One worker with slots for everything, shared by the module's runs."""
    with stage(redis_server.client_url, tmp_path_factory.mktemp("stage")) as found:
        found.ledger.client.flushall()
        found.start(slots=64)
        yield found


_runs = iter(range(10_000))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(parents=dags())
def test_every_edge_is_kept_and_none_is_added(theatre, parents):
    number = next(_runs)
    ancestors: dict[str, set[str]] = {}
    for node, its in parents.items():
        ancestors[node] = set(its).union(*(ancestors[p] for p in its))
    free = f"free-{number}"
    theatre.submit(noop_plan(parents), free)
    for node in parents:
        # All that the node does not need is held inside its runner.
        held = {other: 3600.0 for other in parents if other != node and other not in ancestors[node]}
        theatre.submit(noop_plan(parents, seconds=held), f"hold-{number}-{node}")
    theatre.wait_closed(free)
    started, settled = starts_and_ends(theatre, free)
    for node, its in parents.items():
        for parent in its:
            assert place(started[node]) > place(settled[parent])
    for node in parents:
        run_id = f"hold-{number}-{node}"
        wait_until(lambda run=run_id, n=node: n in starts_and_ends(theatre, run)[1], timeout=20)
        theatre.ledger.control(run_id, "cancel")
    for node in parents:
        wait_until(
            lambda run=f"hold-{number}-{node}": theatre.ledger.node(run, INTEGRATE).state != "pending",
            timeout=20,
        )


def test_an_undisturbed_run_needs_no_reconciler_and_gets_nothing_resent(theatre):
    line = {f"l{i}": ([f"l{i - 1}"] if i else []) for i in range(40)}
    plan = noop_plan({**DAG, **line}, seconds={"c": 0.3}, optional=["f"])
    theatre.submit(plan, "watched")
    theatre.wait_closed("watched")
    kinds = Counter(e.kind for e in EventLog(theatre.ledger.client).read("watched", count=100_000))
    assert kinds["run.resent"] == 0
    assert kinds["node.started"] == len(plan.nodes) + 1
