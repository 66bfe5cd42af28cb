"""The gate of one attempt: what the governor in the ledger says, asked under the attempt's own lease."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from agentflow.canvas.plan import PlanNode
from agentflow.config.rates import BreakerSettings
from agentflow.environment import Gate, Room, Stop
from agentflow.errors import AgentflowError, ProviderError
from agentflow.store.client import Unreachable
from agentflow.store.governor import Call, Governor, windows_of
from agentflow.tasks.attempts import OVERDUE_S, Held
from agentflow.tasks.context import Context

log = logging.getLogger("agentflow.attempt")

#: Seconds until the ledger is asked again while Redis is away. Without it nobody is let in: what others have
#: called meanwhile is not known.
AWAY_S = 1.0


class FleetGate:
    """Of one attempt, which makes one call at a time. The ledger frees what it holds when its lease ends."""

    def __init__(
        self, governor: Governor, held: Held, *, role: str, runner: str, breaker: BreakerSettings
    ) -> None:
        self._governor = governor
        self._held = held
        self._role = role
        self._runner = runner
        self._breaker = breaker
        self._call = Call(windows=(), run=held.run, node=held.node, fence=held.fence, number=0)
        self._granted = 0
        self._is_waiting = False
        held.stop.on_set(self._wake)

    def enter(self, address: str, model: str, tokens: int, *, patience_s: float | None) -> Room:
        """Ask the ledger for room in all windows of this call."""
        windows = windows_of(address, model, runner=self._runner, role=self._role)
        self._call = replace(self._call, windows=windows, number=self._granted + 1)
        bound_s = max(0.0, self._held.deadline - time.monotonic()) + OVERDUE_S
        patience_ms = -1 if patience_s is None else int(patience_s * 1000)
        try:
            found = self._governor.enter(
                self._call, tokens, patience_ms=patience_ms, bound_ms=int(bound_s * 1000)
            )
        except Unreachable as error:
            return Room(look_s=AWAY_S, expected_s=AWAY_S, reason=f"provider: Redis is away ({error})")
        if found.verdict == "granted":
            self._granted = self._call.number
            return Room(number=self._granted)
        return Room(
            look_s=found.look_ms / 1000,
            expected_s=found.expected_ms / 1000,
            reason=found.reason,
            later=found.verdict == "later",
            lost=found.verdict == "superseded",
        )

    def wait(self, room: Room, stop: Stop) -> None:
        """Sleep until whoever leaves rings, it is time to look, or the attempt is told to end."""
        self._is_waiting = True
        try:
            # A stop that comes from here on rings; one that came before is seen.
            if not stop.is_set():
                self._governor.listen(self._call, room.look_s)
        except Unreachable:
            stop.wait(AWAY_S)
        finally:
            self._is_waiting = False

    def _wake(self) -> None:
        if self._is_waiting:
            try:
                self._governor.ring(self._call)
            except Unreachable as error:
                log.info("Redis is away; a waiting attempt ends a little later (%s)", error)

    def leave(self, room: Room, tokens: int | None, *, took_s: float, answered: bool) -> None:
        """Give the room back; what is lost while Redis is away ends with the lease, or with the minute."""
        del room
        try:
            self._governor.leave(
                self._call,
                -1 if tokens is None else tokens,
                took_ms=int(took_s * 1000),
                answered=answered,
            )
        except Unreachable as error:
            log.warning("Redis is away: a call of %s is not counted back (%s)", self._call.node, error)

    def told(self, room: Room, wait_s: float | None, why: str) -> bool:
        """Close the endpoint for the whole fleet."""
        del room
        try:
            self._governor.told(self._call, -1 if wait_s is None else int(wait_s * 1000), why)
        except Unreachable:
            return False
        return True

    def give_up(self, room: Room) -> None:
        """Leave the line."""
        del room
        try:
            self._governor.give_up(self._call)
        except Unreachable as error:
            log.info("Redis is away; the place in the line ends by itself (%s)", error)

    def failed(self, error: ProviderError) -> None:
        """The attempt failed for the endpoint's sake: N of these in a row open its breaker."""
        if not self._call.windows or not error.is_outage:
            return
        try:
            self._governor.failed(
                self._call,
                error.what,
                threshold=self._breaker.provider,
                cool_down_ms=int(self._breaker.cool_down * 1000),
            )
        except Unreachable as away:
            log.info("Redis is away; a failure of the provider is not counted (%s)", away)


def gate_of(context: Context, held: Held, node: PlanNode) -> FleetGate:
    """The gate of an attempt at this node."""
    config = context.config
    return FleetGate(
        Governor(context.client, window_ms=config.rate_window_ms),
        held,
        role=node.role,
        runner=str(node.runner.get("name") or ""),
        breaker=config.breaker,
    )


def count_failure(gate: Gate, error: AgentflowError) -> None:
    """Tell the breaker of the endpoint that an attempt used, when it failed for that endpoint's sake."""
    if isinstance(gate, FleetGate) and isinstance(error, ProviderError):
        gate.failed(error)
