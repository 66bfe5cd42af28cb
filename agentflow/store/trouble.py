"""What is wrong with a Redis, as an `InfraError` that says what happened, why, and what to do.

Clients report most mistakes in an address as a lost connection. Where that could be plain against TLS, the
server is asked how it likes to be spoken to (one connection of its own, a few seconds at most).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import redis

from agentflow.errors import InfraError
from agentflow.places import masked

#: The code of the error for a server that does not answer (it may come back).
NO_ANSWER = "AF-INFRA-001"
WRONG_PASSWORD = "AF-INFRA-002"  # noqa: S105 (a code)
UNUSABLE = "AF-INFRA-004"
WRONG_TLS = "AF-INFRA-007"
READ_ONLY = "AF-INFRA-008"
FULL = "AF-INFRA-041"
NOT_ALLOWED = "AF-INFRA-013"
#: Seconds that the server has for its answer to such a question.
ASK_TIMEOUT_S = 2.0
_REDIS_PORT = 6379
#: OpenSSL's numbers for a certificate that is made for another name or address.
_MISMATCHES = {62, 64}
_EXPIRED = 10


def redis_trouble(error: BaseException, url: str) -> InfraError | None:
    """The explanation of any error that a client of Redis has caused, Celery's included, else None."""
    cause = next((found for found in _causes(error) if isinstance(found, redis.RedisError)), None)
    return explained(cause, url) if cause else None


def explained(error: Exception, url: str) -> InfraError:
    """The error of a client of the Redis at `url`, explained."""
    at = f"Redis at {masked(url)}"
    for explain in (_login, _refused_command, _tls, _plain_or_tls):
        found = explain(error, url, at)
        if found:
            return found
    return InfraError(f"{at} does not answer: {error}", code=NO_ANSWER, **_unreachable(error, url))


def _login(error: Exception, url: str, at: str) -> InfraError | None:
    if isinstance(error, redis.AuthenticationError):
        if not urlsplit(url).password:
            what, why = f"{at} asks for a password", "the address holds none"
        else:
            what, why = f"{at} refused the password", str(error)
        fix = "put user and password into the address: redis://user:password@host:6379/0"
        return InfraError(what, why=why, fix=fix, code=WRONG_PASSWORD)
    if isinstance(error, redis.exceptions.NoPermissionError):
        return InfraError(
            f"{at} does not allow what a run needs: {error}",
            why="its ACL gives this user fewer rights",
            fix="a user needs all commands but the dangerous ones, on all keys and channels: docs/redis.md",
            code=NOT_ALLOWED,
        )
    return None


def _refused_command(error: Exception, _url: str, at: str) -> InfraError | None:
    """The server answers and does not do it."""
    text = str(error)
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in text:
        return InfraError(
            f"{at} is full",
            why="it has reached its maxmemory and may forget nothing",
            fix="raise maxmemory, or free what closed runs hold: agentflow gc",
            code=FULL,
        )
    if isinstance(error, redis.ReadOnlyError) or "READONLY" in text:
        return read_only(at)
    if isinstance(error, redis.BusyLoadingError):
        return InfraError(
            f"{at} is still loading its data", fix="wait until it is done, then try again", code=NO_ANSWER
        )
    return _answered(text, at) if isinstance(error, redis.ResponseError) else None


def _answered(text: str, at: str) -> InfraError:
    """Any other error that the server itself has sent."""
    if "DB index" in text:
        fix = "name one that is there: …:6379/0; `redis-cli CONFIG GET databases` says how many are"
        return InfraError(f"{at} has no database of this number", fix=fix, code=UNUSABLE)
    if text.startswith("MISCONF"):
        fix = "its disk is full or not writable"
        return InfraError(f"{at} accepts no writes", why=text, fix=fix, code=UNUSABLE)
    return InfraError(f"{at} refused a command: {text}", fix="see its log", code=UNUSABLE)


def read_only(at: str) -> InfraError:
    """The address is that of a replica."""
    return InfraError(
        f"{at} is a read-only replica",
        why="a run writes with every step",
        fix="name the primary; `redis-cli INFO replication` on the replica shows its master_host",
        code=READ_ONLY,
    )


