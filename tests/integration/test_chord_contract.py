"""What `canvas/chords.py` relies on in Celery's Redis backend: a Celery that breaks it is seen here first."""

from __future__ import annotations

import random

import pytest
from helpers.workers import noop_plan

from agentflow.app import make_app
from agentflow.canvas import chords
from agentflow.canvas.compile import INTEGRATE, Canvas
from agentflow.config import load_config
from agentflow.store.fleet import Fleet

#: Two joins with the same parents (one chord, its body a group), a join of two, a chord of one.
DAG = {"a": [], "b": [], "c": [], "x": ["a", "b", "c"], "y": ["a", "b", "c"], "z": ["a", "b"]}


@pytest.fixture
def canvas(redis_url, tmp_path):
    config = load_config(tmp_path, environ={"AGENTFLOW_REDIS_URL": redis_url, "HOME": str(tmp_path)})
    return Canvas(noop_plan(DAG), "run-1", 1, make_app(config))


@pytest.fixture
def sent(redis_client):
    """The nodes whose messages lie in the queues, in no order."""
    fleet = Fleet(redis_client)

    def read() -> list[str]:
        found = fleet.waiting("implementer") | fleet.waiting("agentflow.system")
        assert sum(fleet.queue_lengths(["implementer", "agentflow.system"]).values()) == len(found)
        return sorted(node for _, node in found)

    return read


def test_the_last_arrival_sends_the_body_and_nobody_else(canvas, sent):
    chords.arm(canvas)
    chords.arrive(canvas, "a")
    assert sent() == []
    chords.arrive(canvas, "b")
    assert sent() == ["z"]
    chords.arrive(canvas, "c")
    assert sent() == ["x", "y", "z"]


def test_arrivals_in_any_order_and_twice_send_each_body_once(canvas, sent):
    chords.arm(canvas)
    arrivals = ["a", "b", "c"] * 2
    random.Random(7).shuffle(arrivals)
    for node in arrivals:
        chords.arrive(canvas, node)
    assert sent() == ["x", "y", "z"]


def test_what_arrives_early_is_counted_in_one_round_trip(canvas, sent, redis_client):
    chords.arm(canvas)
    chords.arrive(canvas, "c")

    def reads() -> int:
        return redis_client.info("stats")["total_reads_processed"]

    before = reads()
    chords.arrive_all(canvas, ["a"], [])
    assert reads() - before == 2, "the two arrivals, and the question how many reads there were"
    assert sent() == []
    chords.arrive_all(canvas, ["b"], [])
    assert sent() == ["x", "y", "z"]


def test_what_completes_a_chord_is_counted_and_tidied_up_together(canvas, sent, redis_client):
    chords.arm(canvas)
    for node in ("c", "a"):
        chords.arrive_all(canvas, [node], [])
    backend = canvas.app.backend
    redis_client.script_load(backend._chord_cleanup_script.script)
    redis_client.config_resetstat()
    chords.arrive_all(canvas, ["b"], ["x", "y", "z"])
    stats = redis_client.info("commandstats")
    made = {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "lpush", "zrange")}
    assert made == {"evalsha": 4, "lpush": 3, "zrange": 0}, "two counts, two times tidying, three messages"
    assert sent() == ["x", "y", "z"]
    left = {redis_client.get(key) for key in redis_client.scan_iter("*celery-taskset*")}
    assert left == {"done", "3"}, "the marks that these chords are done, and the size of the third one"
    chords.arrive_all(canvas, ["a", "b", "c"], ["x", "y", "z"])
    chords.arrive(canvas, "b")
    assert sent() == ["x", "y", "z"]


def test_together_in_any_order_and_twice_each_body_is_sent_once(canvas, sent):
    chords.arm(canvas)
    arrivals = ["a", "b", "c"] * 2
    random.Random(3).shuffle(arrivals)
    for node in arrivals:
        chords.arrive_all(canvas, [node], [])
    assert sent() == ["x", "y", "z"]


def test_what_the_ledger_calls_ready_is_sent(canvas, sent):
    chords.arm(canvas)
    chords.arrive_all(canvas, ["a", "b"], ["z"])
    assert sent() == ["z"]
    chords.arrive_all(canvas, ["c"], ["x", "y"])
    assert sent() == ["x", "y", "z"]


def test_a_server_that_forgot_the_scripts_counts_all_the_same(canvas, sent, redis_client):
    chords.arm(canvas)
    chords.arrive(canvas, "c")
    redis_client.script_flush()
    chords.arrive_all(canvas, ["a", "b"], [])
    assert sent() == ["x", "y", "z"]


def test_the_integration_is_the_body_of_the_last_chord(canvas, sent):
    chords.arm(canvas)
    for node in ("x", "y"):
        chords.arrive(canvas, node)
    assert sent() == []
    chords.arrive(canvas, "z")
    assert sent() == [INTEGRATE]


def test_a_chord_that_was_never_armed_sends_nothing(canvas, sent):
    for node in ("a", "b", "c"):
        chords.arrive(canvas, node)
    assert sent() == []


def test_a_new_generation_counts_from_nought(canvas, sent):
    chords.arm(canvas)
    chords.arrive(canvas, "a")
    again = Canvas(canvas.plan, "run-1", 2, canvas.app)
    chords.arm(again)
    chords.arrive(again, "b")
    assert sent() == []
    chords.arrive(again, "a")
    assert sent() == ["z"]


def test_what_a_chord_leaves_in_redis_goes_by_itself(canvas, redis_client):
    chords.arm(canvas)
    for node in ("a", "b", "c"):
        chords.arrive(canvas, node)
    left = [k for k in redis_client.scan_iter("*celery-taskset*") if redis_client.ttl(k) == -1]
    assert left == []


def test_the_chord_is_a_real_one(canvas):
    (join,) = [j for j in canvas.joins.values() if j.heads == ("x", "y")]
    chord = canvas.chord(join)
    assert [t.args[1] for t in chord.tasks] == ["a", "b", "c"]
    assert [t.args[1] for t in chord.body.tasks] == ["x", "y"]
    assert {t.options["queue"] for t in chord.tasks} == {"implementer"}
