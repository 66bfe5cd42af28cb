"""SIGKILL where not all goes well: red attempts, work that must wait or merge again, a target that moved,
going back. As in `test_failpoints.py` what comes out is that of the run that nobody disturbed.

Work that is used again and the checkpoints of stages have their points here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.cli import git
from helpers.killing import PATIENCE_S, Scene, of_node, points, scene, turns
from helpers.wait import wait_until

from agentflow import runs
from agentflow.runs import rollback

#: What its acceptance says of work that is not good, and the next attempt is told.
RED = "not yet what was asked for"
RULES = [
    {"name": "bad", "when": [of_node("late")], "unless": [RED], "turns": turns({"late.txt": "bad\n"})},
    {"name": "good", "when": [of_node("late"), RED], "turns": turns({"late.txt": "good\n"})},
    *(
        {"name": node, "when": [of_node(node)], "turns": turns(files)}
        for node, files in {
            "one": {"one.txt": "1\n"}, "two": {"two.txt": "2\n"}, "three": {"three.txt": "3\n"},
            "free": {"free.txt": "free\n", "shared.txt": "of both\n"},
            "holder": {"holder.txt": "held\n", "shared.txt": "of both\n"},
        }.items()
    ),
]  # fmt: skip
FILES = {"README": "a project\n", "good.sh": f'grep -q good "$1" || {{ echo "{RED}"; exit 1; }}\n'}


@pytest.fixture(scope="module")
def it(redis_server, tmp_path_factory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("elsewhere")
    with scene(redis_server.client_url, home, RULES, FILES) as found:
        yield found


def task(node: str, *needs: str, role: str = "implementer", **fields: Any) -> dict[str, Any]:
    """A task that writes a file of its name."""
    return {
        "id": node, "role": role, "needs": list(needs), "prompt": f"Write {node}.txt", "retries": 2,
        "artifacts": [f"{node}.txt"], "acceptance": [f"test -f {node}.txt"], **fields,
    }  # fmt: skip


def told(it: Scene, run_id: str, requests: int) -> dict[str, Any]:
    """Land, and what came out."""
    runs.land(run_id, config=it.stage.config)
    return it.outcome(run_id, requests)


# A red attempt: it is given back, with what was wrong, and sent again.


def red_then_green(it: Scene, armed: str = "") -> dict[str, Any]:
    requests = len(it.model.requests)
    run_id = it.submit(
        [task("one"), task("late", "one", acceptance=["sh good.sh late.txt"]), task("two", "one")]
    )
    if armed:
        it.wait_killed(it.worker(armed))
    it.worker()
    it.wait_closed(run_id)
    return told(it, run_id, requests)


@pytest.fixture(scope="module")
def retried(it) -> dict[str, Any]:
    found = red_then_green(it)
    assert found["state"] == "landed"
    assert found["failures"] == {"late": 1}
    assert found["used"]["late"] > found["used"]["one"]
    assert found["paid"]
    return found


@pytest.mark.parametrize("point", points("again"))
def test_after_a_red_attempt(it, retried, point):
    assert red_then_green(it, f"{point}@late") == retried


# Undeclared work: another node holds one of its paths, or settles while it does.


def free_beside(it: Scene, go: Path) -> str:
    """`free` has declared nothing; `holder` holds a path that it writes, until there is `go`."""
    gate = f"sh -c 'until test -e {go}; do sleep 0.05; done'"
    holder = task("holder", artifacts=["holder.txt", "shared.txt"], acceptance=[gate])
    free = {name: value for name, value in task("free").items() if name != "artifacts"}
    return it.submit([holder, free])


def wait_for_holder(it: Scene, go: Path, armed: str = "") -> dict[str, Any]:
    requests = len(it.model.requests)
    run_id = free_beside(it, go)
    if armed:
        it.wait_killed(it.worker(armed))
        go.touch()
    it.worker()
    if not armed:
        wait_until(lambda: it.stage.ledger.node(run_id, "free").state == "parked", timeout=PATIENCE_S)
        go.touch()
    it.wait_closed(run_id)
    return whoever_was_first(told(it, run_id, requests))


def whoever_was_first(found: dict[str, Any]) -> dict[str, Any]:
    """Which of the two starts from the other's work is chance when both begin again."""
    return found | {"refs": {"result": found["refs"]["result"]}}


