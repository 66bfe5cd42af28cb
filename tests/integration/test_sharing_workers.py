"""Several runs on one fleet of real workers."""

from __future__ import annotations

import pytest
from helpers.ledgers import validate_fleet
from helpers.wait import wait_until
from helpers.workers import noop_plan, stage, starts_and_ends

from agentflow.canvas.compile import Canvas
from agentflow.canvas.plan import Plan
from agentflow.states import RunState
from agentflow.store.events import EventLog

WIDE = {f"n{i}": [] for i in range(12)}


@pytest.fixture
def scene(redis_url, tmp_path):
    with stage(redis_url, tmp_path) as found:
        yield found
        validate_fleet(found.ledger)


def most_at_once(scene, *, after: str = "0") -> int:
    """The largest number of nodes that ran together, over all runs."""
    running: set[tuple[str, str]] = set()
    most = 0
    for event in EventLog(scene.ledger.client).read(after=after, count=100_000):
        if event.kind == "node.started" and event.node != "@integrate":
            running.add((event.run, event.node))
        elif event.kind in ("node.settled", "node.retry"):
            running.discard((event.run, event.node))
        most = max(most, len(running))
    return most


def through(plan: Plan, queue: str) -> Plan:
    """The same plan, every node through this queue."""
    return plan.model_copy(update={"nodes": tuple(n.model_copy(update={"queue": queue}) for n in plan.nodes)})


def test_what_one_run_wakes_in_another_is_sent_by_whoever_woke_it(scene):
    """Without a reconciler nobody else would send it."""
    scene.ledger.set_limit("fleet", 2)
    scene.start(slots=8, env={"AGENTFLOW_RECONCILE": "false"})
    for run in ("one", "two", "three"):
        scene.submit(noop_plan({**WIDE, "end": list(WIDE)}, seconds=0.01), run)
    for run in ("one", "two", "three"):
        scene.wait_closed(run)
        starts_and_ends(scene, run)
    assert most_at_once(scene) == 2


def test_a_limit_changes_while_a_run_is_on_and_no_worker_is_started_anew(scene):
    worker = scene.start(slots=12)
    scene.submit(noop_plan({f"n{i}": [] for i in range(30)}, seconds=0.5))
    wait_until(lambda: scene.ledger.in_flight().get("fleet", 0) > 6)
    scene.ledger.set_limit("fleet", 2)
    wait_until(lambda: scene.ledger.in_flight().get("fleet", 0) <= 2)
    lowered = EventLog(scene.ledger.client).last()
    wait_until(lambda: scene.ledger.run("run-1").nodes_left < 14)
    assert most_at_once(scene, after=lowered) <= 2
    scene.ledger.set_limit("fleet", 0)
    wait_until(lambda: scene.ledger.in_flight().get("fleet", 0) > 2)
    scene.wait_closed()
    assert worker.process.poll() is None


def test_a_queue_of_its_own_is_served_by_the_workers_that_choose_it(scene):
    scene.start("general", options=("-Q", "implementer"))
    scene.submit(through(noop_plan({"a": []}), "team-a"), "one")
    scene.submit(noop_plan({"a": []}), "two")
    scene.wait_closed("two")
    assert scene.ledger.unserved_of("one") == ["team-a"]
    assert "no worker consumes the queue team-a" in scene.ledger.why("one", "a")
    own = scene.start("own", options=("-Q", "team-a"))
    scene.wait_closed("one")
    assert scene.ledger.node("one", "a").worker == own.name


def test_a_worker_without_a_choice_takes_up_a_queue_that_a_run_brings(scene):
    scene.start()
    assert scene.ledger.unserved(["team-b"]) == []
    scene.submit(through(noop_plan({"a": []}), "team-b"))
    scene.wait_closed()


def test_a_large_run_does_not_keep_a_small_one_waiting(scene):
    """The small run comes when the large one has put all of its messages into the queue."""
    scene.start(slots=2)
    large = noop_plan({f"n{i}": [] for i in range(60)}, seconds=0.1)
    scene.submit(large, "large")
    wait_until(lambda: len(scene.ledger.settled("large")) or scene.ledger.in_flight().get("fleet") == 2)
    wait_until(lambda: scene.ledger.capacity().get("implementer") == 2)
    scene.submit(noop_plan({"a": ["b"], "b": []}, seconds=0.1), "small")
    scene.wait_closed("small")
    assert scene.ledger.run("large").nodes_left > 30
    scene.wait_closed("large")


def test_exclusive_runs_go_one_after_the_other(scene):
    scene.start(slots=4)
    plan = noop_plan({"a": [], "b": ["a"]}, seconds=0.1).model_copy(update={"exclusive": True})
    canvases: list[Canvas] = [scene.submit(plan, run) for run in ("one", "two")]
    scene.wait_closed("one")
    assert scene.ledger.why("two", "a") == "is parked: exclusive: ** is held by run one"
    answer = scene.ledger.close("one", RunState.LANDED)
    assert answer is not None
    # The reconciler finds what its submitter did not send.
    assert answer.others == (("two", "a"),)
    scene.wait_closed(canvases[1].run_id)
