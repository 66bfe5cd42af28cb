"""A team's Redis that cannot be used: told at once, in words that help, with exit code 4 and no password."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from helpers.bad_input import GOOD, TARGET, Project
from helpers.house import House
from helpers.repos import git
from helpers.team_redis import TeamRedis, free_port, make_certificates, team_redis
from helpers.wait import wait_until
from helpers.workers import ROOT, stage

from agentflow.errors import Exit

PASSWORD = "open sesame"  # noqa: S105 (of a server that lives for these tests)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Two authorities; the server's certificate is signed by `ours`."""

    ours: Path
    others: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    place = tmp_path_factory.mktemp("tls")
    return Certificates(make_certificates(place / "ours"), make_certificates(place / "others"))


@pytest.fixture(scope="module")
def guarded(certificates: Certificates) -> Iterator[TeamRedis]:
    """A server with a password, on a plain port and on one for TLS."""
    with team_redis(certificates=certificates.ours, password=PASSWORD) as found:
        yield found


def url_of(server: TeamRedis, case: str, tls: Certificates) -> str:
    """The address of each case."""
    login = ":open%20sesame@"
    ca = f"?ssl_ca_certs={tls.ours}/ca.crt"
    return {
        "down": f"redis://{login}127.0.0.1:{free_port()}/0",
        "no such host": f"redis://{login}redis.invalid:6379/0",
        "no password": server.url(),
        "wrong password": server.url(":hunter2@"),
        "unknown user": server.url("bob:hunter2@"),
        "no such database": server.url(login).replace("/0", "/99"),
        "plain to TLS": f"redis://{login}127.0.0.1:{server.tls_port}/0",
        "TLS to plain": f"rediss://{login}127.0.0.1:{server.port}/0",
        "unknown authority": f"rediss://{login}localhost:{server.tls_port}/0",
        "another authority": f"rediss://{login}localhost:{server.tls_port}/0?ssl_ca_certs={tls.others}/ca.crt",
        "another name": f"rediss://{login}127.0.0.1:{server.tls_port}/0{ca}",
        "no such file": f"rediss://{login}localhost:{server.tls_port}/0?ssl_ca_certs={tls.ours}/gone.crt",
        "a file without certificate": (
            f"rediss://{login}localhost:{server.tls_port}/0?ssl_ca_certs={tls.ours}/ca.key"
        ),
    }[case]


REFUSED = {
    "down": ("AF-INFRA-001", "does not answer", "nobody listens there", "start it"),
    "no such host": ("AF-INFRA-001", "does not answer", "no host is called redis.invalid", "check redis.url"),
    "no password": (
        "AF-INFRA-002",
        "asks for a password",
        "the address holds none",
        "redis://user:password@",
    ),
    "wrong password": ("AF-INFRA-002", "refused the password", "invalid username-password", "put user"),
    "unknown user": ("AF-INFRA-002", "refused the password", "invalid username-password", "put user"),
    "no such database": ("AF-INFRA-004", "no database of this number", "", ":6379/0"),
    "plain to TLS": ("AF-INFRA-007", "cannot be reached", "it speaks only TLS", "write rediss://"),
    "TLS to plain": ("AF-INFRA-007", "cannot be reached", "it speaks no TLS", "write redis://"),
    "unknown authority": ("AF-INFRA-007", "cannot be reached", "nobody that is trusted", "ssl_ca_certs="),
    "another authority": ("AF-INFRA-007", "cannot be reached", "nobody that is trusted", "ssl_ca_certs="),
    "another name": ("AF-INFRA-007", "cannot be reached", "not made for 127.0.0.1", "subjectAltName"),
    "no such file": ("AF-INFRA-007", "cannot be reached", "gone.crt", "check the path"),
    "a file without certificate": ("AF-INFRA-007", "cannot be reached", "holds no certificate", "PEM"),
}


def check_refused(project: Project, url: str, code: str, what: str, why: str, fix: str) -> None:
    """`run` with this address: a message, no run, nothing touched."""
    project.house.cwd = project.repo
    done = project.house.run("--redis-url", url, "run", project.feature(), "--json", code=Exit.INFRA)
    assert done.stdout == ""
    first, *more = done.stderr.splitlines()
    assert first.startswith(f"error[{code}]: ")
    assert what in first
    lines = dict(line.strip().split(": ", 1) for line in more)
    assert why in lines.get("why", "")
    assert fix in lines.get("fix", "")
    for secret in ("sesame", "hunter2"):
        assert secret not in done.stderr
    assert "Traceback" not in done.stderr
    assert git(project.repo, "for-each-ref", "refs/agentflow") == ""


@pytest.mark.parametrize("case", REFUSED)
def test_an_address_that_does_not_fit(
    project: Project, guarded: TeamRedis, certificates: Certificates, case: str
) -> None:
    check_refused(project, url_of(guarded, case, certificates), *REFUSED[case])


@contextmanager
def acl() -> Iterator[str]:
    """A user who may only read."""
    with team_redis() as server:
        with server.client() as client:
            client.acl_setuser("reader", enabled=True, passwords=["+hunter2"], commands=["+@read", "+ping"])
        yield server.url("reader:hunter2@")


def plain(*options: str) -> Callable[[], object]:
    @contextmanager
    def make() -> Iterator[str]:
        with team_redis(*options) as server:
            yield server.url()

    return make


