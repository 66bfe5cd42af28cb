"""A team's Redis that cannot be used: told at once, in words that help, with exit code 4 and no password."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.bad_input import Project
from helpers.repos import git
from helpers.team_redis import TeamRedis, fill, free_port, make_certificates, team_redis

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
