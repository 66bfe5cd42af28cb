"""One run on a team's machines: three users, three homes, no network, and Redis alone in common."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import boltons, team
from helpers.boltons import World
from helpers.team import Member, Team
from helpers.wait import wait_until

TARGET = "agentflow/boltons"
NEEDS = {task["id"]: task.get("needs", []) for task in boltons.tasks()}


@pytest.fixture(scope="module")
def sdist() -> Path:
    """The release of boltons."""
    try:
        return boltons.release()
    except boltons.NoReleaseError as error:
        if os.environ.get("AGENTFLOW_CI") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def people() -> Iterator[Team]:
    """A team; it needs root and namespaces."""
    why = team.why_not()
    if why:
        pytest.skip(why)
    with team.team() as found:
        yield found


def world_of(people: Team, member: Member, sdist: Path) -> World:
    """The hollow repository in a member's home; the scripted agent and its originals are there for all."""
    shared = people.place / "agent"
    shared.mkdir()
    world = boltons.build(sdist, shared)
    shared.chmod(0o755)
    repo = member.home / "boltons"
    subprocess.run(["mv", str(world.repo), str(repo)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(shared)], check=True)
    member.own(repo)
    return World(repo, world.originals, world.feature, world.release_tree)


def tree_of(member: Member, repo: Path, rev: str) -> str:
    done = member.start(
        "git", "-C", repo, "rev-parse", f"{rev}^{{tree}}", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = done.communicate(timeout=30)
    assert done.returncode == 0, err
    return str(out.strip())


def test_boltons_over_two_workers_that_share_redis_alone(people: Team, sdist: Path) -> None:
    ann, one, two = (people.member(name) for name in ("ann", "one", "two"))
    world = world_of(people, ann, sdist)
    one.work(queues="implementer")
    two.work()
    people.wait_for_workers(2)
    result = ann.agentflow("run", world.feature, "--distributed", "-j", 4, cwd=world.repo)
    assert (result["state"], result["branch"]) == ("landed", TARGET)
    assert tree_of(ann, world.repo, TARGET) == world.release_tree
    nodes = people.ledger.nodes(result["run"])
    assert {nodes[n].worker for n in NEEDS} == {"one@one", "two@two"}
    # Nobody can read anybody's home, and the workers have never heard of the repository's place.
    for worker in (one, two):
        assert str(world.repo) not in worker.log()
        peek = worker.start("ls", ann.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert "Permission denied" in peek.communicate(timeout=30)[0]


def test_a_killed_worker_and_a_killed_submitter(people: Team, sdist: Path) -> None:
    """The other worker takes over; the result lands in another clone of the same repository."""
    ann, bob, one, two = (people.member(name) for name in ("ann", "bob", "one", "two"))
    world = world_of(people, ann, sdist)
    clone = bob.home / "clone"
    shutil.copytree(world.repo, clone, symlinks=True)
    bob.own(clone)
    first = one.work()
    two.work()
    people.wait_for_workers(2)
    command = ann.type("run", world.feature, "--distributed", "-j", 4, "--json", cwd=world.repo)
    run_id = str(wait_until(lambda: [r.id for r in people.ledger.runs()], timeout=40, what="a run")[0])

    def busy() -> bool:
        nodes = people.ledger.nodes(run_id).values()
        return sum(n.state == "succeeded" for n in nodes) >= 2 and any(
            n.worker == "one@one" and n.state == "running" for n in nodes
        )

    wait_until(busy, timeout=60, what="worker one is in the middle of it")
    first.kill()
    command.kill()
    command.wait()
    result = bob.agentflow("watch", run_id, cwd=clone)
    assert (result["state"], result["branch"]) == ("landed", TARGET)
    assert tree_of(bob, clone, TARGET) == world.release_tree
    assert any(n.losses for n in people.ledger.nodes(run_id).values())
