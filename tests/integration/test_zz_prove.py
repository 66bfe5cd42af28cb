import os, signal, time
import pytest, redis
from helpers.crews import Crewed, crewed
from helpers.ledgers import open_run
from helpers.wait import wait_until
from helpers.workers import noop_plan, stage, FAST
from agentflow import fleet
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.local import service, need, control
from agentflow.store import keys
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.orders import OrderBook
from agentflow.states import NodeState

@pytest.fixture
def crew(redis_url, tmp_path, monkeypatch):
    with crewed(redis_url, tmp_path, monkeypatch) as found:
        yield found

def test_role_limit_replaces(redis_client):
    l = Ledger(redis_client)
    open_run(l, {"a": [], "b": []}, role_limit=1)
    assert l.claim("run-1","a",worker="w",ttl_ms=9999).granted
    assert l.claim("run-1","b",worker="w",ttl_ms=9999).reason.startswith("role limit: 1")
    assert l.set_limit("role:worker", 3).others == (("run-1","b"),)

def test_ghost(redis_client):
    redis_client.sadd(keys.OPEN, "ghost")
    from contextlib import nullcontext
    assert need.look(lambda: nullcontext(redis_client), set()) is not None

def test_drain_with_waiting(crew):
    Fleet(crew.ledger.client).register("w@x", pid=1, host="x", slots=1, roles=[], busy=0, now_ms=crew.ledger.now_ms(), facts={"state":"waiting"})
    assert fleet.drain(crew.config, timeout_s=1).status == "drained"

def test_kill_starting(crew):
    fleet.spawn(crew.config, 1, slots=1)
    fleet.kill(crew.config)
    wait_until(lambda: len([p for p in crew.processes() if "celery" in p.cmdline()])==0, timeout=15)

def test_kill_waiting(crew):
    OrderBook(crew.ledger.client).drain("x", crew.ledger.now_ms())
    w = crew.start("late", wait=False)
    wait_until(lambda: [w.state for w in crew.live()] == ["waiting"], timeout=20)
    t=time.time()
    done = fleet.kill(crew.config)
    assert done.status == "killed"
    assert time.time()-t < 3
    assert not any("did" in k for k in ())
    
def test_scale_twice(crew):
    crew.spawn(3, slots=2)
    crew.submit(noop_plan({f"n{i}": [] for i in range(6)}, seconds=3600))
    wait_until(lambda: len(crew.running())==6)
    one = fleet.scale(crew.config, 4)
    two = fleet.scale(crew.config, 4)
    assert (one.dismissed, two.dismissed) == (1, 0)
    time.sleep(1.5)
    three = fleet.scale(crew.config, 4)
    assert (three.slots, three.dismissed) == (4, 0)

def test_slots_alive_draining(crew):
    crew.spawn(2, slots=2)
    crew.submit(noop_plan({f"n{i}": [] for i in range(4)}, seconds=3600))
    wait_until(lambda: len(crew.running())==4)
    fleet.scale(crew.config, 2)
    wait_until(lambda: any(w.state=="draining" for w in crew.live()))
    assert fleet.slots_alive(crew.config) == 2

def test_supervisor_survives_oom(crew, redis_client):
    crew.spawn(2, slots=2)
    kept = service.supervised(crew.config)
    redis_client.config_set("maxmemory", "1")
    try:
        service.dismiss(crew.config, 1, "x")
        time.sleep(.5)
        again = service.supervised(crew.config)
        assert again and again.supervisor == kept.supervisor
    finally:
        redis_client.config_set("maxmemory", "0")

def test_oom_register(crew, redis_client):
    crew.start("w1")
    redis_client.config_set("maxmemory", "1")
    try:
        time.sleep(7)
        assert [w.name for w in crew.live()] == ["w1@test"]
    finally:
        redis_client.config_set("maxmemory", "0")

def test_near_of_a_namesake(crew, redis_client):
    one = crew.start("one", slots=1)
    one.kill()
    own = keys.NEAR_QUEUE + "one@test"
    Fleet(redis_client).open_near("one@test")
    plan = noop_plan({"x": []})
    open_in_ledger(crew.ledger, "run-3", plan, project="", repo="", root="")
    canvas = Canvas(plan, "run-3", 1, crew.app)
    chords.arm(canvas)
    canvas.signature("x").set(queue=own).apply_async()
    crew.start("one", slots=1)
    crew.wait_closed("run-3", seconds=12)
