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

import pytest
from helpers import boltons
from helpers.boltons import World
from helpers.house import House, Said
from helpers.repos import git, untouched
from helpers.wait import wait_until

from agentflow.graph import ancestors
from agentflow.states import NodeState

TARGET = "agentflow/boltons"
WRONG = "mathutils"
NEEDS = {task["id"]: task.get("needs", []) for task in boltons.tasks()}
EXPECTED_ATTEMPTS = dict.fromkeys(NEEDS, 1) | {WRONG: 2}
pytestmark = pytest.mark.xdist_group("boltons")


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
    house.repo = found.repo
    before = untouched(found.repo, target=TARGET)
    yield found
    assert untouched(found.repo, target=TARGET) == before


def check_landed(world: World, said: Said) -> None:
    """The branch holds the release, and every node's own tests have been red and then green."""
    assert said.code == 0, said.err
    result = said.json
    assert (result["state"], result["branch"]) == ("landed", TARGET)
    assert git(world.repo, "rev-parse", f"{TARGET}^{{tree}}") == world.release_tree
    assert git(world.repo, "rev-parse", TARGET) == result["commit"]
    assert {node["state"] for node in result["nodes"].values()} == {"succeeded"}


def peak(house: House, run_id: str) -> int:
    """Most nodes that were running at one moment."""
    now, most = set(), 0
    for event in house.events(run_id):
        if event.node.startswith("@"):
            continue
        if event.kind == "node.started":
            now.add(event.node)
        else:
            now.discard(event.node)
        most = max(most, len(now))
    return most


def done(house: House, run_id: str) -> int:
    nodes = house.ledger().nodes(run_id)
    return sum(n.state is NodeState.SUCCEEDED for n in nodes.values())


def running(house: House, run_id: str) -> list[str]:
    nodes = house.ledger().nodes(run_id)
    return [n.id for n in nodes.values() if n.state is NodeState.RUNNING]


def test_the_world_is_what_it_says(world: World) -> None:
    """Twelve modules and more, joins, not series-parallel, and no original within the repository."""
    assert len(NEEDS) > 12
    assert sum(len(needs) > 1 for needs in NEEDS.values()) >= 3
    before = ancestors(NEEDS)
    # Valdes, Tarjan, Lawler 1982: series-parallel orders are those without an N.
    a, b, c, d = "namedutils", "dictutils", "iterutils", "urlutils"
    assert a in before[c]
    assert b in before[c] & before[d]
    assert not {a, c} & before[d] | {d} & before[c] | {a} & before[b] | {b} & before[a]
    objects = git(world.repo, "cat-file", "--batch-check", "--batch-all-objects")
    for name in NEEDS:
        original = git(world.repo, "hash-object", str(world.originals / f"{name}.py"))
        assert original not in objects


@pytest.mark.parametrize("slots", [1, 4])
def test_lands_byte_for_byte(house: House, world: World, slots: int) -> None:
    said = house.run("run", str(world.feature), "-j", str(slots), "--json")
    check_landed(world, said)
    result = said.json
    assert {name: node["attempts"] for name, node in result["nodes"].items()} == EXPECTED_ATTEMPTS
    assert min(2, slots) <= peak(house, result["run"]) <= slots
    # The wrong body was refused by acceptance, and what needs that module has never seen it.
    refused = git(house.repo, "log", "--all", "--format=%H", "-S", "# wrong", "--", f"boltons/{WRONG}.py")
    assert refused == ""
    (log,) = (house.home / "runs" / result["run"] / "logs").glob(f"{WRONG}.1.acceptance.log")
    assert "FAILED tests/test_mathutils.py" in log.read_text()


def test_the_worker_is_killed_three_times(house: House, world: World) -> None:
    command = house.start("run", str(world.feature), "-j", "4", "--json")
    run_id = house.only_run()
    killed: set[int] = set()
    for least in (1, 5, 9):
        wait_until(
            lambda least=least: done(house, run_id) >= least and running(house, run_id),
            timeout=60,
            what=f"{least} nodes are done and some are running",
        )
        worker = wait_until(lambda: _worker(house, killed), timeout=30, what="there is a new worker")
        house.kill(worker)
        killed.add(worker)
    said = house.end(command)
    check_landed(world, said)
    nodes = house.ledger().nodes(run_id)
    assert sum(n.losses for n in nodes.values()) >= 1
    assert {n.id: n.failures for n in nodes.values() if n.failures} == {WRONG: 1}
    settled = [e.node for e in house.events(run_id) if e.kind == "node.settled"]
    assert len(settled) == len(set(settled)) == len(NEEDS) + 1


def _worker(house: House, killed: set[int]) -> int:
    found = house.status()
    return found.worker if found and found.worker not in killed else 0


def test_everything_is_killed_and_the_run_resumed(house: House, world: World) -> None:
    command = house.start("run", str(world.feature), "-j", "4", "--json")
    run_id = house.only_run()
    wait_until(lambda: done(house, run_id) >= 4 and running(house, run_id), timeout=60)
    finished = {n.id: n.commit for n in house.ledger().nodes(run_id).values() if n.commit}
    local = house.status()
    assert local is not None
    victims = [command.pid, local.supervisor, local.worker, local.server]
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    for pid in victims:
        house.kill(pid)
    command.wait(10)
    command.communicate()
    wait_until(lambda: not house.processes(), what="no agent outlives its worker")
    said = house.run("resume", run_id, "--json")
    check_landed(world, said)
    kept = {n.id: n.commit for n in house.ledger().nodes(run_id).values() if n.id in finished}
    assert kept == finished, "what had been settled was not done again"


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


def test_two_workers_that_integrate_the_same_make_the_same_commit(
    house: House, world: World, tmp_path: Path
) -> None:
    said = house.run("run", str(world.feature), "-j", "4", "--json")
    check_landed(world, said)
    result = said.json
    commits = [node["commit"] for node in result["nodes"].values()]
    made = [
        _merge_elsewhere(house, tmp_path / f"machine{seed}", result["base"], commits, seed) for seed in (1, 2)
    ]
    assert made == [result["commit"]] * 2


def _merge_elsewhere(house: House, home: Path, base: str, commits: list[str], seed: int) -> str:
    """Merge with an empty store, in another process, order, time zone and identity."""
    shuffled = random.Random(seed).sample(commits, len(commits))  # noqa: S311 (an order, not a secret)
    asked = {"repo": str(house.repo), "home": str(home), "base": base, "commits": shuffled}
    environ = house.environ | {
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
