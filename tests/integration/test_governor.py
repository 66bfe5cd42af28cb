"""The governor: one count for the whole fleet, in order of arrival, on a virtual clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from helpers.broken_scripts import rewritten
from helpers.ledgers import open_run
from helpers.redis_server import RedisServer
from helpers.simulation.clock import BEGIN_US, SimulatedRedis, in_simulation
from helpers.wait import wait_until

from agentflow.config.rates import BreakerSettings
from agentflow.environment import Room
from agentflow.errors import UsageError
from agentflow.store import keys
from agentflow.store.events import EventLog
from agentflow.store.governor import Answer, Call, Governor, windows_of
from agentflow.store.ledger import Ledger
from agentflow.tasks.attempts import Held
from agentflow.tasks.gate import FleetGate

RUNNER = "runner:model"
WINDOWS = ("at:host/m", RUNNER)


@pytest.fixture
def clock(redis_server: RedisServer) -> Iterator[SimulatedRedis]:
    with (
        SimulatedRedis.from_url(redis_server.client_url, decode_responses=True) as client,
        rewritten(in_simulation),
    ):
        client.flushall()
        client.now_us = BEGIN_US
        yield client


@pytest.fixture
def governor(clock: SimulatedRedis) -> Governor:
    return Governor(clock)


def forward(clock: SimulatedRedis, ms: float) -> None:
    clock.now_us = clock.now_us + int(ms * 1000)


def call(node: str, number: int = 1, windows: tuple[str, ...] = WINDOWS) -> Call:
    return Call(windows, node=node, fence=1, number=number)


def ask(governor: Governor, node: str, tokens: int = 10, *, patience_ms: int = -1) -> Answer:
    answer = governor.enter(call(node), tokens, patience_ms=patience_ms, bound_ms=60_000)
    # Whoever asks next arrives a moment later.
    forward(governor._client, 1)
    return answer


def granted(governor: Governor, *nodes: str) -> list[bool]:
    return [ask(governor, node).verdict == "granted" for node in nodes]


def test_those_who_wait_are_let_in_as_they_came_and_at_different_times(
    clock: SimulatedRedis, governor: Governor
) -> None:
    governor.configure({RUNNER: {"rpm": 3}})
    for node in "abc":
        assert granted(governor, node) == [True]
        forward(clock, 1000)
    comes_ms = {
        node: clock.now_us // 1000 + ask(governor, node, patience_ms=0).expected_ms for node in "defghi"
    }
    times = [comes_ms[node] for node in "defghi"]
    assert times == sorted(set(times)), "one after the other, and as they came"
    clock.now_us = comes_ms["d"] * 1000
    assert granted(governor, "late", "e", "d") == [False, False, True]
    assert governor.look(RUNNER).calls == 3


def test_a_later_one_does_not_take_the_room_of_one_who_comes_any_moment(
    clock: SimulatedRedis, governor: Governor
) -> None:
    governor.configure({RUNNER: {"tpm": 100}})
    assert granted(governor, "a") == [True]
    big = ask(governor, "big", 95, patience_ms=0)
    assert big.verdict == "later"
    forward(clock, big.expected_ms - 1500)
    assert ask(governor, "small", 6).verdict == "wait", "else the big one would wait for ever"
    forward(clock, 1500)
    assert ask(governor, "small", 6).verdict == "wait"
    assert ask(governor, "big", 95).verdict == "granted"


def test_whoever_is_told_to_come_much_later_keeps_its_place_and_nobody_waits_for_it(
    clock: SimulatedRedis, governor: Governor
) -> None:
    governor.configure({RUNNER: {"tpm": 100}})
    assert ask(governor, "a", 100).verdict == "granted"
    later = ask(governor, "delayed", 100, patience_ms=5000)
    assert later.verdict == "later"
    governor.leave(call("a"), 20, took_ms=100, answered=True)
    assert ask(governor, "b", 60).verdict == "granted", "tokens that were not needed are there at once"
    forward(clock, later.expected_ms)
    again = ask(governor, "delayed", 100, patience_ms=5000)
    assert again.verdict in ("granted", "later")
    assert ask(governor, "c", 60).verdict == "wait", "it is passed once, not for ever"


def test_the_real_tokens_count_once_they_are_known(governor: Governor) -> None:
    governor.configure({RUNNER: {"tpm": 100}})
    assert ask(governor, "a", 90).verdict == "granted"
    assert ask(governor, "b", 50).verdict == "wait"
    governor.leave(call("a"), 40, took_ms=100, answered=True)
    found = governor.look(RUNNER)
    assert (found.calls, found.tokens, found.under_way, found.waiting) == (1, 40, 0, 1)
    assert ask(governor, "b", 50).verdict == "granted"


def test_a_request_larger_than_the_limit_goes_alone(clock: SimulatedRedis, governor: Governor) -> None:
    governor.configure({RUNNER: {"tpm": 100}})
    assert ask(governor, "small", 10).verdict == "granted"
    wait = ask(governor, "huge", 500)
    assert wait.verdict == "wait"
    forward(clock, wait.expected_ms)
    assert ask(governor, "huge", 500).verdict == "granted"
    assert ask(governor, "small2", 1).verdict == "wait"


def test_a_call_that_is_asked_for_twice_is_counted_once(governor: Governor) -> None:
    governor.configure({RUNNER: {"rpm": 2, "tpm": 100, "concurrency": 2}})
    assert granted(governor, "a", "a") == [True, True]
    found = governor.look(RUNNER)
    assert (found.calls, found.tokens, found.under_way) == (1, 10, 1)


def test_all_windows_or_none(governor: Governor) -> None:
    governor.configure({RUNNER: {"rpm": 5}, "role:tester": {"rpm": 1}})
    windows = windows_of("host", "m", runner="model", role="tester")
    assert windows == ("at:host/m", RUNNER, "host:host", "role:tester")
    first, second = (replace(call(node), windows=windows) for node in "ab")
    assert governor.enter(first, 1, bound_ms=1000).verdict == "granted"
    refused = governor.enter(second, 1, bound_ms=1000)
    assert refused.reason == "provider: role tester allows 1 call in 60 s, all are used"
    assert governor.look(RUNNER).calls == 1, "what was refused by one is counted by none"
    assert granted(governor, "c") == [True], "and keeps nobody out of the others"


def test_a_bucket_has_a_burst_and_a_refill(clock: SimulatedRedis, governor: Governor) -> None:
    governor.configure({RUNNER: {"capacity": 3, "refill_rate": 2}})
    assert granted(governor, *"abcd") == [True, True, True, False]
    assert ask(governor, "d").expected_ms < 500
    forward(clock, 500)
    assert granted(governor, "d", "e") == [True, False]


def test_a_429_closes_the_endpoint_for_everybody_until_then(
    clock: SimulatedRedis, governor: Governor
) -> None:
    assert granted(governor, "a", "b") == [True, True]
    assert governor.told(call("a"), 20_000, "asks for a pause") == 20_000
    assert governor.told(call("b"), 500, "asks for a pause") == 20_000, "the longer one holds"
    assert governor.endpoints() == ["at:host/m"]
    assert governor.look("at:host/m").closed_s == pytest.approx(20, abs=0.1)
    found = ask(governor, "c", patience_ms=5000)
    assert (found.verdict, found.reason) == ("later", "provider: host/m asks for a pause")
    other = replace(call("d"), windows=("at:host/other", RUNNER))
    assert governor.enter(other, 1, bound_ms=1000).verdict == "granted", "another model is open"
    times = [clock.now_us // 1000 + ask(governor, node).expected_ms for node in "defg"]
    assert times == sorted(set(times)), "they come back one after the other"
    forward(clock, 20_001)
    assert granted(governor, "c") == [True]


def test_an_endpoint_that_is_closed_for_hours_is_not_forgotten_before(governor: Governor) -> None:
    governor.configure({WINDOWS[0]: {"concurrency": 9}})
    assert granted(governor, "a", "b") == [True, True]
    governor.told(call("a"), 10 * 3600 * 1000, "asks for a pause")
    governor.leave(call("b"), 5, took_ms=10, answered=False)
    assert governor._client.pttl(keys.rate(WINDOWS[0])) > 9 * 3600 * 1000


def test_pauses_that_are_too_short_again_and_again_grow_until_an_answer_comes(
    clock: SimulatedRedis, governor: Governor
) -> None:
    pauses = []
    for number in range(1, 10):
        one = call("a", number)
        pauses.append(governor.told(one, 0, "asks for a pause"))
        forward(clock, pauses[-1] + 1)
    assert pauses[:2] == [0, 0]
    assert pauses[2:] == [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
    governor.leave(one, 5, took_ms=10, answered=True)
    assert governor.told(one, -1, "asks for a pause") == 500, "of unknown length: half a second at first"


def test_limits_are_changed_while_everything_runs(governor: Governor) -> None:
    governor.configure({RUNNER: {"rpm": 1}})
    assert granted(governor, "a", "b") == [True, False]
    governor.set_rate(RUNNER, "rpm", 2)
    governor.configure({RUNNER: {"rpm": 1}})
    assert governor.rates() == {RUNNER: {"rpm": 2}}, "what an operator set stays above the configuration"
    assert granted(governor, "b", "c") == [True, False]
    governor.set_rate(RUNNER, "rpm", None)
    assert governor.rates() == {RUNNER: {"rpm": 1}}
    governor.set_rate(RUNNER, "rpm", 0)
    assert granted(governor, "c", "d") == [True, True]
    for wrong in (("rps", 1), ("rpm", -1)):
        with pytest.raises(UsageError):
            governor.set_rate(RUNNER, *wrong)


def test_who_leaves_rings_for_the_first_who_waits_here(clock: SimulatedRedis, governor: Governor) -> None:
    governor.configure({RUNNER: {"concurrency": 1}})
    assert granted(governor, "a") == [True]
    assert granted(governor, "b") == [False]
    assert ask(governor, "delayed", patience_ms=0).verdict == "later"
    assert granted(governor, "c") == [False]
    governor.leave(call("a"), 10, took_ms=100, answered=True)
    rung = [node for node in ("delayed", "b", "c") if clock.exists(keys.bell("", node))]
    assert rung == ["b"], "the other one is not here to listen, and one place is for one"
    governor.listen(call("b"), 60)
    assert granted(governor, "b") == [True]
    assert not clock.exists(keys.bell("", "b"))


# -- under an attempt's lease ------------------------------------------------------------------------


class Desk:
    """A run with some nodes that are claimed, and their gates."""

    def __init__(self, clock: SimulatedRedis) -> None:
        self.ledger = Ledger(clock)
        self.governor = Governor(clock)
        open_run(self.ledger, {node: [] for node in "abc"})
        self.gates: dict[str, FleetGate] = {}
        self.fences: dict[str, int] = {}

    def claim(self, node: str) -> FleetGate:
        found = self.ledger.claim("run-1", node, worker="w", ttl_ms=60_000)
        assert found.granted
        self.fences[node] = found.fence
        held = Held("run-1", node, found.fence, time.monotonic() + 60, threading.current_thread())
        gate = FleetGate(self.governor, held, role="worker", runner="model", breaker=BreakerSettings())
        self.gates[node] = gate
        return gate

    def throttled(self) -> list[tuple[str, str]]:
        events = EventLog(self.ledger.client).read("run-1")
        return [(e.node, e.reason) for e in events if e.kind == "node.throttled"]


@pytest.fixture
def desk(clock: SimulatedRedis) -> Desk:
    return Desk(clock)


def test_the_calls_of_a_dead_worker_come_back_with_its_lease(desk: Desk) -> None:
    desk.governor.configure({RUNNER: {"concurrency": 1}})
    dead, waiting = desk.claim("a"), desk.claim("b")
    assert dead.enter("host", "m", 10, patience_s=None).granted
    assert not waiting.enter("host", "m", 10, patience_s=None).granted
    desk.ledger.expire("run-1", "a", desk.fences["a"], max_losses=10)
    assert waiting.enter("host", "m", 10, patience_s=None).granted
    assert dead.enter("host", "m", 10, patience_s=None).lost, "and its own zombie calls nobody"


def test_an_attempt_that_is_told_to_end_stops_listening(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentflow.store.governor.LONGEST_SLEEP_S", 120)
    gate = desk.claim("a")
    stop = gate._held.stop
    gate.enter("host", "m", 10, patience_s=None)
    listening = threading.Thread(target=gate.wait, args=(Room(look_s=120), stop))
    listening.start()
    wait_until(lambda: gate._is_waiting)
    stop.set("cancelled")
    listening.join(60)
    assert not listening.is_alive()
    gate.wait(Room(look_s=120), stop)


def test_a_refusal_is_what_why_says_and_an_event(desk: Desk) -> None:
    desk.governor.configure({RUNNER: {"concurrency": 1}})
    first, second = desk.claim("a"), desk.claim("b")
    room = first.enter("host", "m", 10, patience_s=None)
    reason = "provider: model allows 1 call at once, all are under way"
    for _ in range(3):
        assert second.enter("host", "m", 10, patience_s=None).reason == reason
    assert desk.ledger.why("run-1", "b") == f"is running: attempt 1 on w; waits, {reason}"
    assert desk.throttled() == [("b", reason)], "told once, not with each look"
    first.leave(room, 10, took_s=0.1, answered=True)
    assert second.enter("host", "m", 10, patience_s=None).granted
    assert desk.ledger.why("run-1", "b") == "is running: attempt 1 on w"


def test_a_node_that_is_given_back_says_what_it_waits_for_and_keeps_its_place(
    clock: SimulatedRedis, desk: Desk
) -> None:
    desk.governor.configure({RUNNER: {"rpm": 1}})
    assert desk.claim("a").enter("host", "m", 10, patience_s=5.0).granted
    room = desk.claim("b").enter("host", "m", 10, patience_s=5.0)
    assert room.later
    forward(clock, 1)
    later = desk.claim("c").enter("host", "m", 10, patience_s=5.0)
    for node, its in (("b", room), ("c", later)):
        fence, delay_ms = desk.fences[node], int(its.expected_s * 1000)
        desk.ledger.requeue("run-1", node, fence, reason=its.reason, delay_ms=delay_ms)
    assert desk.ledger.why("run-1", "b") == f"waits {room.reason}"
    assert later.expected_s > room.expected_s + 50, "one a minute"
    # It needs a worker and a workspace before it can ask again.
    forward(clock, room.expected_s * 1000 + 20_000)
    desk.ledger.due()
    assert desk.claim("b").enter("host", "m", 10, patience_s=5.0).granted
    assert ask(desk.governor, "newcomer").verdict == "wait"
    window = desk.governor.look(RUNNER)
    assert (window.calls, window.waiting) == (1, 2), "c has its place still"
