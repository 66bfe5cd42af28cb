"""Runs in odd surroundings: TLS, few rights, a Redis or disk that fills up, wrong clocks, no git name."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis
from helpers.bad_input import GOOD, TARGET, Project
from helpers.repos import git
from helpers.team_redis import fill, make_certificates, team_redis
from helpers.wait import wait_until
from helpers.workers import ROOT, Stage, stage

from agentflow.errors import Exit

PASSWORD = "open sesame"  # noqa: S105 (of a server that lives for one test)


def team(
    server_url: str, project: Project, env: dict[str, str] | None = None
) -> AbstractContextManager[Stage]:
    """Workers for the Redis at an address, with a data directory of their own."""
    home = project.place / "worker"
    home.mkdir()
    return stage(server_url, home, {"AGENTFLOW_GRACE_S": "1", **(env or {})})


def landed(project: Project, url: str, env: dict[str, str] | None = None) -> None:
    """A run over this Redis lands."""
    house = project.house
    house.cwd = project.repo
    before = dict(house.env)
    house.env |= env or {}
    try:
        result = house.finished("--redis-url", url, "run", project.feature())
    finally:
        house.env = before
    project.check_landed(result)


def test_a_run_over_tls_with_a_password(project: Project, tmp_path: Path) -> None:
    """Ledger, messages and results all go through TLS: nobody of this run is on the plain port."""
    certificates = make_certificates(tmp_path / "tls")
    with team_redis(certificates=certificates, password=PASSWORD) as server:
        url = f"rediss://:open%20sesame@localhost:{server.tls_port}/0?ssl_ca_certs={certificates}/ca.crt"
        with team(url, project) as found:
            found.start()
            landed(project, url)
            with server.client(PASSWORD) as client:
                assert ports(client) == {str(server.tls_port)}


def test_a_run_with_the_rights_that_the_documents_name(project: Project) -> None:
    """`+@all -@dangerous +info` on all keys and channels is enough for submitter and worker."""
    assert "`+@all -@dangerous +info`" in (ROOT / "docs" / "redis.md").read_text()
    with team_redis() as server:
        with server.client() as client:
            client.acl_setuser(
                "runner", enabled=True, passwords=["+hunter2"], keys=["*"], channels=["*"],
                commands=["+@all", "-@dangerous", "+info"],
            )  # fmt: skip
        url = server.url("runner:hunter2@")
        with team(url, project) as found:
            found.start()
            landed(project, url)


def ports(client: redis.Redis) -> set[str]:
    """The server's ports that others are connected to."""
    own = client.client_id()
    return {e["laddr"].rpartition(":")[2] for e in client.client_list() if int(e["id"]) != own}


def test_a_redis_that_fills_up_in_the_middle_of_a_run(project: Project) -> None:
    """No new run begins; what runs waits for room, can be cancelled, and lands when there is room again."""
    with team_redis("--maxmemory", "32mb") as server, team(server.url(), project) as found:
        gate = project.place / "gate"
        waits = f"import os,time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
        worker = found.start()
        house = project.house
        house.cwd = project.repo
        file = project.feature({"command": ["{python}", "-c", waits + str(GOOD["command"][2])]})
        process = house.start("--redis-url", server.url(), "run", file, "--json")
        (run,) = wait_until(found.ledger.runs, timeout=40)
        wait_until(lambda: found.ledger.node(run.id, "fix").state == "running", timeout=40)
        other = house.run("--redis-url", server.url(), "run", file, "--detach", "--json").stdout
        with server.client() as client:
            fill(client)
            check_refused_now(project, server.url())
            house.run("--redis-url", server.url(), "cancel", json.loads(other)["run"])
            gate.touch()
            wait_until(
                lambda: "waits to be settled: Redis is away or full" in worker.log.read_text(), timeout=30
            )
            client.delete("ballast")
        result = house.result_of(process)
        project.check_landed(result)
        # The finished work waited; nobody had to do it twice.
        assert result["nodes"]["fix"]["attempts"] == 1


def check_refused_now(project: Project, url: str) -> None:
    done = project.house.run("--redis-url", url, "run", project.feature(), "--json", code=Exit.INFRA)
    assert done.stderr.startswith("error[AF-INFRA-041]: ")


