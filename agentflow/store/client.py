"""Connections to Redis, with time limits of our own."""

from __future__ import annotations

import functools
import os
from typing import Any

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from agentflow.errors import InfraError
from agentflow.places import masked
from agentflow.store.trouble import NO_ANSWER, UNUSABLE, explained, read_only

__all__ = [
    "CONNECT_TIMEOUT_S", "NO_ANSWER", "SOCKET_TIMEOUT_S", "Unreachable", "check", "connect", "connect_binary",
]  # fmt: skip

#: What a call raises while the server is away, or has no memory left (both may pass).
Unreachable = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, redis.OutOfMemoryError)
#: Seconds that an answer may take; longer than any blocking read of ours (`runs.follow`: 2 s).
SOCKET_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0


def connect(url: str) -> redis.Redis:
    """A client for `url`, shared by the threads of this process.

    redis-py's default socket timeout (5 s) would break a blocking read, so ours is longer.
    Broken connections are retried four times within about a second.
    """
    return _connect(url, os.getpid(), text=True)


def connect_binary(url: str) -> redis.Redis:
    """A client whose answers are bytes, for packs."""
    return _connect(url, os.getpid(), text=False)


@functools.lru_cache(maxsize=8)
def _connect(url: str, _pid: int, *, text: bool) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        decode_responses=text,
        encoding_errors="replace",  # anybody may have pushed bytes into a queue that are no text
        protocol=3,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 4),
    )


@functools.lru_cache(maxsize=8)
def _greet(url: str, _pid: int) -> None:
    """Connect once without repeats, so that a wrong address is told at once and not after a minute.

    Raises `InfraError` for what will not pass by itself.
    """
    client = redis.Redis.from_url(
        url,
        protocol=3,
        socket_timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    with client:
        client.ping()


def check(client: redis.Redis, url: str) -> None:
    """Raise `InfraError` unless a server answers that the ledger can live on."""
    if not url.startswith("unix://"):
        try:
            _greet(url, os.getpid())
        except redis.RedisError as error:
            told = explained(error, url)
            if told.code != NO_ANSWER:
                raise told from error
    try:
        info = client.info()
    except redis.RedisError as error:
        raise explained(error, url) from error
    _check_server(info, f"Redis at {masked(url)}")


def _check_server(info: dict[str, Any], at: str) -> None:
    """What the server says of itself must be what the ledger needs."""
    version = str(info.get("redis_version", "0"))
    if int(version.split(".", maxsplit=1)[0]) < 7:  # noqa: PLR2004 (allow-oom flags came with 7.0)
        raise InfraError(
            f"Redis {version} is too old",
            why="the ledger's scripts need 7.0 or newer",
            fix="use Redis or Valkey 7.0 or newer",
            code="AF-INFRA-003",
        )
    mode = str(info.get("redis_mode", "standalone"))
    if mode == "cluster":
        raise InfraError(
            "Redis Cluster is not supported",
            why="neither kombu's transport nor the ledger's scripts can span slots",
            fix="use a single server",
            code=UNUSABLE,
        )
    if mode == "sentinel":
        raise InfraError(
            f"{at} is a Sentinel",
            why="it watches servers and holds no data",
            fix="name the primary: `redis-cli -p 26379 SENTINEL get-master-addr-by-name NAME` tells it",
            code=UNUSABLE,
        )
    if info.get("role") == "slave":
        raise read_only(at)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        raise InfraError(
            f"{at} may forget keys when it is full (maxmemory-policy {policy})",
            why="a forgotten key is a lost run",
            fix="redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
            code="AF-INFRA-009",
        )
