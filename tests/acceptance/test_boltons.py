"""A real repository that nobody here wrote: fifteen modules of boltons are brought back, byte for byte.

The restoring script stands in for the agent; acceptance is each module's own test file of the release.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import boltons
from helpers.boltons import World
from helpers.house import House
from helpers.repos import git, untouched
from helpers.wait import wait_until

from agentflow.graph import ancestors
from agentflow.states import NodeState
from agentflow.store.records import INTEGRATE, NodeRecord

TARGET = "agentflow/boltons"
WRONG = "mathutils"
NEEDS = {task["id"]: task.get("needs", []) for task in boltons.tasks()}
ATTEMPTS = dict.fromkeys(NEEDS, 1) | {WRONG: 2}


@pytest.fixture(scope="session")
def sdist() -> Path:
    """The release; without a registry and a cache there is nothing to test."""
    try:
        return boltons.release()
    except boltons.NoReleaseError as error:
        text = f"no boltons {boltons.VERSION} from PyPI, nor in {boltons.CACHE}: {error}"
        if os.environ.get("AGENTFLOW_CI") == "1":
            pytest.fail(text)
        pytest.skip(text)


@pytest.fixture
def world(sdist: Path, tmp_path: Path, house: House) -> Iterator[World]:
    """The repository, which must be as it was when all is over, but for the target branch."""
    place = tmp_path / "world"
    place.mkdir()
    found = boltons.build(sdist, place)
    house.cwd = found.repo
    before = untouched(found.repo, target=TARGET)
    yield found
    assert untouched(found.repo, target=TARGET) == before


def check_landed(world: World, result: dict[str, Any]) -> None:
    """The branch holds the release, and nothing but the release."""
    assert (result["state"], result["branch"]) == ("landed", TARGET)
    assert {node["state"] for node in result["nodes"].values()} == {"succeeded"}
    assert git(world.repo, "rev-parse", TARGET) == result["commit"]
    assert git(world.repo, "rev-parse", f"{TARGET}^{{tree}}") == world.release_tree


def nodes_that_are(house: House, run_id: str, state: NodeState) -> list[NodeRecord]:
    return [node for node in house.ledger().nodes(run_id).values() if node.state is state]


def peak(house: House, run_id: str) -> int:
    """Most nodes that were running at one moment."""
    now: set[str] = set()
    most = 0
    for event in house.events(run_id):
        if event.kind == "node.started":
            now.add(event.node)
        else:
            now.discard(event.node)
        most = max(most, len(now))
    return most


def test_the_world_is_what_it_says(sdist: Path, tmp_path: Path) -> None:
    """Twelve modules and more, joins, not series-parallel, and no original within the repository."""
    world = boltons.build(sdist, tmp_path)
    assert len(NEEDS) > 12
    assert sum(len(needs) > 1 for needs in NEEDS.values()) >= 3
    before = ancestors(NEEDS)
    # Valdes, Tarjan, Lawler 1982: series-parallel orders are those without an N.
    a, b, c, d = "namedutils", "dictutils", "iterutils", "urlutils"
    assert {a, b} <= before[c]
    assert b in before[d]
    assert a not in before[b] | before[d]
    assert b not in before[a]
    assert c not in before[d]
    assert d not in before[c]
    objects = git(world.repo, "cat-file", "--batch-check", "--batch-all-objects")
    for name in NEEDS:
        assert git(world.repo, "hash-object", str(world.originals / f"{name}.py")) not in objects


@pytest.mark.parametrize("slots", [1, 4])
def test_lands_byte_for_byte(house: House, world: World, tmp_path: Path, slots: int) -> None:
    result = house.finished("run", world.feature, "-j", slots)
    check_landed(world, result)
    assert {name: node["attempts"] for name, node in result["nodes"].items()} == ATTEMPTS
    assert min(2, slots) <= peak(house, result["run"]) <= slots
    # The wrong body was refused by acceptance, and what needs that module has never seen it.
    assert git(world.repo, "log", "--all", "--format=%H", "-S", "# wrong") == ""
    refused = house.home / "runs" / result["run"] / "logs" / f"{WRONG}.1.acceptance.log"
    assert f"FAILED tests/test_{WRONG}.py" in refused.read_text()
    made = {merge_elsewhere(house, tmp_path / f"machine{seed}", result, seed) for seed in (1, 2)}
    assert made == {result["commit"]}


def test_the_worker_is_killed_three_times(house: House, world: World) -> None:
    """Twice in the middle of attempts, once after the merge: its successor merges the same again."""
    command = house.start("run", world.feature, "-j", 4, "--json")
    run_id = house.new_run()
    killed = [kill_worker(house, run_id, after=least) for least in (1, 7)]
    validation = house.home / "runs" / run_id / "logs" / "validation.log"
    wait_until(validation.exists, timeout=90, what="the merged tree is being validated")
    merged = merged_refs(house, run_id)
    killed.append(kill_worker(house, run_id, after=len(NEEDS)))
    result = house.result_of(command)
    check_landed(world, result)
    assert len(set(killed)) == 3
    assert merged == [result["commit"]]
    nodes = house.ledger().nodes(run_id)
    assert {name: node.failures for name, node in nodes.items() if node.failures} == {WRONG: 1}
    assert nodes[INTEGRATE].losses == 1
    settled = [event.node for event in house.events(run_id) if event.kind == "node.settled"]
    assert sorted(settled) == sorted(nodes)


def kill_worker(house: House, run_id: str, *, after: int) -> int:
    """kill -9 the worker when so many nodes have succeeded and something runs; returns its process id."""
    wait_until(
        lambda: (
            len(nodes_that_are(house, run_id, NodeState.SUCCEEDED)) >= after
            and nodes_that_are(house, run_id, NodeState.RUNNING)
        ),
        timeout=90,
        what=f"{after} nodes are done and something runs",
    )
    names = {node.worker for node in nodes_that_are(house, run_id, NodeState.RUNNING)}
    local = house.status()
    assert local is not None
    assert names == {local.worker_name}
    house.kill(local.worker)
    return local.worker


def merged_refs(house: House, run_id: str) -> list[str]:
    (store,) = house.home.glob("repos/*.git")
    return git(store, "for-each-ref", "--format=%(objectname)", f"refs/agentflow/{run_id}/merged").split()


def test_everything_is_killed_and_the_run_resumed(house: House, world: World) -> None:
    command = house.start("run", world.feature, "-j", 4, "--json")
    run_id = house.new_run()
    wait_until(
        lambda: (
            len(nodes_that_are(house, run_id, NodeState.SUCCEEDED)) >= 4
            and nodes_that_are(house, run_id, NodeState.RUNNING)
        ),
        timeout=90,
    )
    local = house.status()
    assert local is not None
    victims = [command.pid, local.supervisor, local.worker, local.server]
    # All are stopped first, so that none sees another one die.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in victims:
            os.kill(pid, number)
    command.communicate()
    wait_until(lambda: not house.processes(), what="no agent outlives its worker")
    result = house.finished("resume", run_id)
    check_landed(world, result)
    settled = [event.node for event in house.events(run_id) if event.kind == "node.settled"]
    assert sorted(settled) == sorted([*NEEDS, INTEGRATE]), "nothing was done again, nothing was lost"


MERGE = """\
import json, sys
from pathlib import Path
from agentflow.workspace import inspect, merge
from agentflow.workspace.store import Store
asked = json.load(sys.stdin)
facts = inspect.check_repository(Path(asked["repo"]), asked["base"], "agentflow/unused")
store = Store.open(Path(asked["home"]), facts.project, facts.objects)
print(merge.merge_all(store, asked["commits"], facts.base))
"""


def merge_elsewhere(house: House, home: Path, result: dict[str, Any], seed: int) -> str:
    """Merge all of a run's work with an empty store, in another process, order, time zone and identity."""
    commits = [node["commit"] for node in result["nodes"].values()]
    random.Random(seed).shuffle(commits)
    asked = {"repo": str(house.cwd), "home": str(home), "base": result["base"], "commits": commits}
    environ = house.environ() | {
        "PYTHONHASHSEED": str(seed),
        "TZ": ["UTC", "Asia/Tokyo"][seed % 2],
        "GIT_AUTHOR_NAME": f"worker {seed}",
        "GIT_COMMITTER_EMAIL": f"worker{seed}@example.org",
    }
    done = subprocess.run(
        [sys.executable, "-c", MERGE],
        input=json.dumps(asked),
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