def _tls(error: Exception, url: str, at: str) -> InfraError | None:
    """What TLS itself says."""
    cause = next((found for found in _causes(error) if isinstance(found, ssl.SSLError)), None)
    options = dict(parse_qsl(url.partition("?")[2]))
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options and not Path(options[name]).is_file():
            return _wrong_tls(at, f"{name} names a file that is not there: {options[name]}", "check the path")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate(cause, url, at)
    if cause is None or "WRONG_VERSION" in str(cause):
        return None
    if "CERTIFICATE_REQUIRED" in str(cause).upper().replace(" ", "_"):
        return _wrong_tls(
            at, "it asks for a certificate of the client",
            "add ?ssl_certfile=/PATH/client.crt&ssl_keyfile=/PATH/client.key to the address",
        )  # fmt: skip
    if "NO_CERTIFICATE" in str(cause):
        return _wrong_tls(
            at, "a file of the address holds no certificate", "it must be PEM: BEGIN CERTIFICATE"
        )
    return _wrong_tls(at, str(cause), "try `openssl s_client -connect HOST:PORT`")


def _certificate(cause: ssl.SSLCertVerificationError, url: str, at: str) -> InfraError:
    if cause.verify_code in _MISMATCHES:
        host = urlsplit(url).hostname
        return _wrong_tls(
            at, f"its certificate is not made for {host}",
            "use the name that the certificate has, or make one with this name in subjectAltName",
        )  # fmt: skip
    if cause.verify_code == _EXPIRED:
        return _wrong_tls(at, "its certificate has expired", "renew it, or set this machine's clock right")
    return _wrong_tls(
        at, f"nobody that is trusted here has signed its certificate ({cause.verify_message})",
        "add ?ssl_ca_certs=/PATH/ca.crt (the team's own authority) to the address",
    )  # fmt: skip


def _plain_or_tls(error: Exception, url: str, at: str) -> InfraError | None:
    """Plain against TLS, found out by asking."""
    parts = urlsplit(url)
    if not isinstance(error, (redis.ConnectionError, redis.TimeoutError, redis.exceptions.InvalidResponse)):
        return None
    if any(isinstance(cause, (ConnectionRefusedError, socket.gaierror)) for cause in _causes(error)):
        return None
    if parts.scheme == "rediss" and _asks(parts.hostname, parts.port, _is_plain):
        return _wrong_tls(at, "it speaks no TLS on this port", "write redis://, or name the port for TLS")
    if parts.scheme == "redis" and _asks(parts.hostname, parts.port, _is_tls):
        return _wrong_tls(at, "it speaks only TLS on this port", "write rediss://, or name the plain port")
    return None


def _wrong_tls(at: str, why: str, fix: str) -> InfraError:
    return InfraError(
        f"{at} cannot be reached: its TLS and the address do not fit", why=why, fix=fix, code=WRONG_TLS
    )


def _asks(host: str | None, port: int | None, question: Callable[[socket.socket], bool]) -> bool:
    try:
        with socket.create_connection((host or "localhost", port or _REDIS_PORT), ASK_TIMEOUT_S) as found:
            return question(found)
    except (OSError, ValueError):
        return False


def _is_plain(connection: socket.socket) -> bool:
    """Whether a PING in plain text gets an answer of Redis."""
    connection.sendall(b"PING\r\n")
    return connection.recv(1) in {b"+", b"-"}


def _is_tls(connection: socket.socket) -> bool:
    """Whether the server shakes hands, whoever it may be."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(connection):
        return True


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _unreachable(error: Exception, url: str) -> dict[str, str]:
    """Why nobody answers, and what to do."""
    fix = "start it, or check redis.url (`agentflow config show --origin`)"
    causes = list(_causes(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return {"why": f"no host is called {urlsplit(url).hostname}", "fix": fix}
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return {"why": "nobody listens there", "fix": fix}
    if any(isinstance(cause, PermissionError) for cause in causes):
        return {"why": "this user may not use its socket", "fix": fix}
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return {"why": "nothing came back in time: a firewall, or a server that hangs", "fix": fix}
    return {"why": "it was stopped, or the address is wrong", "fix": fix}
