"""How long the nodes of a project took, by role and task: what upward ranks are made of.

The settlement of a succeeded attempt keeps a running mean in `af:durations:<project>` (settle.lua); a
submitter reads them all, once, and weighs its plan with them (`canvas/ranks.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import redis

from agentflow.store import keys

#: What a node weighs while nothing has been measured at all: ranks count nodes then.
UNKNOWN_S = 1.0


@dataclass(frozen=True)
class Durations:
    """Mean seconds of a succeeded attempt, and how many were measured, by (role, task)."""

    known: Mapping[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def expected_s(self, role: str, task: str) -> float:
        """Seconds that an attempt may take: its own mean, else its role's, else that of all, else 1."""
        own = self.known.get((role, task))
        return own[0] if own else self._by_role.get(role, self._overall)

    @cached_property
    def _by_role(self) -> dict[str, float]:
        samples: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        for (role, _), sample in self.known.items():
            samples[role].append(sample)
        return {role: _mean(found) for role, found in samples.items()}

    @cached_property
    def _overall(self) -> float:
        return _mean(list(self.known.values())) if self.known else UNKNOWN_S


def _mean(samples: list[tuple[float, int]]) -> float:
    return sum(mean * count for mean, count in samples) / sum(count for _, count in samples)


def read_durations(client: redis.Redis, project: str) -> Durations:
    """What is known of a project; empty for one without measurements."""
    raw = cast("dict[str, str]", client.hgetall(keys.durations(project)))
    known = {}
    for name, value in raw.items():
        role, _, task = name.partition("|")
        mean_ms, _, count = value.partition(" ")
        known[role, task] = (float(mean_ms) / 1000, int(count))
    return Durations(known)
