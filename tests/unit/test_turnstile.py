"""What an attempt does when its provider has no room: wait, give the node back, or end."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentflow.environment import OpenGate, Room, Stop
from agentflow.errors import AttemptCancelled, AttemptTimeout, LimitReached, ProviderPaused
from agentflow.llm.endpoint import Endpoint
from agentflow.llm.turnstile import ANSWER_TOKENS, PATIENCE_S, Turnstile

FULL = Room(look_s=0.001, expected_s=0.001, reason="provider: model allows 5 calls in 60 s, all are used")


class Gate(OpenGate):
    """Says what it was given to say, one after the other; then it is open."""

    def __init__(self, *rooms: Room) -> None:
        self.rooms = list(rooms)
        self.asked: list[tuple[str, str, int, float | None]] = []
        self.given_up = 0

    def enter(self, address: str, model: str, tokens: int, *, patience_s: float | None) -> Room:
        self.asked.append((address, model, tokens, patience_s))
        return self.rooms.pop(0) if self.rooms else Room(number=len(self.asked))

    def give_up(self, room: Room) -> None:
        del room
        self.given_up += 1


class Way:
    """A turnstile with its surroundings."""

    def __init__(self, gate: Gate, *, seconds: float = 60, **endpoint: Any) -> None:
        self.stop = Stop()
        self.notes: list[str] = []
        where = {"base_url": "https://user:pw@Models.example:8443/v1", "model": "m", **endpoint}
        self.turnstile = Turnstile(
            gate,
            Endpoint(**where),
            stop=self.stop,
            deadline=time.monotonic() + seconds,
            note=self.notes.append,
        )


def test_it_asks_until_there_is_room_and_says_why_once() -> None:
    gate = Gate(FULL, FULL, FULL)
    way = Way(gate)
    way.turnstile.enter(100)
    assert len(gate.asked) == 4
    assert way.notes == [f"waits for about 0 s: {FULL.reason}"]


def test_the_estimate_is_what_is_sent_and_what_may_come_back() -> None:
    gate = Gate()
    Way(gate).turnstile.enter(100)
    Way(gate, max_output_tokens=7).turnstile.enter(100)
    assert [tokens for _, _, tokens, _ in gate.asked] == [100 + ANSWER_TOKENS, 107]
    assert gate.asked[0][:2] == ("models.example:8443", "m")


def test_before_the_first_answer_patience_is_short_and_endless_afterwards() -> None:
    gate = Gate()
    way = Way(gate)
    way.turnstile.enter(1)
    way.turnstile.leave(0, answered=False)
    way.turnstile.enter(1)
    way.turnstile.leave(10, answered=True)
    way.turnstile.enter(1)
    assert [patience for *_, patience in gate.asked] == [PATIENCE_S, PATIENCE_S, None]


def test_a_long_wait_gives_the_node_back() -> None:
    way = Way(Gate(Room(look_s=40, expected_s=40, reason=FULL.reason, later=True)))
    with pytest.raises(ProviderPaused, match="5 calls in 60 s") as paused:
        way.turnstile.enter(1)
    assert paused.value.seconds == 40


def test_a_wait_beyond_the_deadline_ends_a_conversation() -> None:
    gate = Gate()
    way = Way(gate, seconds=30)
    way.turnstile.enter(1)
    way.turnstile.leave(10, answered=True)
    gate.rooms = [Room(look_s=40, expected_s=40, reason=FULL.reason)]
    with pytest.raises(AttemptTimeout, match="deadline passes while it waits for its provider"):
        way.turnstile.enter(1)
    assert gate.given_up == 1


def test_a_stop_ends_the_wait_and_leaves_the_line() -> None:
    gate = Gate(Room(look_s=20, expected_s=20, reason=FULL.reason))
    way = Way(gate)
    way.stop.set("cancelled")
    with pytest.raises(AttemptCancelled):
        way.turnstile.enter(1)
    assert gate.given_up == 1


def test_an_attempt_that_lost_its_lease_calls_nobody() -> None:
    with pytest.raises(AttemptCancelled, match="lost"):
        Way(Gate(Room(lost=True))).turnstile.enter(1)


def test_calls_of_an_agent_are_limited_repeated_ones_too() -> None:
    way = Way(Gate(), max_model_calls=2)
    for _ in range(2):
        way.turnstile.enter(1)
        way.turnstile.leave(0, answered=False)
    with pytest.raises(LimitReached, match="made its 2 calls of the model") as reached:
        way.turnstile.enter(1)
    assert "calls_per_agent" in reached.value.fix