@pytest.fixture(scope="module")
def waited(it, tmp_path_factory) -> dict[str, Any]:
    found = wait_for_holder(it, tmp_path_factory.mktemp("go") / "go")
    assert found["state"] == "landed"
    assert found["paid"]
    return found


@pytest.mark.parametrize("point", ["optimistic.locked", "optimistic.parked"])
def test_before_it_waits_for_a_lock(it, waited, tmp_path, point):
    assert wait_for_holder(it, tmp_path / "go", f"{point}@free") == waited


def settle_meanwhile(it: Scene, *, doomed: bool) -> dict[str, Any]:
    """`free` stands still between its merge and its settlement; another worker settles `one` meanwhile."""
    requests = len(it.model.requests)
    free = {name: value for name, value in task("free").items() if name != "artifacts"}
    run_id = it.submit([free, task("one", role="tester")])
    if doomed:
        armed = "settle.before@free:stop,optimistic.moved@free"
        # Of `free` alone, and for longer than anything here takes; its supervisor ends it as below.
        words = ["celery", "-A", "agentflow", "worker", "-c", "2", "-n", "still@test", "-l", "warning"]
        env = {"AGENTFLOW_FAILPOINT": armed, "AGENTFLOW_LEASE_TTL_MS": "600000"}
        pid = it.nursery.start("still", [*words, "-Q", "implementer"], env)
        wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, timeout=PATIENCE_S)
        it.worker()
        wait_until(lambda: it.stage.ledger.node(run_id, "one").state == "succeeded", timeout=PATIENCE_S)
        psutil.Process(pid).resume()
        it.nursery.wait_dead(pid)
        it.stage.ledger.expire_worker("still@test")
    else:
        it.worker()
    it.wait_closed(run_id)
    return told(it, run_id, requests)


def test_when_others_have_settled_meanwhile(it):
    assert settle_meanwhile(it, doomed=True) == settle_meanwhile(it, doomed=False)


# Verified commits that are used again.


def run_twice(it: Scene, armed: str = "") -> dict[str, Any]:
    """The second of two runs of the same feature."""
    feature = f"twice {it.number}"
    tasks = [task("one"), task("two", "one")]
    it.worker()
    first = it.submit(tasks, feature=feature)
    it.wait_closed(first)
    requests = len(it.model.requests)
    second = it.submit(tasks, feature=feature)
    if armed:
        it.wait_killed(it.worker(armed))
    it.worker()
    it.wait_closed(second)
    assert len(it.model.requests) == requests
    return told(it, second, requests)


@pytest.fixture(scope="module")
def used_again(it) -> dict[str, Any]:
    found = run_twice(it)
    assert found["state"] == "landed"
    return found


@pytest.mark.parametrize("point", points("reuse"))
def test_with_work_that_is_used_again(it, used_again, point):
    assert run_twice(it, f"{point}@two") == used_again


# The checkpoint of a stage: made by whoever waits for the run, and started from by the next one's nodes.

STAGES = [{"stage": "build", "agents": ["implementer"]}, {"stage": "check", "agents": ["tester"]}]


def in_stages(it: Scene, armed: str = "") -> dict[str, Any]:
    requests = len(it.model.requests)
    run_id = it.submit([task("one"), task("two"), task("three", role="tester")], stages=STAGES)
    if armed.startswith("stage."):
        doomed = it.command("watch", run_id, armed=armed)
        it.worker()
        it.wait_killed(doomed)
    elif armed:
        it.wait_killed(it.worker(armed))
        it.worker()
    else:
        it.worker()
    it.nursery.wait_dead(it.command("watch", run_id))
    it.wait_closed(run_id)
    return told(it, run_id, requests)


@pytest.fixture(scope="module")
def staged(it) -> dict[str, Any]:
    found = in_stages(it)
    assert found["state"] == "landed"
    assert {"checkpoints/stages/build", "checkpoints/stages/check"} <= set(found["refs"])
    return found


