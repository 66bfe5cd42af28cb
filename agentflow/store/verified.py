"""Commits that have passed their acceptance, by what they were made from: to be used again in other runs.

| key | type | holds | TTL | owner |
|---|---|---|---|---|
| `af:verified:<project>:<digest>` | string | JSON, see `Verified` | 14 days from its last use | the project |
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import cast

import redis

from agentflow.store import keys


@dataclass(frozen=True, slots=True)
class Verified:
    """A commit on `base` that was accepted, what its agent said of it, and the run and node that made it.

    `mark` tells who judged it, to those who share the secret.
    """

    commit: str
    base: str
    run: str
    node: str
    summary: str = ""
    handoff: str = ""
    tests: Mapping[str, int] = field(default_factory=dict)
    mark: str = ""


def find(client: redis.Redis, project: str, digest: str) -> Verified | None:
    """The commit that was made from this; None when there is none (or what stands there is not readable)."""
    raw = cast("str | None", client.getex(keys.verified(project, digest), ex=keys.VERIFIED_TTL_S))
    try:
        return Verified(**json.loads(raw)) if raw else None
    except (ValueError, TypeError):
        return None


def remember(client: redis.Redis, project: str, digest: str, found: Verified) -> None:
    """Note a commit; a later one from the same things takes its place. Never raises: it is only for speed."""
    with contextlib.suppress(redis.RedisError):
        client.set(keys.verified(project, digest), json.dumps(asdict(found)), ex=keys.VERIFIED_TTL_S)


def forget(client: redis.Redis, project: str, digests: Iterable[str]) -> None:
    """Let these be made anew ('' is nobody's digest)."""
    named = [keys.verified(project, digest) for digest in digests if digest]
    if named:
        client.delete(*named)
