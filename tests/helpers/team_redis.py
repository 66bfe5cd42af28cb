"""A team's Redis for tests: on a TCP port of this machine, with a password, TLS or whatever is asked for."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from helpers.wait import wait_until

from agentflow.local.server import find_binary


@dataclass(frozen=True, slots=True)
class TeamRedis:
    """Where it listens; `port` is plain, `tls_port` is for TLS when certificates were given."""

    directory: Path
    port: int
    tls_port: int
    process: subprocess.Popen[bytes]

    def url(self, login: str = "", host: str = "127.0.0.1") -> str:
        """Its plain address; `login` is `:password@` and the like."""
        return f"redis://{login}{host}:{self.port}/0"

    def tls_url(self, query: str = "", host: str = "localhost") -> str:
        """Its address with TLS."""
        return f"rediss://{host}:{self.tls_port}/0{'?' if query else ''}{query}"

    def client(self, password: str | None = None) -> redis.Redis:
        """A client of its plain port."""
        return redis.Redis(port=self.port, password=password, decode_responses=True)


def free_port() -> int:
    """A port that nobody listens to just now, below those that a cluster's bus needs."""
    while True:
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", random.randrange(20_000, 50_000)))
            return int(found.getsockname()[1])


@contextmanager
def team_redis(*options: str, certificates: Path | None = None, password: str = "") -> Iterator[TeamRedis]:
    """A server with further options of redis-server; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="aft-"))
    port, tls_port = free_port(), free_port()
    words = [
        str(find_binary().path), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
        "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
    ]  # fmt: skip
    if certificates:
        words += [
            "--tls-port", str(tls_port), "--tls-cert-file", str(certificates / "server.crt"),
            "--tls-key-file", str(certificates / "server.key"),
            "--tls-ca-cert-file", str(certificates / "ca.crt"), "--tls-auth-clients", "no",
        ]  # fmt: skip
    if password:
        words += ["--requirepass", password]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*words, *options], stdout=log, stderr=log)
    found = TeamRedis(directory, port, tls_port, process)
    try:
        wait_until(lambda: process.poll() is not None or answers(found, password), timeout=20)
        assert process.poll() is None, (directory / "log").read_text()
        yield found
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def answers(server: TeamRedis, password: str = "") -> bool:
    """Whether it answers on its plain port."""
    with server.client(password or None) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
        except redis.RedisError:
            return True


def fill(client: redis.Redis) -> None:
    """Until Redis takes nothing more."""
    with contextlib.suppress(redis.exceptions.OutOfMemoryError):
        while True:
            client.append("ballast", "x" * 100_000)


def make_certificates(directory: Path, names: str = "DNS:localhost") -> Path:
    """A certificate authority and a server certificate for these names, by the openssl command."""
    directory.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=our CA")
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=redis")
    (directory / "names").write_text(f"subjectAltName={names}\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "server.crt", "-days", "2", "-extfile", "names",
    )  # fmt: skip
    return directory
