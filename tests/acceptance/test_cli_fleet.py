"""The commands on the fleet, typed: their words, their JSON and their exit codes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Cli
from helpers.wait import wait_until
from helpers.workers import FAST


@pytest.fixture
def cli(tmp_path: Path, redis_url: str) -> Iterator[Cli]:
    """A machine of a team: no private server here."""
    runtime = Path(tempfile.mkdtemp(prefix="aff-"))
    (tmp_path / "home").mkdir()
    found = Cli(tmp_path, tmp_path / "home", runtime)
    found.env |= {"AGENTFLOW_REDIS_URL": redis_url, **FAST}
    try:
        yield found
    finally:
        found.run("down", "--redis", redis_url, code=None)
        shutil.rmtree(runtime, ignore_errors=True)


def test_a_fleet_from_its_first_worker_to_its_last(cli: Cli) -> None:
    assert "no worker" in cli.run("workers").stderr
    spawned = cli.json("spawn", 1, "--slots", 2, "--json")
    assert spawned["spawned"] == 1
    shown = cli.run("workers")
    assert spawned["workers"][0] in shown.stdout
    assert "0/2" in shown.stdout
    assert "1 worker process, 0/2 slots busy" in shown.stderr

    told = cli.run("scale", 5)
    assert "5 slots of the fleet may be busy at once; 1 worker process started, 0 dismissed" in told.stdout
    found = cli.json("workers", "--json")
    assert (len(found["workers"]), found["slots"], found["limits"]) == (2, 5, {"fleet": 5})
    role = cli.json("scale", 2, "--role", "backend-engineer", "--json")
    assert (role["status"], role["target"], role["spawned"]) == ("scaled", 2, 0)
    assert cli.json("limits", "--json") == {"fleet": 5, "role:backend": 2}
    assert cli.run("limits", "set", "fleet=0", "backend=3").stdout == "role:backend=3\n"

    drained = cli.json("drain", "--reason", "new kernel", "--json")
    assert (drained["status"], drained["workers_killed"], drained["left"]) == ("drained", 2, [])
    assert drained["snapshot"]["limits"] == {"role:backend": 3}
    assert "the fleet is drained: new kernel" in cli.run("workers").stderr
    assert "AF-FLEET-008" in cli.run("spawn", 1, code=4).stderr
    assert "takes work again" in cli.run("drain", "--resume").stderr
    assert "was not drained" in cli.run("drain", "--resume").stderr

    cli.run("spawn", 1)
    assert "nothing was ended" in cli.run("kill", code=2).stderr
    killed = cli.json("kill", "--yes", "--json")
    assert (killed["status"], killed["workers_killed"], killed["attempts_ended"]) == ("killed", 1, 0)
    assert cli.json("workers", "--json")["workers"] == []


def test_what_cannot_be_done_is_said(cli: Cli) -> None:
    for words, code, said in (
        (("worker", "--roles", "backendd"), 2, "there is no role 'backendd'"),
        (("worker", "--slots", "many"), 2, "'many' slots make no sense"),
        (("worker", "--name", "a b"), 2, "is no name for a worker"),
        (("spawn", "9"), 2, "fleet.max_workers"),
        (("scale", "3", "--role", "nobody"), 2, "there is no role 'nobody'"),
        (("limits", "set", "fleet"), 2, "NAME=SLOTS"),
        (("workers", "--redis", "redis://127.0.0.1:1/0"), 4, "AF-INFRA-001"),
        (("drain", "--timeout", "soon"), 2, "is not a duration"),
    ):
        assert said in cli.run(*words, code=code).stderr, words


def test_two_who_spawn_at_one_moment_do_not_exceed_the_most(cli: Cli) -> None:
    cli.env["AGENTFLOW_FLEET_MAX_WORKERS"] = "2"
    cli.run("spawn", 1, "--slots", 1)
    both = [cli.start("spawn", "1", "--slots", "1", "--no-wait") for _ in range(2)]
    told = [process.communicate(timeout=90)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], told
    assert "AF-FLEET-005" in "".join(told)
    wait_until(lambda: len(cli.json("workers", "--json")["workers"]) == 2, timeout=60)


def test_down_ends_what_was_spawned_and_no_redis(cli: Cli) -> None:
    url = cli.env.pop("AGENTFLOW_REDIS_URL")
    assert "`agentflow down --redis URL`" in cli.run("spawn", 1, "--slots", 1, "--redis", url).stderr
    assert "have ended" in cli.run("down", "--redis", url).stderr
    cli.env["AGENTFLOW_REDIS_URL"] = url
    assert json.loads(cli.run("workers", "--json").stdout)["workers"] == []
    assert "not agentflow's to stop" in cli.run("down", code=2).stderr
