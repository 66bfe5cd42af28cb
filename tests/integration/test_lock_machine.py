"""The scripts of locks against a plain oracle of multi-granularity locking, under any order of calls.

The oracle knows no intentions and no counters: it compares every two locks, path by path, with the matrix
that is written out here. Whatever the ledger says (granted, who is in the way, who is woken) must be what it
says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import redis
from helpers.ledgers import RUN, open_run, validate_run
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentflow.spec.artifacts import Lock
from agentflow.states import NodeState
from agentflow.store import keys
from agentflow.store.ledger import Ledger

NODES = ["n0", "n1", "n2", "n3", "n4", "n5"]
PATHS = ["", "src", "src/a", "src/a/x.py", "src/a/y.py", "docs"]
MODES = ["write", "read", "append"]
#: May both hold it? One letter for each mode: write, read, append.
MATRIX = {
    "ww": False, "wr": False, "wa": False,
    "rw": False, "rr": True, "ra": False,
    "aw": False, "ar": False, "aa": True,
}  # fmt: skip
LOCKS = st.builds(Lock, st.sampled_from([*PATHS, *PATHS[1:4]]), st.sampled_from(MODES))


def parts(path: str) -> list[str]:
    return path.split("/") if path else []


def clash(one: Lock, other: Lock) -> bool:
    """Whether the two cannot be held by different nodes at one time."""
    a, b = parts(one.path), parts(other.path)
    shorter = min(len(a), len(b))
    return a[:shorter] == b[:shorter] and not MATRIX[one.mode[0] + other.mode[0]]


def any_clash(these: list[Lock], those: list[Lock]) -> bool:
    return any(clash(one, other) for one in these for other in those)


@dataclass
class Oracle:
    """Who holds and who waits, in the order of arrival; `wants` of every node."""

    wants: dict[str, list[Lock]]
    holding: set[str] = field(default_factory=set)
    line: list[str] = field(default_factory=list)
    parked: set[str] = field(default_factory=set)

    def in_the_way(self, node: str) -> set[str]:
        """Who keeps the node from its locks: holders, else those that came earlier."""
        mine = self.wants[node]
        holders = {h for h in self.holding if h != node and any_clash(self.wants[h], mine)}
        before = self.line[: self.line.index(node)] if node in self.line else self.line
        return holders or {w for w in before if any_clash(self.wants[w], mine)}

    def blocking_extension(self, node: str, lock: Lock) -> set[str]:
        mine = self.wants[node]
        holders = {h for h in self.holding if h != node and any_clash(self.wants[h], [lock])}
        waiters = {
            w for w in self.line if any_clash(self.wants[w], [lock]) and not any_clash(self.wants[w], mine)
        }
        return holders or waiters

    def park(self, node: str) -> None:
        self.parked.add(node)
        if self.wants[node] and node not in self.line:
            self.line.append(node)

    def take(self, node: str) -> None:
        self.holding.add(node)
        if node in self.line:
            self.line.remove(node)

    def wake(self) -> set[str]:
        woken = {node for node in self.parked if not self.in_the_way(node)}
        self.parked -= woken
        return woken


class LockMachine(RuleBasedStateMachine):
    """Calls of workers; `fences` of what they hold."""

    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger(self.client)
        self.fences: dict[str, int] = {}
        self.oracle = Oracle({})

    @initialize(data=st.data())
    def open(self, data):
        wants = {node: data.draw(st.lists(LOCKS, max_size=2, unique=True)) for node in NODES}
        self.oracle = Oracle({node: list(locks) for node, locks in wants.items()})
        open_run(self.ledger, {node: [] for node in NODES}, locks=wants)

    @rule(node=st.sampled_from(NODES))
    def claim(self, node):
        self._claim(node)

    def _claim(self, node: str) -> None:
        was = self.ledger.node(RUN, node).state
        taken = self.ledger.claim(RUN, node, worker="w", ttl_ms=60_000)
        if was is not NodeState.READY:
            assert taken.verdict == "refused"
            return
        blockers = self.oracle.in_the_way(node)
        assert taken.granted is not bool(blockers), (node, taken, blockers)
        if taken.granted:
            self.oracle.take(node)
            self.fences[node] = taken.fence
        else:
            assert taken.reason.rpartition(" ")[2] in blockers
            self.oracle.park(node)
            self._woken(taken.answer.woken)

    def _woken(self, woken: tuple[str, ...]) -> None:
        assert set(woken) == self.oracle.wake()

    def _drop(self, node: str) -> int:
        self.oracle.holding.discard(node)
        return self.fences.pop(node)

    @precondition(lambda self: self.fences)
    @rule(data=st.data(), ok=st.booleans())
    def settle(self, data, ok):
        node = data.draw(st.sampled_from(sorted(self.fences)))
        state = NodeState.SUCCEEDED if ok else NodeState.FAILED
        answer = self.ledger.settle(RUN, node, self._drop(node), state, commit="c" if ok else "")
        self._woken(answer.woken)

    @precondition(lambda self: self.fences)
    @rule(data=st.data())
    def come_back(self, data):
        node = data.draw(st.sampled_from(sorted(self.fences)))
        answer = self.ledger.requeue(RUN, node, self._drop(node), reason="again")
        self._woken(answer.woken)

    @precondition(lambda self: self.fences)
    @rule(data=st.data(), lock=LOCKS, waits=st.booleans())
    def ask_for_more(self, data, lock, waits):
        node = data.draw(st.sampled_from(sorted(self.fences)))
        pattern = f"{lock.path}/**" if lock.path else "**"
        answer = self.ledger.extend(RUN, node, self.fences[node], [pattern], lock.mode)
        has = any(one.suffices_for(lock) for one in self.oracle.wants[node])
        blockers = set() if has else self.oracle.blocking_extension(node, lock)
        assert answer.granted is not bool(blockers), (node, lock, answer, blockers)
        if answer.granted:
            self.oracle.wants[node] += [] if has else [lock]
            return
        assert (answer.verdict, answer.by, answer.path) == ("queued", "node", lock.path)
        assert answer.holder in blockers
        if waits:
            fence = self._drop(node)
            self.oracle.wants[node].append(lock)
            self.oracle.park(node)
            again = self.ledger.requeue(
                RUN, node, fence, reason="behind", park=True, locks=[lock], given=True
            )
            self._woken(again.woken)

    @invariant()
    def nobody_holds_what_another_one_holds(self):
        holders = sorted(self.oracle.holding)
        for place, one in enumerate(holders):
            for other in holders[place + 1 :]:
                assert not any_clash(self.oracle.wants[one], self.oracle.wants[other])
        if self.client.exists(keys.run(RUN)):
            validate_run(self.ledger)

    def teardown(self):
        """Nobody waits for ever: as long as whoever holds something ends, everybody has had its turn."""
        if not self.client.exists(keys.run(RUN)):
            return
        for _ in range(3 * len(NODES)):
            for node in sorted(self.fences):
                answer = self.ledger.settle(RUN, node, self._drop(node), NodeState.SUCCEEDED)
                self._woken(answer.woken)
            for node in NODES:
                self._claim(node)
            if not self.fences:
                break
        left = [n.id for n in self.ledger.nodes(RUN).values() if n.id in NODES and n.state != "succeeded"]
        assert not set(left) - {n.id for n in self.ledger.nodes(RUN).values() if n.state == "failed"}
        assert not self.client.exists(keys.part(RUN, "locks"), keys.part(RUN, "wanted"))


def test_locks_are_those_of_the_oracle(redis_client):
    machine = type("Machine", (LockMachine,), {"client": redis_client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
