"""The fleet where orders meet workers that start, wait or are gone, and a Redis that is full."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext

import psutil
import pytest
from chaos import poison
from helpers.crews import Crewed, crewed
from helpers.ledgers import states
from helpers.wait import wait_until
from helpers.workers import noop_plan

from agentflow import fleet, host
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.local import need, service
from agentflow.local.control import Paths
from agentflow.local.crew import Crew
from agentflow.runs import kept
from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.client import connect
from agentflow.store.fleet import Fleet
from agentflow.store.orders import OrderBook
from agentflow.store.records import INTEGRATE


@pytest.fixture
def crew(redis_url, tmp_path, monkeypatch):
    with crewed(redis_url, tmp_path, monkeypatch) as found:
        yield found


@contextmanager
def full(client):
    """A Redis that has reached its maxmemory."""
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


def register(crew: Crewed, name: str = "w@elsewhere", **facts):
    """A signature on the register, of no process."""
    told = {"state": "idle", "place": "elsewhere", "started_ms": 1, "born": "1", **facts}
    Fleet(crew.ledger.client).register(
        name, pid=int(told.pop("pid", 1)), host="elsewhere", slots=1, roles=[], busy=0,
        now_ms=crew.ledger.now_ms(), facts=told,
    )  # fmt: skip


def wide(count, seconds=3600.0):
    return noop_plan({f"n{i}": [] for i in range(count)}, seconds=seconds)


# -- drain and kill --------------------------------------------------------------------------------


def test_a_drain_does_not_wait_for_a_worker_that_waits_for_its_end(crew: Crewed):
    register(crew, state="waiting")
    assert fleet.drain(crew.config, timeout_s=0.3).status == "drained"


def test_a_successor_of_the_same_name_is_another_process(crew: Crewed):
    """systemd starts the next one before the others have left."""
    register(crew)
    told = []

    def restart(line: str) -> None:
        told.append(line)
        register(crew, state="waiting", pid=2, started_ms=2)

    done = fleet.drain(crew.config, timeout_s=5, tell=restart)
    assert (done.status, done.workers_killed, len(told)) == ("drained", 1, 1)


def test_kill_ends_those_that_are_starting(crew: Crewed):
    fleet.spawn(crew.config, 1, slots=1)
    assert fleet.kill(crew.config).status == "killed"
    wait_until(lambda: not [p for p in crew.processes() if "celery" in p.cmdline()], timeout=15)


def test_kill_ends_those_that_wait_for_the_end_of_a_drain(crew: Crewed):
    OrderBook(crew.ledger.client).drain("new kernel", crew.ledger.now_ms())
    late = crew.start("late", wait=False)
    wait_until(lambda: [w.state for w in crew.live()] == ["waiting"], timeout=20)
    assert fleet.kill(crew.config).workers_killed == 1
    assert late.process.wait(5)
    # It obeyed: one that has to be ended by others cannot say so.
    assert "worker.left" in crew.kinds()


def test_a_process_that_has_a_dead_workers_id_by_now_is_left_alone(crew: Crewed):
    other = psutil.Popen(["sleep", "60"])
    try:
        register(crew, pid=other.pid, place=host.place(), born="1")
        crew.ledger.client.hset(keys.worker("w@elsewhere"), "seen_ms", 1)
        assert fleet.kill(crew.config).status == "killed"
        assert crew.ledger.workers() == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_when_a_process_was_born():
    assert host.born(os.getpid()) == host.born(os.getpid()) != host.born(1)
    assert host.born(2**22 + 1) == ""


# -- scaling ---------------------------------------------------------------------------------------


def test_what_leaves_is_neither_counted_nor_dismissed_again(crew: Crewed):
    crew.spawn(3, slots=2)
    crew.submit(wide(6))
    wait_until(lambda: len(crew.running()) == 6)
    first, second = fleet.scale(crew.config, 4), fleet.scale(crew.config, 4)
    assert (first.slots, first.dismissed) == (6, 1)
    assert (second.slots, second.dismissed) == (4, 0)
    wait_until(lambda: any(w.state == "draining" for w in crew.live()))
    assert fleet.slots_alive(crew.config) == 4


# -- the supervisor --------------------------------------------------------------------------------


def test_a_run_whose_record_is_gone_does_not_end_the_workers_of_others(redis_client):
    redis_client.sadd(keys.OPEN, "ghost")
    seen = need.look(lambda: nullcontext(redis_client), set())
    assert seen is not None
    assert not seen.open_runs


def test_a_machine_that_can_start_no_process_now_is_asked_again(tmp_path):
    crew = Crew(Paths(tmp_path, tmp_path / "s.sock"), lambda: nullcontext(None))
    # Neither log nor directory: what opens or forks fails as it does without descriptors or processes.
    worker = crew.hire("worker", 1, (), {})
    assert (worker.pid, crew.failures, len(crew)) == (0, 1, 1)
    assert not crew.refill({}), "after a pause"


def test_a_command_that_cannot_be_obeyed_does_not_end_the_workers(crew: Crewed):
    (name,) = crew.spawn()
    assert service.control.ask(service.paths_of(crew.config).control, {"op": "spawn"}) is None
    found = service.supervised(crew.config)
    assert found
    assert [w["name"] for w in found.workers] == [name]


# -- a full Redis ----------------------------------------------------------------------------------


def test_on_a_full_redis_workers_are_seen_told_and_leave(crew: Crewed, redis_client):
    worker = crew.start()
    crew.submit(wide(1))
    wait_until(crew.running)
    with full(redis_client):
        (before,) = crew.live()
        wait_until(lambda: [w.seen_ms > before.seen_ms for w in crew.live()] == [True])
        done = fleet.drain(crew.config, timeout_s=0.1)
        assert done.left == (worker.name,)
        wait_until(lambda: [w.state for w in crew.live()] == ["draining"])
        worker.stop()
        assert crew.ledger.workers() == []
        assert crew.ledger.system_events(1)[0]["kind"] == "worker.left"


def test_on_a_full_redis_a_back_off_ends_and_keeps_nothing_else_waiting(crew: Crewed, redis_client):
    open_in_ledger(crew.ledger, "run-1", noop_plan({"a": []}), project="", repo="", root="")
    taken = crew.ledger.claim("run-1", "a", worker="w", ttl_ms=9999)
    crew.ledger.requeue("run-1", "a", taken.fence, reason="again", delay_ms=1)
    with full(redis_client):
        wait_until(crew.ledger.due)
        assert states(crew.ledger)["a"] == "ready"


def test_on_a_full_redis_what_a_dead_worker_had_is_ended(crew: Crewed, redis_client):
    dead, _ = crew.start("one", slots=1), crew.start("two", slots=1)
    crew.submit(wide(2))
    wait_until(lambda: len(crew.running()) == 2)
    with full(redis_client):
        dead.kill()
        wait_until(lambda: len(crew.running()) == 1, timeout=8)


# -- messages --------------------------------------------------------------------------------------


def test_what_lay_in_the_own_queue_of_a_dead_namesake_is_sent_again(crew: Crewed, redis_client):
    crew.start("one", slots=1).kill()
    Fleet(redis_client).open_near("one@test")
    plan = noop_plan({"x": []})
    open_in_ledger(crew.ledger, "run-1", plan, project="", repo="", root="")
    canvas = Canvas(plan, "run-1", 1, crew.app)
    chords.arm(canvas)
    canvas.signature("x").set(queue=keys.NEAR_QUEUE + "one@test").apply_async()
    crew.start("one", slots=1)
    crew.wait_closed(seconds=20)
    assert states(crew.ledger)["x"] == "succeeded"


def test_what_the_removal_of_a_run_wakes_is_sent(crew: Crewed, redis_client):
    ledger, plan = crew.ledger, noop_plan({"a": []})
    for run in ("one", "two"):
        open_in_ledger(ledger, run, plan, project="p", repo="", root="")
    redis_client.hset(keys.run("one"), mapping={"exclusive": '["w:src"]', "holds": 1})
    redis_client.hset("af:project:p:locks", mapping={"w:src": "one", "iw:": 1})
    redis_client.hset(keys.run("two"), "exclusive", '["w:src"]')
    assert "held by run one" in ledger.claim("two", "a", worker="w", ttl_ms=9999).reason
    for node in ("a", INTEGRATE):
        taken = ledger.claim("one", node, worker="w", ttl_ms=9999)
        ledger.settle("one", node, taken.fence, NodeState.SUCCEEDED)
    redis_client.hset(keys.run("one"), mapping={"state": "failed", "closed_ms": 1})
    redis_client.srem(keys.OPEN, "one")
    assert kept.gc(config=crew.config, older_than_s=0) == ["run one (failed)"]
    assert states(ledger, "two")["a"] == "ready"
    assert Fleet(redis_client).waiting("implementer") == {("two", "a")}


def test_a_run_finishes_once_and_lands_once(crew: Crewed):
    crew.start()
    crew.submit(noop_plan({"a": []}))
    crew.wait_closed()
    assert crew.ledger.close("run-1", RunState.LANDED)
    told = [e["kind"] for e in crew.ledger.system_events() if e["kind"].startswith("run.")]
    assert told == ["run.landed", "run.finished", "run.opened"]


def test_a_message_that_is_no_text_hides_none_of_the_others(redis_url, redis_client):
    """The reconciler looks into the queues; bytes that anybody pushed must not end its scan."""
    redis_client.lpush("implementer", b"\xff\xfe\x00", *poison.messages("implementer", "run", "a").values())
    there = Fleet(connect(redis_url))
    assert ("run", "a") in there.waiting("implementer")
    assert ("run", "a") in there.take_back("implementer")
    assert there.waiting("implementer") == set()
