"""The governor under any order of calls, against an oracle, on a virtual clock.

What the oracle knows is simple: every call that was let in, with its time and its tokens. However it goes,
no stretch of a window's length holds more than was allowed when a call was let in, nobody is kept out of a
window that has room and no line, and whoever comes back when it was told to is let in at last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from helpers.broken_scripts import broken, rewritten
from helpers.redis_server import RedisServer
from helpers.simulation.clock import BEGIN_US, SimulatedRedis, in_simulation
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentflow.store import keys
from agentflow.store.governor import Answer, Call, Governor

WINDOW_MS = 60_000
#: How long a call counts: it reaches the provider a little later than it was let in.
SPAN_MS = WINDOW_MS * 1.05
BOUND_MS = 600_000
RUNNER, ROLE = "runner:model", "role:tester"
NODES = [f"n{i}" for i in range(6)]
LIMITS = st.fixed_dictionaries(
    {
        "rpm": st.sampled_from([0, 2, 3]),
        "tpm": st.sampled_from([0, 100, 150]),
        "concurrency": st.sampled_from([0, 1, 2]),
    }
)


@dataclass
class Window:
    """What the oracle knows of one window."""

    limits: dict[str, int] = field(default_factory=dict)
    #: Call -> when it was let in, and what it counts.
    log: dict[Call, tuple[float, int]] = field(default_factory=dict)
    held: set[Call] = field(default_factory=set)

    def recent(self, now_ms: float, span: float) -> list[int]:
        return [size for at, size in self.log.values() if at > now_ms - span]

    def has_room(self, now_ms: float, tokens: int, span: float) -> bool:
        sizes = self.recent(now_ms, span)
        rpm, tpm, at_once = (self.limits.get(k, 0) for k in ("rpm", "tpm", "concurrency"))
        return (
            (not rpm or len(sizes) < rpm)
            and (not tpm or sum(sizes) + min(tokens, tpm) <= tpm)
            and (not at_once or len(self.held) < at_once)
        )


class GovernorMachine(RuleBasedStateMachine):
    """Attempts that call, end, die and wait, providers that ask for pauses, operators that change limits."""

    client: ClassVar[SimulatedRedis]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.client.now_us = BEGIN_US
        self.governor = Governor(self.client, window_ms=WINDOW_MS)
        self.windows = {RUNNER: Window(), ROLE: Window()}
        self.closed_ms = 0.0
        self.under_way: dict[str, Call] = {}
        self.waiting: dict[str, tuple[Call, int]] = {}
        self.numbers = dict.fromkeys(NODES, 0)
        self.fences = dict.fromkeys(NODES, 1)

    @property
    def now_ms(self) -> float:
        return self.client.now_us // 1000

    @initialize(runner=LIMITS, role=LIMITS)
    def begin(self, runner, role):
        self.windows[RUNNER].limits, self.windows[ROLE].limits = runner, role
        self.governor.configure({RUNNER: runner, ROLE: role})
        for node in NODES:
            self.lease(node)

    def lease(self, node):
        self.client.zadd(keys.LEASES, {f"r|{node}|{self.fences[node]}": 1})

    @rule(ms=st.sampled_from([1, 50, 1000, 10_000, 30_000, 61_800]))
    def time_passes(self, ms):
        self.client.now_us = self.client.now_us + ms * 1000

    def call_of(self, node):
        """Only some of the attempts have the role whose window is there."""
        named = (RUNNER, ROLE) if node in NODES[:4] else (RUNNER,)
        return Call(("at:host/m", *named), "r", node, self.fences[node], self.numbers[node] + 1)

    @rule(node=st.sampled_from(NODES), tokens=st.sampled_from([10, 60, 100, 400]), patient=st.booleans())
    def enter(self, node, tokens, patient):
        if node not in self.under_way:
            tokens = self.waiting[node][1] if node in self.waiting else tokens
            self.ask(node, tokens, patience_ms=-1 if patient else 5000)

    def ask(self, node, tokens, *, patience_ms=-1) -> Answer:
        call = self.call_of(node)
        mine = [self.windows[name] for name in call.windows[1:]]
        answer = self.governor.enter(call, tokens, patience_ms=patience_ms, bound_ms=BOUND_MS)
        if answer.verdict == "granted":
            assert self.closed_ms <= self.now_ms, "nobody calls while the endpoint is closed"
            for window in mine:
                assert window.has_room(self.now_ms, tokens, WINDOW_MS), (window, tokens)
                window.held.add(call)
                window.log[call] = (self.now_ms, tokens)
            self.numbers[node] += 1
            self.under_way[node] = call
            self.waiting.pop(node, None)
            return answer
        assert answer.reason.startswith("provider: ")
        assert answer.expected_ms > 0
        assert (answer.verdict == "later") == (0 <= patience_ms < answer.expected_ms)
        others = set(self.waiting) - {node}
        if not others and self.closed_ms <= self.now_ms:
            room = all(w.has_room(self.now_ms, tokens, SPAN_MS + 1) for w in mine)
            assert not room, "whoever is kept out of an empty line finds no room"
        self.waiting[node] = (call, tokens)
        return answer

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), tokens=st.sampled_from([-1, 0, 5, 60, 120]), answered=st.booleans())
    def leave(self, data, tokens, answered):
        node = data.draw(st.sampled_from(sorted(self.under_way)))
        self.end(node, tokens, answered=answered)

    def end(self, node, tokens, *, answered=True):
        call = self.under_way.pop(node)
        self.governor.leave(call, tokens, took_ms=100, answered=answered)
        for name in call.windows[1:]:
            window = self.windows[name]
            window.held.discard(call)
            if tokens >= 0 and window.log[call][0] > self.now_ms - SPAN_MS:
                window.log[call] = (window.log[call][0], tokens)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def die(self, data):
        """The worker is gone: the attempt loses its lease, and the next one has another token."""
        node = data.draw(st.sampled_from(sorted(self.under_way)))
        call = self.under_way.pop(node)
        for window in self.windows.values():
            window.held.discard(call)
        self.client.zrem(keys.LEASES, f"r|{node}|{call.fence}")
        assert self.governor.enter(call, 1, bound_ms=BOUND_MS).verdict == "superseded"
        self.fences[node] += 1
        self.lease(node)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), wait=st.sampled_from([-1, 0, 700, 20_000]))
    def told(self, data, wait):
        node = data.draw(st.sampled_from(sorted(self.under_way)))
        closed = self.governor.told(self.under_way[node], wait, "asks for a pause")
        assert closed >= wait
        self.closed_ms = max(self.closed_ms, self.now_ms + closed)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        node = data.draw(st.sampled_from(sorted(self.waiting)))
        call, _ = self.waiting.pop(node)
        self.governor.give_up(call)

    @rule(window=st.sampled_from([RUNNER, ROLE]), limits=LIMITS)
    def set_rates(self, window, limits):
        for name, value in limits.items():
            self.governor.set_rate(window, name, value)
        self.windows[window].limits = limits

    @invariant()
    def the_books_agree(self):
        pipe = self.client.pipeline(transaction=False)
        for key in map(keys.rate, self.windows):
            pipe.zrange(f"{key}:log", 0, -1).hgetall(f"{key}:sizes").hget(key, "tokens")
            pipe.zrange(f"{key}:held", 0, -1)
        answers = pipe.execute()
        for i, window in enumerate(self.windows.values()):
            log, sizes, tokens, passes = answers[4 * i : 4 * i + 4]
            assert set(log) == set(sizes)
            assert int(tokens or 0) == sum(map(int, sizes.values()))
            held = {f"r|{call.node}|{call.fence}|{call.number}" for call in window.held}
            assert held <= set(passes)

    def teardown(self):
        """Everybody who waits is let in when they come as they were told; nothing stays for ever."""
        assert not {k for k in self.client.scan_iter("af:rate:*") if self.client.ttl(k) == -1}
        for node in list(self.under_way):
            self.end(node, 5)
        line = [node for node in NODES if node in self.waiting]
        coming = {}
        for node in line:
            coming[node] = self.now_ms
        last_ms = self.now_ms + (len(line) + 2) * (SPAN_MS + 2000) + max(0.0, self.closed_ms - self.now_ms)
        while coming:
            node = min(coming, key=lambda name: coming[name])
            self.client.now_us = int(max(self.now_ms, coming.pop(node)) * 1000)
            answer = self.ask(node, self.waiting[node][1])
            if answer.verdict == "granted":
                self.end(node, 5)
            else:
                coming[node] = self.now_ms + answer.look_ms
            assert self.now_ms <= last_ms, f"{coming} still wait: {answer.reason}"


@contextmanager
def simulated(server: RedisServer) -> Iterator[SimulatedRedis]:
    with (
        SimulatedRedis.from_url(server.client_url, decode_responses=True) as client,
        rewritten(in_simulation),
    ):
        client.flushall()
        yield client
        client.flushall()


def run_machine(
    client: SimulatedRedis, examples: int, phases: Sequence[Phase] = tuple(Phase), **more: Any
) -> None:
    machine = type("Machine", (GovernorMachine,), {"client": client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            phases=phases,
            **more,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_calls(redis_server: RedisServer) -> None:
    with simulated(redis_server) as client:
        run_machine(client, 30)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("count + w.near + 1 > w.rpm", "count + w.near > w.rpm"),
        ("'-inf', NOW - SPAN,", "'-inf', NOW - SPAN / 2,"),
        ("used + w.near_tokens + mine > w.tpm", "used + w.near_tokens > w.tpm"),
        ("under_way(w) + w.here >= w.concurrency", "under_way(w) + w.here > w.concurrency"),
        ("not redis.call('ZSCORE', 'af:leases', lease)", "false"),
        ("if closed > NOW then", "if closed > NOW + 60000 then"),
        ("redis.call('HINCRBY', w.key, 'tokens', tokens - counted)", "redis.call('TIME')"),
    ],
)
def test_a_broken_governor_is_found(redis_server: RedisServer, old: str, new: str) -> None:
    with simulated(redis_server) as client, broken(old, new), pytest.raises(AssertionError):
        run_machine(client, 400, [Phase.generate], derandomize=True)
