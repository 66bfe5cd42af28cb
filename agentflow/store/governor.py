"""The governor of the providers: how many calls and tokens a minute, and how many at once, for the fleet.

A call asks for room in all of its windows at once: the endpoint's own (`at:HOST/MODEL`), those of its
runner and its host (`runner:NAME`, `host:NAME`), its role's (`role:NAME`). What a window allows stands in the
ledger: what the configuration says, and above it what an operator has set. The rules: `lua/windows.lua`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.store import keys, scripts

#: What a window may limit: calls and tokens a minute, calls at once, a bucket of calls and its refill.
ALLOWANCES = ("rpm", "tpm", "concurrency", "capacity", "refill_rate")
RUNNER, HOST, ROLE, ENDPOINT = "runner:", "host:", "role:", "at:"
_SET = "set:"
WHY_CAP = 200
#: Seconds of one blocking read, well below the sockets' time limit.
LONGEST_SLEEP_S = 5.0
BELL_TTL_MS = 5000
#: A call counts for so many lengths of a window (windows.lua has the number too).
COUNTED_FOR = 1.05


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model: who makes it (an attempt's lease and the call's number in it) and its windows.

    Without a `run` it is nobody's attempt, and its pass ends by its bound alone.
    """

    windows: tuple[str, ...]
    run: str = ""
    node: str = ""
    fence: int = 0
    number: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """`granted`, `wait` (look again after `look_ms`), `later` (longer than the patience given: the place in
    the line is kept until then) or `superseded` (the attempt has lost its lease).
    """

    verdict: str
    look_ms: int = 0
    expected_ms: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """A window now: calls and tokens of the last minute, calls under way, attempts in its line."""

    window: str
    calls: int = 0
    tokens: int = 0
    under_way: int = 0
    waiting: int = 0
    closed_s: float = 0.0
    reason: str = ""