@contextmanager
def full() -> Iterator[str]:
    with team_redis("--maxmemory", "8mb") as server:
        with server.client() as client:
            fill(client)
        yield server.url()


@contextmanager
def nearly_full() -> Iterator[str]:
    with team_redis("--maxmemory", "32mb") as server:
        with server.client() as client:
            while client.info("memory")["used_memory"] < 27 << 20:
                client.append("ballast", "x" * 100_000)
        yield server.url()


SERVERS = {
    "a read-only replica": (
        plain("--replicaof", "127.0.0.1", "1"),
        ("AF-INFRA-008", "is a read-only replica", "a run writes", "name the primary"),
    ),
    "a cluster": (
        plain("--cluster-enabled", "yes"),
        ("AF-INFRA-004", "Redis Cluster is not supported", "slots", "use a single server"),
    ),
    "one that may forget": (
        plain("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"),
        ("AF-INFRA-009", "may forget keys", "a lost run", "maxmemory-policy noeviction"),
    ),
    "one that may forget what expires": (
        plain("--maxmemory", "64mb", "--maxmemory-policy", "volatile-ttl"),
        ("AF-INFRA-009", "may forget keys", "a lost run", "maxmemory-policy noeviction"),
    ),
    "an ACL without rights": (acl, ("AF-INFRA-013", "does not allow", "its ACL", "docs/redis.md")),
    "a full one": (full, ("AF-INFRA-041", "is full", "its maxmemory", "raise maxmemory")),
    "one above 80 %": (nearly_full, ("AF-INFRA-041", "too full", "above 80%", "raise maxmemory")),
}


@pytest.mark.parametrize("case", SERVERS)
def test_a_server_that_does_not_fit(project: Project, case: str) -> None:
    make, told = SERVERS[case]
    with make() as url:
        check_refused(project, url, *told)


def test_a_policy_does_not_matter_without_a_limit(project: Project) -> None:
    """`maxmemory 0` never forgets, whatever the policy says."""
    with team_redis("--maxmemory-policy", "allkeys-lru") as server:
        project.house.cwd = project.repo
        done = project.house.run("--redis-url", server.url(), "status")
        assert done.stderr == ""


def team(server_url: str, project: Project, env: dict[str, str] | None = None) -> object:
    """Workers for the Redis at an address, with a data directory of their own."""
    home = project.place / "worker"
    home.mkdir()
    return stage(server_url, home, {"AGENTFLOW_GRACE_S": "1", **(env or {})})


def landed(project: Project, url: str, env: dict[str, str] | None = None) -> None:
    """A run over this Redis lands."""
    house: House = project.house
    house.cwd = project.repo
    before = dict(house.env)
    house.env |= env or {}
    try:
        result = house.finished("--redis-url", url, "run", project.feature())
    finally:
        house.env = before
    project.check_landed(result)


def test_a_run_over_tls_with_a_password(
    project: Project, guarded: TeamRedis, certificates: Certificates
) -> None:
    """Ledger, messages and results all go through TLS: the plain port sees no command of this run."""
    url = f"rediss://:open%20sesame@localhost:{guarded.tls_port}/0?ssl_ca_certs={certificates.ours}/ca.crt"
    with team(url, project) as found:
        found.start()
        landed(project, url)
        with guarded.client(PASSWORD) as client:
            told = {(name.split("@")[0], laddr) for name, laddr in addresses(client)}
            assert {laddr for _, laddr in told} == {str(guarded.tls_port)}


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


def addresses(client: redis.Redis) -> list[tuple[str, str]]:
    """Name and server-side port of every other connection."""
    own = client.client_id()
    return [
        (entry["name"], entry["laddr"].rpartition(":")[2])
        for entry in client.client_list()
        if int(entry["id"]) != own
    ]


def test_a_redis_that_fills_up_in_the_middle_of_a_run(project: Project) -> None:
    """No new run begins; what runs waits for room, can be cancelled, and lands when there is room again."""
    with team_redis("--maxmemory", "32mb") as server, team(server.url(), project) as found:
        gate = project.place / "gate"
        waits = f"import os,time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
        found.start()
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
            wait_until(lambda: "too full" in found.ledger.node(run.id, "fix").reason, timeout=30)
            client.delete("ballast")
        project.check_landed(house.result_of(process))


def fill(client: redis.Redis) -> None:
    """Until Redis takes nothing more."""
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        append_for_ever(client)


def append_for_ever(client: redis.Redis) -> None:
    while True:
        client.append("ballast", "x" * 100_000)


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
        assert found.ledger.workers() == []
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_in_the_workspace(project: Project, redis_url: str, small_disk: Path) -> None:
    """The attempt fails with the disk's own words; the worker lives and does the next run elsewhere."""
    filler = "open('big.bin', 'wb').write(b'x' * 8_000_000)"
    with team(redis_url, project, {"AGENTFLOW_HOME": str(small_disk)}) as found:
        worker = found.start()
        house = project.house
        house.cwd = project.repo
        file = project.feature({"command": ["{python}", "-c", filler]})
        result = house.finished("--redis-url", redis_url, "run", file, code=None)
        assert result["state"] == "failed"
        said = str(result["nodes"]["fix"]) + found.ledger.node(result["run"], "fix").feedback
        assert "No space left on device" in said
        assert worker.process.poll() is None
        landed(project, redis_url)
