"""What nodes took is measured by their settlements, and the next run of the feature starts by it."""

from __future__ import annotations

import pytest
from helpers.cli import repository
from helpers.ledgers import RUN, open_run
from helpers.workers import noop_plan, stage

from agentflow import Spec, Task, plan, runs
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.ranks import ranked
from agentflow.cli import render_plan
from agentflow.cli.planning import view_of
from agentflow.states import NodeState
from agentflow.store import keys
from agentflow.store.durations import Durations, read_durations
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE
from agentflow.workspace.inspect import project_of

OK = NodeState.SUCCEEDED


@pytest.fixture
def ledger(redis_client):
    return Ledger(redis_client)


def attempt(ledger, node, seconds, state=OK, *, run=RUN, **more):
    """One attempt that, as far as the ledger can tell, took so long."""
    taken = ledger.claim(run, node, worker="w1", ttl_ms=3000)
    assert taken.granted, taken.reason
    started = ledger.node(run, node).started_ms - int(seconds * 1000)
    ledger.client.hset(keys.node(run, node), "started_ms", started)
    return ledger.settle(run, node, taken.fence, state, **more)


def about(seconds):
    return pytest.approx(seconds, abs=5)


def test_a_settlement_notes_how_long_the_attempt_took(ledger, redis_client):
    open_run(ledger, {"a": [], "b": ["a"]}, roles={"b": "qa"})
    attempt(ledger, "a", 100)
    attempt(ledger, "b", 300)
    known = read_durations(redis_client, "p").known
    assert known == {("worker", "a"): (about(100), 1), ("qa", "b"): (about(300), 1)}
    assert 0 < redis_client.ttl(keys.durations("p")) <= keys.DURATIONS_TTL_S
    assert read_durations(redis_client, "other").known == {}


def test_the_mean_runs_and_follows_what_changes(ledger, redis_client):
    for number in range(60):
        open_run(ledger, {"a": []}, run_id=f"r{number}")
        attempt(ledger, "a", 100 if number < 30 else 200, run=f"r{number}")
        (mean, count) = read_durations(redis_client, "p").known["worker", "a"]
        if number == 29:
            assert (mean, count) == (about(100), 20)
    assert mean > 170


@pytest.mark.parametrize("why", ["failed", "waited", "reused"])
def test_only_work_that_was_done_is_measured(ledger, redis_client, why):
    open_run(ledger, {"a": []}, on_failure="continue")
    if why == "failed":
        attempt(ledger, "a", 100, NodeState.FAILED)
    elif why == "waited":
        redis_client.hset(keys.node(RUN, "a"), "pending_commit", "c")
        attempt(ledger, "a", 100)
    else:
        attempt(ledger, "a", 100, facts={"reused": "run-0/a"})
    attempt(ledger, INTEGRATE, 100)
    assert not redis_client.exists(keys.durations("p"))


def test_a_project_keeps_a_bounded_number_of_names(ledger, redis_client):
    old = {f"worker|n{i}": "5.0 1" for i in range(keys.DURATIONS_MAX)}
    redis_client.hset(keys.durations("p"), mapping=old)
    open_run(ledger, {"a": [], "b": []})
    attempt(ledger, "a", 100)
    attempt(ledger, "b", 100)
    assert redis_client.hlen(keys.durations("p")) == keys.DURATIONS_MAX


def test_opening_a_run_keeps_the_measurements_of_its_project(ledger, redis_client):
    redis_client.hset(keys.durations("p"), "worker|a", "5.0 1")
    redis_client.expire(keys.durations("p"), 60)
    open_run(ledger, {"a": []})
    assert redis_client.ttl(keys.durations("p")) > 60


#: Three short nodes in a row, and one that takes long: counted in nodes, the row goes first.
SHAPE = {"a1": [], "a2": ["a1"], "a3": ["a2"], "long": []}
SECONDS = {"a1": 10, "a2": 10, "a3": 10, "long": 600}


