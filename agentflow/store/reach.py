"""A Redis that went away, told as an `InfraError` that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agentflow.errors import InfraError
from agentflow.store.client import Unreachable


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn a lost connection inside the block into an `InfraError`; `url` is for the message."""
    try:
        yield
    except Unreachable as error:
        raise InfraError(
            f"Redis at {url} does not answer: {error}",
            why="it was stopped, or the address is wrong",
            fix="`agentflow doctor` says what is missing; `agentflow resume RUN` goes on afterwards",
            code="AF-INFRA-001",
        ) from error
