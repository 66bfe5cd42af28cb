"""How runs end, are resumed, and are given up when nobody can end them."""

from __future__ import annotations

import pytest
from helpers.cli import git, repository
from helpers.ledgers import RUN, open_run, states
from helpers.wait import wait_until
from helpers.workers import noop_plan, stage

from agentflow import Spec, Task, plan, runs
from agentflow.canvas.opening import open_in_ledger
from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE
from agentflow.tasks.context import Context
from agentflow.tasks.maintenance import Reconciler


def end(ledger: Ledger, node: str, state: NodeState = NodeState.SUCCEEDED) -> None:
    taken = ledger.claim(RUN, node, worker="w1", ttl_ms=3000)
    assert taken.granted
    assert ledger.settle(RUN, node, taken.fence, state).head[0] == "settled"


@pytest.fixture
def ledger(redis_client):
    return Ledger(redis_client)


@pytest.fixture
def leading(redis_url, tmp_path):
    """A ledger with one open run, and the reconciler that looks after it."""
    with stage(redis_url, tmp_path) as found:
        plan = noop_plan({"a": []}).model_copy(update={"timeout_s": 60.0})
        open_in_ledger(found.ledger, RUN, plan, project="", repo="", root="")
        yield found.ledger, Reconciler(Context(found.config, found.app), "me")


def test_an_integration_whose_workers_keep_dying_ends_the_run(leading):
    ledger, reconciler = leading
    end(ledger, "a")
    taken = ledger.claim(RUN, INTEGRATE, worker="w1", ttl_ms=3000)
    ledger.expire(RUN, INTEGRATE, taken.fence, max_losses=1)
    reconciler.scan()
    run = ledger.run(RUN)
    assert run.state is RunState.FAILED
    assert "worker died" in run.reason


def test_a_resumed_run_has_its_whole_timeout_again(leading, redis_client):
    ledger, reconciler = leading
    redis_client.hset(keys.run(RUN), mapping={"opened_ms": 1, "since_ms": 1})
    reconciler.scan()
    assert ledger.run(RUN).state is RunState.CANCELLING
    end(ledger, INTEGRATE, NodeState.FAILED)
    ledger.close(RUN, RunState.FAILED)
    ledger.reopen(RUN)
    reconciler.scan()
    assert ledger.run(RUN).state is RunState.OPEN


def test_a_lease_on_nothing_is_dropped(ledger, redis_client):
    redis_client.zadd(keys.LEASES, {"gone|a|1": 1})
    assert ledger.expire("gone", "a", 1, max_losses=10).head[0] == "superseded"
    assert ledger.leases() == {}


def test_on_a_moved_target_only_the_integration_runs_again(ledger):
    open_run(ledger, {"a": [], "b": []}, optional=["b"])
    end(ledger, "a")
    end(ledger, "b", NodeState.FAILED)
    end(ledger, INTEGRATE)
    ledger.close(RUN, RunState.READY_TO_LAND)
    answer = ledger.reopen(RUN, onto="c" * 40)
    assert answer is not None
    assert answer.ready == (INTEGRATE,)
    assert states(ledger) == {"a": "succeeded", "b": "failed", INTEGRATE: "ready"}


def test_work_that_waited_for_a_lock_and_then_clashes_is_done_again_on_top(redis_url, tmp_path):
    place = repository(tmp_path / "project", {"shared.txt": "first\n"})
    go = tmp_path / "go"
    waits = f"while [ ! -e {go} ]; do sleep 0.02; done; echo owner >> shared.txt"
    common = {"role": "implementer", "acceptance": ["test -f shared.txt"]}
    spec = Spec(
        feature="two lines",
        tasks=(
            Task(id="owner", artifacts=["shared.txt"], runner={"command": ["sh", "-c", waits]}, **common),
            Task(id="free", runner={"command": ["sh", "-c", "echo free >> shared.txt"]}, **common),
        ),
    )
    with stage(redis_url, tmp_path / "home") as found:
        (tmp_path / "home").mkdir(exist_ok=True)
        found.start()
        run = runs.submit(plan(spec, config=found.config).spec, config=found.config, repo=place)
        wait_until(lambda: found.ledger.node(run, "owner").state is NodeState.RUNNING, timeout=20)
        wait_until(lambda: found.ledger.node(run, "free").state is NodeState.PARKED, timeout=20)
        go.touch()
        found.wait_closed(run)
        result = runs.finish(run, config=found.config)
        assert (result.state, result.reason) == ("landed", "")
        assert found.ledger.node(run, "free").conflicts == 1
        assert git(place, "show", f"{result.branch}:shared.txt") == "first\nowner\nfree\n"


def test_the_integration_says_what_it_waits_for_when_the_ends_of_the_dag_were_skipped(ledger):
    open_run(ledger, {"a": [], "slow": [], "z": ["a", "slow"]})
    end(ledger, "a", NodeState.FAILED)
    assert states(ledger)["z"] == "skipped"
    assert ledger.why(RUN, INTEGRATE) == "waits for slow (ready)"


def test_a_run_that_cannot_be_read_does_not_keep_the_others_waiting(leading, redis_client):
    ledger, reconciler = leading
    open_run(ledger, {"x": []}, run_id="broken")
    redis_client.set(keys.part("broken", "plan"), "{")
    redis_client.sadd(keys.OPEN, "absent")
    for run in (RUN, "broken"):
        redis_client.zadd(keys.part(run, "ready"), {"a" if run == RUN else "x": 1})
    for _ in range(3):
        scan(reconciler)
    assert [e.reason for e in EventLog(redis_client).read(RUN) if e.kind == "run.resent"] == ["a"]


def scan(reconciler: Reconciler) -> None:
    """One scan that is not put off for the cost of the last."""
    reconciler._next_look = 0.0
    reconciler.scan()
