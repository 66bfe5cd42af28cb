"""Circuit breakers of roles and runs: what fails again and again is paused, and tried when it has cooled.

They are counted where a node is settled (`lua/breaker.lua`); an open one is a pause like an operator's, which
`agentflow resume` ends as well. A provider's breaker is the governor's.
"""

from __future__ import annotations

from typing import Any

import redis

from agentflow.config.rates import BreakerSettings
from agentflow.store import keys, scripts
from agentflow.store.scripts import Answer


class Breakers:
    """Settings and trials, on one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def configure(self, settings: BreakerSettings) -> None:
        """Note when a breaker opens; a ledger that nobody has told has none."""
        values: Any = {
            "role": settings.role,
            "run": settings.run,
            "cool_down_ms": int(settings.cool_down * 1000),
        }
        self._client.hset(keys.BREAKERS, mapping=values)

    def trials(self) -> Answer:
        """Let through what a breaker has kept long enough; the answer's `others` must be sent."""
        return scripts.transition(self._client, "trials", "")
