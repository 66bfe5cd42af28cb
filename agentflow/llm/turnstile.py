"""The way of one conversation to its provider: waits at the gate, goes through, comes back.

How long it waits depends on what would be lost. Before the first answer nothing would: a wait of more than
a few seconds gives the node back (`ProviderPaused`, nothing is counted) and its slot goes to others. In the
middle of a conversation, which nobody could take up again, it waits as long as the deadline allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agentflow.environment import Gate, Room, Stop
from agentflow.errors import AttemptCancelled, AttemptTimeout, LimitReached, ProviderPaused
from agentflow.llm.endpoint import Endpoint

#: Seconds that an attempt waits before its first answer; longer, and its node is given back.
PATIENCE_S = 5.0
#: Tokens that an answer is taken to have when nothing limits it (put right when it is there).
ANSWER_TOKENS = 1000


class Turnstile:
    """Of one conversation with one endpoint. `calls` counts every call, repeated ones too."""

    def __init__(
        self, gate: Gate, endpoint: Endpoint, *, stop: Stop, deadline: float, note: Callable[[str], None]
    ) -> None:
        self._gate = gate
        self._endpoint = endpoint
        self._stop = stop
        self._deadline = deadline
        self._note = note
        self._answered = False
        self._room = Room()
        self._entered = 0.0
        self.calls = 0

    def enter(self, sent_tokens: int) -> None:
        """Return when a call with so many tokens may be made.

        Raises `LimitReached` after `calls_per_agent` calls, `ProviderPaused` or `AttemptTimeout` when there
        is no room in time, `AttemptCancelled` when `stop` is set or the attempt is not ours any more.
        """
        self._count()
        tokens = sent_tokens + (self._endpoint.max_output_tokens or ANSWER_TOKENS)
        told = False
        while True:
            room = self._gate.enter(
                self._endpoint.address,
                self._endpoint.model,
                tokens,
                patience_s=None if self._answered else PATIENCE_S,
            )
            if room.granted:
                self._room, self._entered = room, time.monotonic()
                return
            self._refuse(room)
            if not told:
                self._note(f"waits for about {room.expected_s:.0f} s: {room.reason}")
                told = True
            self._gate.wait(room, self._stop)
            if self._stop.is_set():
                self._gate.give_up(room)
                self._stop.check()

    def leave(self, tokens: int | None, *, answered: bool) -> None:
        """The call has ended; `answered`: with a whole answer."""
        self._answered = self._answered or answered
        took = time.monotonic() - self._entered
        self._gate.leave(self._room, tokens, took_s=took, answered=answered)

    def told(self, wait_s: float | None, why: str) -> bool:
        """The provider asks for a pause; False when nobody but the caller can keep it."""
        return self._gate.told(self._room, wait_s, why)

    def _count(self) -> None:
        most = self._endpoint.max_model_calls
        if most and self.calls >= most:
            what = f"the agent made its {most} calls of the model without finishing"
            raise LimitReached(
                what,
                why="it may be going in circles: read the transcript (`agentflow logs`)",
                fix="make the task smaller or its prompt clearer, or raise rate_limits.calls_per_agent",
                feedback=f"{what}. Be more direct.",
            )
        self.calls += 1

    def _refuse(self, room: Room) -> None:
        """Raise what ends the wait before it begins."""
        if room.lost:
            raise AttemptCancelled("the attempt was stopped: lost")
        if room.later:
            raise ProviderPaused(room.reason, seconds=room.expected_s)
        left = self._deadline - time.monotonic()
        if max(room.look_s, room.expected_s) < left:
            return
        if not self._answered:
            raise ProviderPaused(room.reason, seconds=room.expected_s)
        self._gate.give_up(room)
        raise AttemptTimeout(
            f"the attempt's deadline passes while it waits for its provider ({room.reason})",
            why=f"that takes about {room.expected_s:.0f} s, and {max(0.0, left):.0f} s are left",
            fix="raise the task's `timeout:`, or the provider's limit in rate_limits",
        )