class Governor:
    """Asks for room and gives it back, on one Redis. `window_ms` is the length of all windows."""

    def __init__(self, client: redis.Redis, *, window_ms: int = 60_000) -> None:
        self._client = client
        self._window_ms = window_ms

    def enter(self, call: Call, tokens: int, *, patience_ms: int = -1, bound_ms: int) -> Answer:
        """Ask for room for a call of about so many tokens; all windows or none, in order of arrival.

        A pass is held until `leave`, the end of the attempt's lease, or `bound_ms`.
        """
        verdict, *rest = self._call("enter", call, tokens, patience_ms, bound_ms)
        if not rest:
            return Answer(verdict)
        look, expected, reason = rest
        return Answer(verdict, int(look or expected), int(expected or look), reason)

    def leave(self, call: Call, tokens: int, *, took_ms: int, answered: bool) -> None:
        """The call has ended and used so many tokens (-1: nobody knows, the estimate stays)."""
        self._call("leave", call, tokens, took_ms, int(answered))

    def told(self, call: Call, wait_ms: int, why: str) -> int:
        """The endpoint asked for a pause (-1: of unknown length); milliseconds that nobody calls it now."""
        return int(self._call("told", call, 0, wait_ms, why[:WHY_CAP])[1])

    def failed(self, call: Call, why: str, *, threshold: int, cool_down_ms: int) -> int:
        """An attempt failed for the endpoint's sake; milliseconds that its breaker is open, 0: it is not."""
        return int(self._call("failed", call, 0, threshold, cool_down_ms, why[:WHY_CAP])[1])

    def listen(self, call: Call, seconds: float) -> None:
        """Sleep until it is time to look again: somebody has left, `ring` was called, or `seconds` passed."""
        self._client.blpop([keys.bell(call.run, call.node)], timeout=min(seconds, LONGEST_SLEEP_S))

    def ring(self, call: Call) -> None:
        """End a `listen` of this attempt now."""
        key = keys.bell(call.run, call.node)
        pipe = self._client.pipeline(transaction=True)
        pipe.rpush(key, 1)
        pipe.pexpire(key, BELL_TTL_MS)
        pipe.execute()

    def give_up(self, call: Call) -> None:
        """Whoever waited does not wait any more."""
        self._call("quit", call, 0)

    def _call(self, verb: str, call: Call, tokens: int, *more: str | int) -> list[str]:
        return cast(
            "list[str]",
            scripts.call(
                self._client,
                "throttle",
                call.run,
                verb,
                call.node,
                call.fence,
                call.number,
                "\n".join(call.windows),
                tokens,
                self._window_ms,
                *more,
            ),
        )

    # -- what is allowed ---------------------------------------------------------------------------

    def configure(self, allowed: Mapping[str, Mapping[str, float]]) -> None:
        """Note what a configuration allows, by window; what an operator has set stays above it."""
        if allowed:
            texts: Any = {window: json.dumps(dict(limits)) for window, limits in allowed.items()}
            self._client.hset(keys.RATES, mapping=texts)

    def set_rate(self, window: str, name: str, value: float | None) -> None:
        """Allow so much from now on (0: no limit; None: what the configuration says). Waiters see it with
        their next look, within seconds. Raises `UsageError` for something that is not limited here.
        """
        if name not in ALLOWANCES or (value is not None and value < 0):
            raise UsageError(f"{window} has no {name} of {value}", fix="one of: " + ", ".join(ALLOWANCES))
        changed = self._read(_SET + window)
        changed.pop(name, None)
        if value is not None:
            changed[name] = value
        if changed:
            self._client.hset(keys.RATES, _SET + window, json.dumps(changed))
        else:
            self._client.hdel(keys.RATES, _SET + window)

    def rates(self) -> dict[str, dict[str, float]]:
        """What is allowed now, by window; 0 and absent: no limit."""
        raw = cast("dict[str, str]", self._client.hgetall(keys.RATES))
        found: dict[str, dict[str, float]] = {}
        # What was set live comes after, and so above, what is configured.
        for field in sorted(raw, key=lambda name: (name.removeprefix(_SET), name.startswith(_SET))):
            found.setdefault(field.removeprefix(_SET), {}).update(json.loads(raw[field]))
        return found

    def _read(self, field: str) -> dict[str, float]:
        return cast("dict[str, float]", json.loads(str(self._client.hget(keys.RATES, field) or "{}")))

    def look(self, window: str) -> Looked:
        """How full a window is now (calls of a dead worker too, until they are missed), if it is closed."""
        at = keys.rate(window)
        pipe: Any = self._client.pipeline(transaction=False)
        pipe.zrange(f"{at}:log", 0, -1, withscores=True).hgetall(f"{at}:sizes").zcard(f"{at}:held")
        pipe.hlen(f"{at}:line").hmget(at, ["closed", "open", "why"])
        log, sizes, held, line, (closed, opened, why) = pipe.execute()
        seconds, micros = self._client.time()
        now_ms = seconds * 1000 + micros // 1000
        recent = [call for call, at_ms in log if at_ms > now_ms - self._window_ms * COUNTED_FOR]
        until_ms = max(int(float(closed or 0)), int(float(opened or 0)))
        return Looked(
            window,
            calls=len(recent),
            tokens=sum(int(sizes.get(call, 0)) for call in recent),
            under_way=held,
            waiting=line,
            closed_s=max(0.0, (until_ms - now_ms) / 1000),
            reason=why or "" if until_ms > now_ms else "",
        )

    def endpoints(self) -> list[str]:
        """The windows of endpoints that have asked for a pause or failed within the last hour."""
        start = keys.rate(ENDPOINT)
        found = cast("list[str]", list(self._client.scan_iter(f"{start}*", count=1000, _type="hash")))
        parts = (":sizes", ":line")
        names = [key for key in found if not key.endswith(parts)]
        return sorted(key.removeprefix(keys.rate("")) for key in names)


def configured_rates(config: Config) -> dict[str, dict[str, float]]:
    """`rate_limits` of the configuration by window. A provider's name is a runner's, else a host's."""
    allowed: dict[str, dict[str, float]] = {}
    for name, limit in config.rate_limits.providers.items():
        allowed[(RUNNER if name in config.runners else HOST) + name] = limit.model_dump()
    for word, limit in config.rate_limits.roles.items():
        allowed[ROLE + (config.role_name(word) or word)] = limit.model_dump()
    return allowed


def windows_of(address: str, model: str, *, runner: str = "", role: str = "") -> tuple[str, ...]:
    """The windows of a call to the endpoint at `address` (host and port); the endpoint's own comes first."""
    host = address.partition(":")[0]
    named: Sequence[str] = [
        f"{ENDPOINT}{address}/{model}",
        f"{RUNNER}{runner}" if runner else "",
        f"{HOST}{host}",
        f"{ROLE}{role}" if role else "",
    ]
    return tuple(window for window in named if window)
