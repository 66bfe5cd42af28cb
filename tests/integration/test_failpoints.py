"""SIGKILL at each named point of an attempt, a settlement, an integration, a landing: nothing changes.

A small feature over git with a real model's tool loop (the model is a script), real workers, a real landing.
After each kill another worker (or the same command, typed again) goes on, and the tree, the states, what the
nodes used and what the budget has spent are those of the run that nobody disturbed. Here all goes well but
for the kill; `test_failpoints_elsewhere.py` has the other ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.killing import Scene, of_node, points, scene, turns

from agentflow import runs

#: one -> (two, three): a fork, and a join before the integration.
NODES = {"one": [], "two": ["one"], "three": ["one"]}
#: At which node a worker dies; the other points know runs only.
SUBJECTS = {"attempt": "two", "settle": "two", "continue": "one"}
TASKS = [
    {"id": node, "role": "implementer", "needs": needs, "prompt": f"Write {node}.txt",
     "artifacts": [f"{node}.txt"], "acceptance": [f"test -f {node}.txt"]}
    for node, needs in NODES.items()
]  # fmt: skip
RULES = [
    {"name": node, "when": [of_node(node)], "turns": turns({f"{node}.txt": f"made by {node}\n"})}
    for node in NODES
]


@pytest.fixture(scope="module")
def it(redis_server, tmp_path_factory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("failpoints")
    with scene(redis_server.client_url, home, RULES, {"README": "a project\n"}) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(it) -> dict[str, Any]:
    run_id, requests = run_to_its_end(it)
    runs.land(run_id, config=it.stage.config)
    found = it.outcome(run_id, requests)
    assert found["state"] == "landed"
    assert set(found["states"].values()) == {"succeeded"}
    assert found["paid"]
    assert found["reserved"] == 0
    return found


def run_to_its_end(it: Scene) -> tuple[str, int]:
    """A run that is ready to land, and the calls that the model had before it."""
    requests = len(it.model.requests)
    run_id = it.submit(TASKS)
    it.worker()
    it.wait_closed(run_id)
    return run_id, requests


@pytest.mark.parametrize("point", points(*SUBJECTS, "integrate"))
def test_a_worker_killed_there_changes_nothing(it, undisturbed, point):
    requests = len(it.model.requests)
    subject = SUBJECTS.get(point.split(".")[0], "")
    run_id = it.submit(TASKS)
    it.wait_killed(it.worker(f"{point}@{subject}" if subject else point))
    it.worker()
    it.wait_closed(run_id)
    runs.land(run_id, config=it.stage.config)
    assert it.outcome(run_id, requests) == undisturbed


@pytest.mark.parametrize("point", points("land"))
def test_a_landing_killed_there_changes_nothing(it, undisturbed, point):
    run_id, requests = run_to_its_end(it)
    it.wait_killed(it.command("land", run_id, armed=point))
    runs.land(run_id, config=it.stage.config)
    assert it.outcome(run_id, requests) == undisturbed


@pytest.mark.parametrize("point", points("journal"))
def test_a_submitter_killed_there_and_then_redis_lost_changes_nothing(it, undisturbed, point):
    run_id = it.submit(TASKS)
    doomed = it.command("watch", run_id, armed=point)
    it.worker()
    it.wait_killed(doomed)
    it.nursery.kill()
    it.stage.ledger.client.flushall()
    runs.resume(run_id, config=it.stage.config, repo=it.repo)
    it.worker()
    it.wait_closed(run_id)
    runs.land(run_id, config=it.stage.config)
    # What Redis has forgotten of the spending nobody knows: work that was not written down is paid again.
    assert it.outcome(run_id, 0) | {"paid": True} == undisturbed


def test_every_point_is_tried():
    here = {*SUBJECTS, "integrate", "land", "journal"}
    elsewhere = {"again", "optimistic", "reuse", "stage", "onto", "rollback", "failed"}
    assert {point.split(".")[0] for point in points()} == here | elsewhere
