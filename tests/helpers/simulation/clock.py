"""A virtual clock: what the scripts, the ledger's client and the worker's code take the time from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

#: What stands in place of `redis.call('TIME')` in the scripts: the client gives the time along with each
#: call, as its only key (the product's scripts have none).
IN_LUA = "{math.floor(KEYS[1] / 1000000), KEYS[1] % 1000000}"
#: Sets are not in any order; a schedule must be the same each time. Put before the shared text.
SORTED_MEMBERS = (
    "local function sorted_members(key) local found = redis.call('SMEMBERS', key) "
    "table.sort(found) return found end"
)
#: Where a schedule begins (microseconds): after 1970, so that no moment is nought.
BEGIN_US = 1_700_000_000_000_000


def in_simulation(text: str) -> str:
    """A script as a simulation runs it."""
    head, rest = text.split("\n", 1)
    rest = rest.replace("redis.call('TIME')", IN_LUA).replace("redis.call('SMEMBERS', ", "sorted_members(")
    # The lead runs out by the virtual clock (`World._advance`); the server's own must not interfere.
    rest = rest.replace("'PX', ARGV[3]", "'PX', 3600000")
    return f"{head}\n{SORTED_MEMBERS}\n{rest}"


class SimulatedRedis(redis.Redis):
    """A real client; only the server's clock is another one."""

    now_us: int = BEGIN_US

    def time(self, **_: object) -> tuple[int, int]:  # type: ignore[override]
        return divmod(self.now_us, 1_000_000)

    def evalsha(self, sha: str, numkeys: int, *args: Any) -> Any:
        assert not numkeys
        return super().evalsha(sha, 1, str(self.now_us), *args)

    def eval(self, script: str, numkeys: int, *args: Any) -> Any:
        assert not numkeys
        return super().eval(script, 1, str(self.now_us), *args)


class SimulatedTime:
    """Stands in for the module `time` in the worker's code."""

    def __init__(self, now_us: Callable[[], int], sleep: Callable[[float], None]) -> None:
        self._now_us, self.sleep = now_us, sleep

    def monotonic(self) -> float:
        return self._now_us() / 1e6

    time = monotonic
