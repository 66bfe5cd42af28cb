"""How a worker comes, serves, is lost and goes: each with real processes."""

from __future__ import annotations

import signal

import pytest
from helpers.ledgers import states, validate_run
from helpers.redis_server import fragile_server
from helpers.wait import wait_until
from helpers.workers import noop_plan, stage, starts_and_ends

from agentflow.canvas.plan import make_plan
from agentflow.config import load_config
from agentflow.spec.models import Spec, Task
from agentflow.store import keys


@pytest.fixture
def scene(redis_url, tmp_path):
    with stage(redis_url, tmp_path, {"AGENTFLOW_GRACE_S": "0.2"}) as found:
        yield found


def running_on(scene, node="a"):
    record = scene.ledger.node("run-1", node)
    return record.worker if record.state == "running" else ""


def test_a_leaving_worker_gives_its_attempts_back_and_nothing_is_counted(scene):
    first = scene.start("first")
    scene.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"a": 2.0}))
    wait_until(lambda: running_on(scene) == first.name)
    first.stop()
    assert first.process.returncode == 0
    assert [w.name for w in scene.ledger.workers()] == []
    node = scene.ledger.node("run-1", "a")
    assert (node.state, node.failures, node.losses) == ("ready", 0, 0)
    scene.start("second")
    scene.wait_closed()
    assert scene.ledger.node("run-1", "a").attempt == 2
    validate_run(scene.ledger, "run-1")


def test_a_killed_workers_node_runs_on_another_one(scene):
    one, two = scene.start("one"), scene.start("two")
    scene.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"a": 3.0}))
    name = wait_until(lambda: running_on(scene))
    doomed, other = (one, two) if name == one.name else (two, one)
    doomed.kill()
    wait_until(lambda: running_on(scene) == other.name, timeout=10)
    scene.wait_closed()
    node = scene.ledger.node("run-1", "a")
    assert (node.state, node.losses, node.failures) == ("succeeded", 1, 0)
    starts_and_ends(scene, "run-1")


def test_a_worker_that_comes_back_from_a_stop_is_refused(scene):
    one, two = scene.start("one"), scene.start("two")
    scene.submit(noop_plan({"a": []}, seconds=4.0))
    name = wait_until(lambda: running_on(scene))
    stopped, other = (one, two) if name == one.name else (two, one)
    stopped.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: running_on(scene) == other.name, timeout=10)
    stopped.process.send_signal(signal.SIGCONT)
    scene.wait_closed()
    record = scene.ledger.node("run-1", "a")
    assert (record.worker, record.attempt) == (other.name, 2)
    starts_and_ends(scene, "run-1")


def test_cancel_ends_a_running_node_within_moments(scene):
    scene.start(slots=2)
    scene.submit(noop_plan({"a": [], "b": ["a"], "c": []}, seconds=3600.0))
    wait_until(lambda: running_on(scene, "a") and running_on(scene, "c"))
    scene.ledger.control("run-1", "cancel", "enough")
    scene.wait_closed(seconds=10)
    assert scene.ledger.run("run-1").state == "cancelled"
    assert set(states(scene.ledger, "run-1").values()) == {"cancelled", "failed"}


def test_a_run_longer_than_its_timeout_is_cancelled(scene):
    scene.start()
    plan = noop_plan({"a": []}, seconds=3600.0).model_copy(update={"timeout_s": 0.5})
    scene.submit(plan)
    scene.wait_closed(seconds=15)
    assert scene.ledger.run("run-1").state == "failed"
    assert "timeout" in scene.ledger.run("run-1").reason


def test_a_nodes_deadline_fails_it_after_its_retries(scene):
    scene.start()
    plan = noop_plan({"a": []}, seconds=3600.0)
    node = plan.nodes[0].model_copy(update={"timeout_s": 0.2, "retries": 1})
    scene.submit(plan.model_copy(update={"nodes": (node,)}))
    scene.wait_closed(seconds=20)
    record = scene.ledger.node("run-1", "a")
    assert (record.state, record.attempt) == ("failed", 2)
    assert "deadline" in record.reason


def test_a_worker_learns_a_role_that_a_run_brings_along(scene):
    scene.start()
    plan = noop_plan({"a": []})
    node = plan.nodes[0].model_copy(update={"role": "mobile"})
    scene.submit(plan.model_copy(update={"nodes": (node,)}))
    scene.wait_closed(seconds=20)
    assert states(scene.ledger, "run-1")["a"] == "succeeded"


def test_the_run_limit_holds_with_many_slots(scene):
    scene.start(slots=16)
    plan = noop_plan({f"n{i}": [] for i in range(12)}, seconds=0.05).model_copy(update={"max_concurrent": 3})
    scene.submit(plan)
    most = 0
    while not scene.ledger.is_closed("run-1"):
        most = max(most, scene.ledger.run("run-1").running)
    assert 1 <= most <= 3
    assert set(states(scene.ledger, "run-1").values()) == {"succeeded"}


def test_a_worker_of_another_schema_does_not_serve(scene, redis_client):
    redis_client.set(keys.SCHEMA, "999")
    worker = scene.start(wait=False)
    assert worker.process.wait(30) != 0
    assert "schema 999" in worker.log.read_text()


def test_a_worker_waits_for_a_redis_that_is_not_up_yet(tmp_path):
    with fragile_server() as server, stage(server.client_url, tmp_path) as found:
        server.kill()
        worker = found.start(wait=False)
        wait_until(lambda: "AF-INFRA-001" in worker.log.read_text(), timeout=20)
        assert worker.process.poll() is None
        server.start()
        wait_until(lambda: [w.name for w in found.ledger.workers()] == [worker.name], timeout=20)


@pytest.mark.parametrize("options", [(), ("-Q", "mobile")], ids=["all queues", "its queue"])
def test_a_role_by_configuration_alone_is_served_by_a_plain_worker_without_it(scene, tmp_path, options):
    # Only the submitter has the configuration: instructions and runner travel in the plan.
    there = tmp_path / "submitter"
    there.mkdir()
    (there / "agentflow.yaml").write_text(
        "roles: {mobile: {aliases: [app], instructions: You build apps., runner: noop}}\n"
    )
    config = load_config(there, environ=scene.env)
    spec = Spec(feature="app", tasks=(Task(id="a", role="app"),))
    plan = make_plan(spec, config)
    assert (plan.nodes[0].role, plan.nodes[0].instructions) == ("mobile", "You build apps.")
    assert "mobile" not in scene.config.roles
    scene.start(options=options)
    scene.submit(plan)
    scene.wait_closed(seconds=20)
    assert states(scene.ledger, "run-1")["a"] == "succeeded"
    registered = scene.app.control.inspect(timeout=5).registered()
    assert all("agentflow.role.mobile" in tasks for tasks in registered.values())
