"""A Redis that went away or refuses, told as an `InfraError` that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from agentflow.store.trouble import explained


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn what Redis raises inside the block into an `InfraError`; `url` is for the message."""
    try:
        yield
    except redis.RedisError as error:
        told = explained(error, url)
        told.fix += "; `agentflow resume RUN` goes on afterwards"
        raise told from error
