"""What a user of a team's Redis meets: detached runs, nobody who serves a role, a target that moves, logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import git, repository, write
from helpers.house import House
from helpers.wait import wait_until
from helpers.workers import Stage, stage

SPEC = """\
feature: Two files
target: release
runner: {command: ["sh", "-c", "echo {task} > {task}.txt; echo I wrote {task}"]}
validate: ["test -f one.txt -a -f two.txt"]
tasks:
  - {id: one, role: backend, artifacts: [one.txt], acceptance: ["test -s one.txt"]}
  - {id: two, role: docs, artifacts: [two.txt], needs: [one]}
"""


@pytest.fixture
def machine(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A machine of the team: workers with a data directory of their own."""
    (tmp_path / "machine").mkdir()
    with stage(redis_url, tmp_path / "machine") as found:
        yield found


@pytest.fixture
def ann(house: House, redis_url: str) -> Iterator[House]:
    """A submitter whose configuration names the team's Redis, in a repository with a spec."""
    repository(house.cwd, {"a.txt": "a\n", "feature.yaml": SPEC})
    house.env["AGENTFLOW_REDIS_URL"] = redis_url
    yield house
    house.env.pop("AGENTFLOW_REDIS_URL", None)


def test_a_detached_run_waits_to_be_landed(ann: House, machine: Stage) -> None:
    machine.start()
    run_id = ann.run("run", "feature.yaml", "--distributed", "--detach").stdout.strip()
    wait_until(lambda: machine.ledger.is_closed(run_id), timeout=60)
    told = ann.run("status", run_id).stdout
    assert "ready_to_land" in told
    assert f"agentflow land {run_id}" in told
    assert git(ann.cwd, "branch", "--list", "release") == ""
    assert "release" in ann.run("land", run_id).stdout
    assert git(ann.cwd, "show", "release:two.txt") == "two\n"


def test_a_role_that_nobody_serves_is_told(ann: House, machine: Stage) -> None:
    machine.start("w1", options=("-Q", "backend"))
    command = ann.start("run", "feature.yaml", "--distributed", "--progress", "plain")
    run_id = str(wait_until(lambda: [r.id for r in machine.ledger.runs()], timeout=40)[0])
    wait_until(lambda: machine.ledger.node(run_id, "one").state == "succeeded", timeout=40)
    assert "queue docs" in ann.run("why", run_id, "two").stdout
    machine.start("w2", options=("-Q", "docs"))
    out, err = command.communicate(timeout=60)
    assert command.returncode == 0, err
    assert "no worker serves these queues yet: docs;" in err
    assert "release" in out


def test_a_target_that_moved_is_integrated_again_on_a_worker(ann: House, machine: Stage) -> None:
    machine.start()
    git(ann.cwd, "branch", "release")
    run_id = ann.finished("run", "feature.yaml", "--distributed", "--no-land")["run"]
    git(ann.cwd, "switch", "--quiet", "release")
    write(ann.cwd, {"elsewhere.txt": "e\n"})
    git(ann.cwd, "add", "elsewhere.txt")
    git(ann.cwd, "commit", "--quiet", "-m", "meanwhile")
    git(ann.cwd, "switch", "--quiet", "main")
    assert ann.json("land", run_id, "--json")["state"] == "landed"
    names = git(ann.cwd, "ls-tree", "--name-only", "release").split()
    assert {"one.txt", "two.txt", "elsewhere.txt"} <= set(names)


def test_logs_and_diffs_of_other_machines(ann: House, machine: Stage) -> None:
    machine.start()
    run_id = ann.finished("run", "feature.yaml", "--distributed")["run"]
    assert "I wrote one" in ann.run("logs", run_id, "one").stdout
    assert "+two" in ann.run("diff", run_id, "two").stdout


def test_without_a_redis_of_the_team_it_says_what_is_needed(ann: House) -> None:
    del ann.env["AGENTFLOW_REDIS_URL"]
    told = ann.run("run", "feature.yaml", "--distributed", code=3).stderr
    assert "redis.url" in told
    assert "AGENTFLOW_REDIS_URL" in told


def test_a_clone_without_the_base_cannot_land(ann: House, machine: Stage, tmp_path: Path) -> None:
    machine.start()
    run_id = ann.finished("run", "feature.yaml", "--distributed", "--no-land")["run"]
    stranger = repository(tmp_path / "stranger", {"x": "x\n"})
    (ann.cwd / ".git").rename(tmp_path / "gone")
    ann.cwd = stranger
    told = ann.run("land", run_id, code=3).stderr
    assert "is not here" in told
    assert "git fetch" in told


def test_the_shop_has_the_same_tree_wherever_it_is_run(
    house: House, machine: Stage, redis_url: str, tmp_path: Path
) -> None:
    """Seven scripted agents here, and over two workers of the team; the model's server is all they share."""
    machine.start("w1", slots=2)
    machine.start("w2", slots=2, env={"AGENTFLOW_HOME": str(tmp_path / "machine2")})
    trees = set()
    for number, words in enumerate((["--redis-url", redis_url], [])):
        shop = tmp_path / f"shop{number}"
        result = house.finished(*words, "demo", "--keep", shop)
        assert result["state"] == "landed"
        trees.add(git(shop, "rev-parse", f"{result['branch']}^{{tree}}"))
    workers = {n.worker for n in machine.ledger.nodes(machine.ledger.runs()[0].id).values()}
    assert len(trees) == 1
    assert workers == {"w1@test", "w2@test"}