@pytest.mark.parametrize("who", ["submitter", "worker"])
@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_an_hour_off(
    project: Project, redis_url: str, monkeypatch: pytest.MonkeyPatch, who: str, hours: int
) -> None:
    """Shared facts are timed by Redis, deadlines by the monotonic clock: the wall clock is for display."""
    wrong = skewed(project.place, hours)
    with team(redis_url, project) as found:
        with monkeypatch.context() as worker:
            if who == "worker":
                worker.setenv("PYTHONPATH", wrong)
            started = found.start()
        landed(project, redis_url, {"PYTHONPATH": f"{wrong}:{ROOT}"} if who == "submitter" else {})
        (run,) = found.ledger.runs()
        node = found.ledger.node(run.id, "fix")
        assert (node.attempt, node.losses) == (1, 0)
        assert 0 < run.closed_ms - run.opened_ms < 120_000
        assert started.process.poll() is None
    said = sorted(project.place.glob("clock.*"))
    assert said
    assert all(abs(float(file.read_text()) - time.time() - hours * 3600) < 120 for file in said)


def skewed(place: Path, hours: int) -> str:
    """A directory for PYTHONPATH whose processes have a wall clock that is wrong.

    They leave what they take for the time. (libfaketime cannot be used: Python's sleep fails under it.)
    """
    code = f"""\
import os, time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {hours * 3600}
time.time_ns = lambda: _time_ns() + {hours * 3600} * 10**9
with open({str(place)!r} + f"/clock.{{os.getpid()}}", "w") as file:
    file.write(str(time.time()))
"""
    (place / "skew").mkdir()
    (place / "skew" / "sitecustomize.py").write_text(code)
    return str(place / "skew")


def test_a_worker_of_another_schema_takes_no_work(project: Project, redis_url: str) -> None:
    with team(redis_url, project) as found:
        found.ledger.client.set("af:schema", "999")
        worker = found.start(wait=False)
        assert worker.process.wait(30) == Exit.INFRA
        log = worker.log.read_text()
        assert "error[AF-INFRA-005]" in log
        assert "Traceback" not in log
        (refused,) = found.ledger.workers()
        assert (refused.state, refused.slots) == ("refused", 0)
        assert "schema 999" in refused.reason
        project.house.cwd = project.repo
        done = project.house.run(
            "--redis-url", redis_url, "run", project.feature(), "--json", code=Exit.INFRA
        )
        assert "error[AF-INFRA-005]" in done.stderr


def test_a_submitter_without_a_git_identity(project: Project) -> None:
    """Commits and the landed merge are agentflow's: nobody needs a name in git."""
    assert not {name for name in os.environ if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER", "EMAIL"))}
    said = git(project.repo, "config", "--list", "--show-origin")
    assert "user.name" not in said
    assert "user.email" not in said
    result = project.run(project.feature(), code=0)
    project.check_landed(result)
    assert git(project.repo, "log", "-1", "--format=%an", TARGET)


#: Runs what follows it in a mount namespace of its own, in which a directory is a file system of 3 MB. It
#: goes with that process: nothing stays mounted when a test is killed, and nobody else sees it.
ON_A_SMALL_DISK = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"')


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A directory that can be a file system of 3 MB."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        done = subprocess.run(
            [*ON_A_SMALL_DISK, str(place), "true"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    return place


def test_a_full_disk_in_the_workspace(project: Project, redis_url: str, small_disk: Path) -> None:
    """The attempt fails with the disk's own words; the worker lives and does the next run elsewhere."""
    filler = "open('big.bin', 'wb').write(b'x' * 8_000_000)"
    with team(redis_url, project, {"AGENTFLOW_HOME": str(small_disk)}) as found:
        worker = found.start(under=(*ON_A_SMALL_DISK, str(small_disk)))
        house = project.house
        house.cwd = project.repo
        file = project.feature({"command": ["{python}", "-c", filler]})
        result = house.finished("--redis-url", redis_url, "run", file, code=None)
        assert result["state"] == "failed"
        said = str(result["nodes"]["fix"]) + found.ledger.node(result["run"], "fix").feedback
        assert "No space left on device" in said
        assert worker.process.poll() is None
        landed(project, redis_url)
