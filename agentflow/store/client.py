"""Connections to Redis, with time limits of our own."""

from __future__ import annotations

import functools
import os

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from agentflow.errors import InfraError

#: What a call raises while the server is away (it may come back).
Unreachable = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)
#: The code of the error for a server that does not answer.
NO_ANSWER = "AF-INFRA-001"
#: Seconds that an answer may take; longer than any blocking read of ours (`runs.follow`: 2 s).
SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0


def connect(url: str) -> redis.Redis:
    """A client for `url`, shared by the threads of this process.

    redis-py's default socket timeout (5 s) would break a blocking read, so ours is longer.
    Broken connections are retried four times within about a second.
    """
    return _connect(url, os.getpid())


@functools.lru_cache(maxsize=8)
def _connect(url: str, _pid: int) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        protocol=3,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 4),
    )


def check(client: redis.Redis, url: str) -> None:
    """Raise `InfraError` unless a server answers that the ledger can live on."""
    try:
        info = client.info("server")
    except redis.AuthenticationError as error:
        raise InfraError(
            f"Redis at {url} refused the password: {error}",
            fix="put user and password into the URL: redis://user:password@host:6379/0",
            code="AF-INFRA-002",
        ) from error
    except redis.RedisError as error:
        raise InfraError(
            f"Redis at {url} does not answer: {error}",
            fix="start it, or check redis.url (`agentflow config show --origin`)",
            code=NO_ANSWER,
        ) from error
    version = str(info.get("redis_version", "0"))
    if int(version.split(".", maxsplit=1)[0]) < 7:  # noqa: PLR2004 (allow-oom flags came with 7.0)
        raise InfraError(
            f"Redis {version} is too old",
            why="the ledger's scripts need 7.0 or newer",
            fix="use Redis or Valkey 7.0 or newer",
            code="AF-INFRA-003",
        )
    if str(info.get("redis_mode", "standalone")) == "cluster":
        raise InfraError(
            "Redis Cluster is not supported",
            why="neither kombu's transport nor the ledger's scripts can span slots",
            fix="use a single server",
            code="AF-INFRA-004",
        )