def play(ledger, made, run):
    """The order in which the nodes of a run of one slot start; each takes its `SECONDS`."""
    open_in_ledger(ledger, run, made, project="p", repo="", root="")
    order, messages = [], sorted((n.order, n.id) for n in made.nodes if not n.needs)
    for _, node in messages:
        taken = ledger.claim(run, node, worker="w1", ttl_ms=3000)
        order += [node] if taken.granted else []
    while len(order) < len(made.nodes):
        node = order[-1]
        fence = ledger.node(run, node).fence
        ledger.client.hincrby(keys.node(run, node), "started_ms", -SECONDS[node] * 1000)
        answer = ledger.settle(run, node, fence, OK)
        for name in (*answer.ready, *answer.woken):
            if ledger.claim(run, name, worker="w1", ttl_ms=3000).granted:
                order.append(name)
    return order


def test_the_second_run_of_a_feature_starts_the_long_way_first(ledger, redis_client):
    made = noop_plan(SHAPE).model_copy(update={"max_concurrent": 1})
    made = made.model_validate({**{n: getattr(made, n) for n in type(made).model_fields}})
    assert play(ledger, made, "first")[0] == "a1"
    again = ranked(made, read_durations(redis_client, "p"))
    assert play(ledger, again, "second") == ["long", "a1", "a2", "a3"]


def test_a_submitter_weighs_its_plan_with_what_was_measured(redis_url, tmp_path):
    place = repository(tmp_path / "project", {"x.txt": "x\n"})
    tasks = [Task(id=name, role="implementer", needs=needs, prompt="do it") for name, needs in SHAPE.items()]
    with stage(redis_url, tmp_path / "home") as found:
        (tmp_path / "home").mkdir(exist_ok=True)
        spec = plan(Spec(feature="two ways", tasks=tuple(tasks)), config=found.config).spec

        def submit():
            run = runs.submit(spec, config=found.config, repo=place)
            ranks = {n["id"]: n["rank"] for n in found.ledger.plan(run)["nodes"]}
            return run, ranks

        run, ranks = submit()
        assert ranks == {"a1": 3, "a2": 2, "a3": 1, "long": 1}
        for node, seconds in SECONDS.items():
            attempt(found.ledger, node, seconds, run=run)
        _, ranks = submit()
        assert ranks == {"a1": about(30), "a2": about(20), "a3": about(10), "long": about(600)}


def test_what_is_sent_at_once_is_sent_by_rank(redis_url, tmp_path):
    shape = {"s": [], "t": [], "b": ["t"], "c": ["t"], "d": ["c"], "x": ["b", "d"], "y": ["b", "d"]}
    known = {("implementer", node): (1.0, 1) for node in shape} | {("implementer", "y"): (9.0, 1)}
    with stage(redis_url, tmp_path) as found:
        canvas = Canvas(ranked(noop_plan(shape), Durations(known)), RUN, 1, found.app)
        assert canvas.roots() == ["t", "s"]
        assert canvas.fork("t") == ["c", "b"]
        (join,) = [join for join in canvas.joins.values() if join.parents == ("b", "d")]
        assert join.heads == ("y", "x")


def test_a_plan_shows_the_critical_path_as_it_was_measured(redis_url, tmp_path, monkeypatch):
    place = repository(tmp_path / "project", {"x.txt": "x\n"})
    monkeypatch.chdir(place)
    tasks = [Task(id=name, role="implementer", needs=needs, prompt="do it") for name, needs in SHAPE.items()]
    with stage(redis_url, tmp_path / "home") as found:
        spec = plan(Spec(feature="two ways", tasks=tuple(tasks)), config=found.config).spec
        assert view_of(spec, found.config).critical_path == ("a1", "a2", "a3")
        known = {f"implementer|{node}": f"{seconds * 1000}.0 1" for node, seconds in SECONDS.items()}
        found.ledger.client.hset(keys.durations(project_of(place)), mapping=known)
        found.ledger.client.expire(keys.durations(project_of(place)), 60)
        view = view_of(spec, found.config)
        assert (view.critical_path, view.critical_s) == (("long",), 600.0)
        assert "critical path (1 node, 10:00 as measured here)" in render_plan.text(view)
