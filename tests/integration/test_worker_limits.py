"""What a worker takes and when it leaves of itself: names, queues, memory, load, shards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from helpers.ledgers import states
from helpers.wait import wait_until
from helpers.workers import ROOT, noop_plan, stage

from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan
from agentflow.store import keys
from agentflow.store.events import EventLog
from agentflow.store.fleet import Fleet
from agentflow.store.orders import OrderBook


@pytest.fixture
def scene(redis_url, tmp_path):
    with stage(redis_url, tmp_path, {"AGENTFLOW_GRACE_S": "0.2"}) as found:
        yield found


def changed(plan: Plan, **fields: object) -> Plan:
    """The plan with these fields in every node."""
    return plan.model_copy(update={"nodes": tuple(n.model_copy(update=fields) for n in plan.nodes)})


def kinds(scene) -> list[str]:
    return [entry["kind"] for entry in reversed(scene.ledger.system_events())]


def test_a_second_worker_of_the_same_name_is_refused(scene):
    first = scene.start("twin")
    second = scene.start("twin", wait=False)
    assert second.process.wait(30) == 4
    said = second.log.read_text()
    assert "there is a worker called twin@test already" in said
    assert f"process {first.process.pid}" in said
    assert "-n NAME@HOST" in said
    assert first.process.poll() is None
    first.kill()
    third = scene.start("twin")
    assert [w.pid for w in scene.ledger.workers()] == [third.process.pid]


def test_a_worker_whose_name_was_taken_meanwhile_leaves(scene):
    stopped = scene.start("twin")
    stopped.process.send_signal(signal.SIGSTOP)
    second = scene.start("twin")
    stopped.process.send_signal(signal.SIGCONT)
    assert stopped.process.wait(20) == 0
    assert [w.pid for w in scene.ledger.workers()] == [second.process.pid]
    assert second.process.poll() is None


def test_a_worker_above_its_memory_ceiling_starts_afresh(scene):
    worker = scene.start(env={"AGENTFLOW_WORKER_MAX_MEMORY_MB": "1"})
    (before,) = scene.ledger.workers()
    scene.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"b": 1.5}))

    def is_new():
        found = scene.ledger.workers()
        return found and found[0].started_ms > before.started_ms

    wait_until(is_new, timeout=30)
    (after,) = scene.ledger.workers()
    assert (after.name, after.pid) == (before.name, before.pid)
    assert worker.process.poll() is None
    scene.wait_closed()
    nodes = scene.ledger.nodes("run-1")
    assert all(n.attempt == 1 and not n.losses for n in nodes.values()), "it finished what it had first"
    left = [e for e in scene.ledger.system_events() if e["kind"] == "worker.left"]
    assert "above the ceiling of 1 MB" in left[-1]["reason"]
    assert before.memory_mb > 1


def test_on_a_loaded_host_a_worker_takes_one_node_at_a_time(scene):
    scene.start(env={"AGENTFLOW_WORKER_HOST_MEMORY_PERCENT": "1"})
    wait_until(lambda: scene.ledger.workers()[0].state == "held")
    (worker,) = scene.ledger.workers()
    assert "memory of the machine" in worker.reason
    assert (worker.slots, worker.offered) == (4, 1)
    scene.submit(noop_plan({f"n{i}": [] for i in range(4)}, seconds=0.3))
    most = 0
    while not scene.ledger.is_closed("run-1"):
        most = max(most, sum(n.state == "running" for n in scene.ledger.nodes("run-1").values()))
    assert most == 1
    assert set(states(scene.ledger, "run-1").values()) == {"succeeded"}
    assert "worker.held" in kinds(scene)


def test_a_custom_queue_carries_any_role(scene):
    scene.start(options=["-Q", "gpu"])
    plan = changed(noop_plan({"a": []}), role="mobile", queue="gpu")
    scene.submit(plan)
    scene.wait_closed(seconds=20)
    assert states(scene.ledger, "run-1")["a"] == "succeeded"
    (worker,) = scene.ledger.workers()
    assert (worker.queues, worker.every) == (("gpu",), False)


def test_a_worker_without_a_choice_serves_the_queues_that_runs_ask_for(scene):
    scene.start()
    scene.submit(changed(noop_plan({"a": []}), queue="gpu"))
    scene.wait_closed(seconds=20)
    assert states(scene.ledger, "run-1")["a"] == "succeeded"


def test_aliases_stand_for_queues(scene):
    scene.start(options=["-Q", "developer,documentation"])
    (worker,) = scene.ledger.workers()
    assert worker.queues == ("docs", "implementer")
    scene.submit(noop_plan({"a": []}))
    scene.wait_closed(seconds=20)


def test_a_plain_worker_serves_the_configured_queues(scene):
    scene.start(env={"AGENTFLOW_WORKER_QUEUES": "tester,gpu"})
    (worker,) = scene.ledger.workers()
    assert worker.queues == ("gpu", "tester")


def shards(names: str, seconds: float) -> Plan:
    """A chain of three for each shard."""
    parents = {f"{x}{i}": [f"{x}{i - 1}"] if i else [] for i in range(3) for x in names}
    plan = noop_plan(parents, seconds=seconds)
    return plan.model_copy(
        update={"nodes": tuple(n.model_copy(update={"shard": n.id[0]}) for n in plan.nodes)}
    )


def test_a_shard_stays_with_its_worker(scene, redis_client):
    # What lies in a worker's own queue for longer than a beat is for all: here no beat comes so soon.
    slow = {"AGENTFLOW_RENEW_MS": "10000", "AGENTFLOW_LEASE_TTL_MS": "30000"}
    scene.start("one", slots=1, env=slow)
    scene.start("two", slots=1, env=slow)
    scene.submit(shards("abcd", 0.2))
    scene.wait_closed()
    nodes = scene.ledger.nodes("run-1")
    at = {x: {nodes[f"{x}{i}"].worker for i in range(3)} for x in "abcd"}
    assert {len(workers) for workers in at.values()} == {1}, at
    assert set.union(*at.values()) == {"one@test", "two@test"}
    assert redis_client.smembers(keys.NEAR) == {"one@test", "two@test"}
    for worker in scene.workers:
        worker.stop()
    assert not redis_client.keys("*agentflow.worker.*")
    assert not redis_client.exists(keys.NEAR)


def test_a_dead_workers_shards_go_on_elsewhere(scene):
    one, two = scene.start("one", slots=1), scene.start("two", slots=1)
    scene.submit(shards("ab", 1.0))
    wait_until(lambda: scene.ledger.node("run-1", "a1").state == "running", timeout=20)
    name = scene.ledger.node("run-1", "a1").worker
    (one if name == one.name else two).kill()
    scene.wait_closed(seconds=40)
    assert set(states(scene.ledger, "run-1").values()) == {"succeeded"}


def test_what_a_busy_worker_cannot_take_is_handed_over(scene, redis_client):
    scene.start("one", slots=1)
    scene.submit(shards("a", 0.1))
    scene.wait_closed()
    scene.submit(noop_plan({"long": []}, seconds=3600.0), "run-2")
    wait_until(lambda: scene.ledger.node("run-2", "long").state == "running")
    own = keys.NEAR_QUEUE + "one@test"
    plan = noop_plan({"x": []})
    open_in_ledger(scene.ledger, "run-3", plan, project="", repo="", root="")
    canvas = Canvas(plan, "run-3", 1, scene.app)
    chords.arm(canvas)
    canvas.signature("x").set(queue=own).apply_async()
    scene.start("two", slots=1)
    scene.wait_closed("run-3", seconds=20)
    assert scene.ledger.node("run-3", "x").worker == "two@test"
    assert Fleet(redis_client).queue_lengths([own]) == {own: 0}
    assert "run.resent" not in {e.kind for e in EventLog(redis_client).read("run-3")}


def test_a_dismissed_worker_finishes_first(scene):
    worker = scene.start(env={"AGENTFLOW_GRACE_S": "0"})
    scene.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"a": 2.0}))
    wait_until(lambda: scene.ledger.node("run-1", "a").state == "running")
    OrderBook(scene.ledger.client).dismiss(worker.name, "enough")
    wait_until(lambda: [w.state for w in scene.ledger.workers()] == ["draining"])
    assert worker.process.wait(20) == 0
    node = scene.ledger.node("run-1", "a")
    assert (node.state, node.attempt) == ("succeeded", 1)
    assert scene.ledger.node("run-1", "b").state == "ready"
    assert OrderBook(scene.ledger.client).read().leaving == ()


def test_agentflow_worker_becomes_a_celery_worker(scene):
    log = scene.home / "typed.log"
    argv = ["-m", "agentflow.cli.main", "worker", "--name", "t1", "--slots", "3", "--roles", "developer"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *argv, "--redis", scene.env["AGENTFLOW_REDIS_URL"]],
            cwd=scene.home,
            env={**os.environ, **scene.env, "AGENTFLOW_REDIS_URL": "", "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=out,
        )
    try:
        (found,) = wait_until(scene.ledger.workers, timeout=30)
        assert (found.pid, found.slots, found.queues) == (process.pid, 3, ("implementer",))
        assert found.name.startswith("t1@")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert scene.ledger.workers() == []
    finally:
        process.kill()