@pytest.mark.parametrize("point", [*points("stage"), "attempt.based@three", "continue.arrived@two"])
def test_between_two_stages(it, staged, point):
    assert in_stages(it, point) == staged


# A target that has moved: the run is opened again, and merged on top of it.


def onto_another_target(it: Scene, armed: str = "") -> dict[str, Any]:
    requests = len(it.model.requests)
    run_id = it.submit([task("one"), task("two", "one")])
    it.worker()
    it.stage.wait_closed(run_id, PATIENCE_S)
    mine = git(it.repo, "commit-tree", "-p", "HEAD", "-m", "mine", "HEAD^{tree}").strip()
    git(it.repo, "branch", f"made/{it.number}", mine)
    if armed:
        it.wait_killed(it.command("land", run_id, armed=armed))
        it.stage.wait_closed(run_id, PATIENCE_S)
    found = told(it, run_id, requests)
    it.nursery.kill()
    parents = git(it.repo, "rev-list", f"made/{it.number}").split()
    return found | {"on top": mine in parents}


@pytest.fixture(scope="module")
def on_top(it) -> dict[str, Any]:
    found = onto_another_target(it)
    assert found["state"] == "landed"
    assert found["on top"]
    return found


@pytest.mark.parametrize("point", points("onto"))
def test_when_the_target_has_moved(it, on_top, point):
    assert onto_another_target(it, point) == on_top


# Going back.


def roll_back(it: Scene, to: str, armed: str = "") -> dict[str, Any]:
    """A landed run is rolled back, and goes on to the same end."""
    requests = len(it.model.requests)
    run_id = it.submit([task("one"), task("two", "one"), task("three", "two")])
    it.worker()
    it.wait_closed(run_id)
    landed = told(it, run_id, requests)
    if armed:
        it.wait_killed(it.command("rollback", run_id, *(["--to", to] if to else []), armed=armed))
    done = asdict(rollback.roll_back(run_id, config=it.stage.config, repo=it.repo, to=to))
    found = {name: done[name] for name in ("to", "tree", "kept")} | {"back": it.outcome(run_id, requests)}
    found["heads"] = git(it.repo, "for-each-ref", f"refs/heads/made/{it.number}")
    assert it.tree(done["ref"]) == done["tree"]
    runs.resume(run_id, config=it.stage.config, repo=it.repo)
    it.worker()
    it.wait_closed(run_id)
    again = told(it, run_id, requests)
    assert (again["tree"], again["states"]) == (landed["tree"], landed["states"])
    return found | {"again": again}


@pytest.fixture(scope="module")
def went_back(it) -> Callable[[str], dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    return lambda to: known.get(to) or known.setdefault(to, roll_back(it, to))


@pytest.mark.parametrize("point", points("rollback"))
def test_while_it_is_rolled_back(it, went_back, point):
    assert roll_back(it, "one", point) == went_back("one")


def fail_and_go_back(it: Scene, armed: str = "") -> dict[str, Any]:
    """A run whose last stage fails goes back to the one before; whoever waits for it tidies its refs up."""
    requests = len(it.model.requests)
    bad = task("late", role="tester", acceptance=["sh good.sh late.txt"], retries=0)
    run_id = it.submit(
        [task("one"), bad, task("two", role="tester")], stages=STAGES, policy={"on_failure": "rollback"}
    )
    it.worker()
    if armed:
        it.wait_killed(it.command("watch", run_id, armed=armed))
    it.nursery.wait_dead(it.command("watch", run_id))
    it.wait_closed(run_id)
    return it.outcome(run_id, requests)


@pytest.fixture(scope="module")
def failed(it) -> dict[str, Any]:
    found = fail_and_go_back(it)
    assert found["state"] == "failed"
    assert "nodes/one" in found["refs"]
    assert "nodes/two" not in found["refs"]
    return found


@pytest.mark.parametrize("point", points("failed"))
def test_when_a_failed_run_goes_back_by_itself(it, failed, point):
    assert fail_and_go_back(it, point) == failed
