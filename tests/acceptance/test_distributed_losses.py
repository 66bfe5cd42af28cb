"""A team's run when something goes wrong: Redis away at the wrong moment, red work, strangers' work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers.cli import git, repository
from helpers.house import House
from helpers.redis_server import fragile_server
from helpers.repos import make_repo
from helpers.travel import work
from helpers.wait import wait_until
from helpers.workers import Stage, stage

from agentflow import homes, runs, transport
from agentflow.errors import RepositoryError
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState
from agentflow.store import keys


def spec(script: str, acceptance: str = "true", *, retries: int = 0) -> str:
    """A run of one node whose agent is a shell script."""
    task: dict[str, object] = {
        "id": "one",
        "role": "backend",
        "artifacts": ["one.txt"],
        "acceptance": [acceptance],
    }
    task["retries"] = retries
    runner = {"command": ["sh", "-c", script]}
    feature = {"feature": "One file", "target": "release", "runner": runner}
    return json.dumps({**feature, "tasks": [task]})


@pytest.fixture
def machine(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A machine of the team."""
    (tmp_path / "machine").mkdir()
    with stage(redis_url, tmp_path / "machine") as found:
        yield found


@pytest.fixture
def ann(house: House, redis_url: str) -> Iterator[House]:
    """A submitter whose configuration names the team's Redis."""
    house.env["AGENTFLOW_REDIS_URL"] = redis_url
    yield house
    house.env.pop("AGENTFLOW_REDIS_URL", None)


def test_finished_work_waits_for_a_redis_that_is_away(tmp_path: Path) -> None:
    """An agent costs money: the server's restart while its work is sent is no reason for another one."""
    (tmp_path / "machine").mkdir()
    repo = make_repo(tmp_path / "repo", {"a.txt": "a\n"})
    go, runs_made = tmp_path / "go", tmp_path / "made"
    script = f"echo >> {runs_made}; until test -e {go}; do sleep 0.1; done; echo 1 > one.txt"
    with fragile_server() as server, stage(server.client_url, tmp_path / "machine") as found:
        found.start()
        plan = parse_spec(spec(script, retries=2), name="feature.yaml", config=found.config)
        run_id = runs.submit(plan, config=found.config, repo=repo)
        wait_until(runs_made.exists, timeout=30, what="the agent runs")
        server.kill()
        go.touch()
        log = found.workers[0].log
        wait_until(lambda: "waits to be settled" in log.read_text(), timeout=60, what="it was tried in vain")
        server.start()
        found.wait_closed(run_id)
        assert found.workers[0].process.poll() is None
        result = runs.finish(run_id, config=found.config, repo=repo)
    assert result.state == "landed"
    assert runs_made.read_text() == "\n"


def test_red_work_takes_no_room_in_redis(ann: House, machine: Stage, redis_client: redis.Redis) -> None:
    repository(ann.cwd, {"a.txt": "a\n", "feature.yaml": spec("echo 1 > one.txt", "false")})
    machine.start()
    run_id = ann.json("run", "feature.yaml", "--distributed", "--json", code=1)["run"]
    assert redis_client.keys(f"af:pack:{run_id}:*") == []


def test_a_failed_run_is_told_where_there_is_no_clone(ann: House, machine: Stage, tmp_path: Path) -> None:
    repository(ann.cwd, {"a.txt": "a\n", "feature.yaml": spec("echo 1 > one.txt", "false")})
    machine.start()
    run_id = ann.json("run", "feature.yaml", "--distributed", "--json", code=1)["run"]
    (ann.cwd / ".git").rename(tmp_path / "gone")
    ann.cwd = tmp_path
    assert ann.json("watch", run_id, "--json", code=1)["state"] == "failed"


def test_strangers_work_does_not_land(ann: House, machine: Stage, tmp_path: Path) -> None:
    """Whoever may write to Redis can say that something else is the result."""
    repository(ann.cwd, {"a.txt": "a\n", "feature.yaml": spec("echo 1 > one.txt")})
    machine.start()
    run_id = ann.finished("run", "feature.yaml", "--distributed", "--no-land")["run"]
    run = machine.ledger.run(run_id)
    depot = transport.open_depot(machine.config, run)
    forged = work(depot, run.base, {".github/workflows/x.yml": "on: push\n"}, tmp_path / "forged")
    machine.ledger.client.hset(keys.run(run_id), "result", forged)
    told = ann.run("land", run_id, code=1).stderr
    assert "AF-POLICY-012" in told
    assert git(ann.cwd, "branch", "--list", "release") == ""


def test_another_repository_at_the_same_path_is_not_landed_in(machine: Stage, tmp_path: Path) -> None:
    """Two machines may have one name, and two people one path."""
    repo = make_repo(tmp_path / "repo", {"a.txt": "a\n"})
    plan = parse_spec(spec("true"), name="feature.yaml", config=machine.config)
    run_id = runs.submit(plan, config=machine.config, repo=repo)
    run = machine.ledger.run(run_id)
    assert homes.home_of(run, None) == repo / ".git"
    repo.rename(tmp_path / "moved")
    make_repo(repo, {"b.txt": "another\n"})
    with pytest.raises(RepositoryError, match="is not here"):
        homes.home_of(run, None)


def test_collecting_leaves_the_runs_of_another_redis_alone(
    ann: House, machine: Stage, redis_url: str
) -> None:
    """The private server and the team's have one data directory."""
    repository(ann.cwd, {"a.txt": "a\n", "feature.yaml": spec("echo 1 > one.txt")})
    machine.start()
    ann.env.pop("AGENTFLOW_REDIS_URL")
    own = ann.finished("run", "feature.yaml")["run"]
    ann.env["AGENTFLOW_REDIS_URL"] = redis_url
    os.utime(ann.home / "runs" / own, (0, 0))
    told = ann.run("gc", "--older-than", "1s").stdout
    assert own not in told
    assert (ann.home / "runs" / own / "plan.json").exists()


def test_a_worker_removes_what_closed_runs_left(machine: Stage, tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"a.txt": "a\n"})
    plan = parse_spec(spec("echo 1 > one.txt"), name="feature.yaml", config=machine.config)
    old, fresh = (runs.submit(plan, config=machine.config, repo=repo) for _ in range(2))
    stores = [
        transport.open_depot(machine.config, machine.ledger.run(run_id)).store.git_dir
        for run_id in (old, fresh)
    ]
    runs.cancel(old, config=machine.config)
    machine.ledger.close(old, RunState.CANCELLED)
    for store in stores:
        os.utime(store, (0, 0))
    machine.start()
    wait_until(lambda: not stores[0].exists(), timeout=20)
    assert stores[1].exists()
