"""What holds for every further run of a feature: limits and budgets by its name, one hash for each project.

Its fields are `limit:<name>|<feature>` (`all`, a role, `class:<complexity>` -> nodes at once, 0: no limit),
`budget:<scope>:<unit>|<feature>` (`run` or `role:<role>` -> billionths of a dollar, or tokens). They are read
when a run is opened; what runs already is changed by the scripts for one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import redis

from agentflow.store import keys

LIMIT = "limit:"
BUDGET = "budget:"


def read_feature(client: redis.Redis, project: str, feature: str) -> dict[str, int]:
    """What is set for a feature of a project, by the part of the field before its name."""
    raw = cast("dict[str, str]", client.hgetall(keys.project_features(project)))
    named = ((name.partition("|"), value) for name, value in raw.items())
    return {what: int(value) for (what, _, of), value in sorted(named) if of == feature}


def write_feature(client: redis.Redis, project: str, feature: str, values: Mapping[str, int | None]) -> None:
    """Set these, or take them away (None), all at once."""
    pipe = client.pipeline(transaction=True)
    for what, value in values.items():
        if value is None:
            pipe.hdel(keys.project_features(project), f"{what}|{feature}")
        else:
            pipe.hset(keys.project_features(project), f"{what}|{feature}", str(value))
    pipe.execute()
