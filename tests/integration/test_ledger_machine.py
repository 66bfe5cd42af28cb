"""The ledger under any order of calls: invariants hold after each, and every run can be driven to its end.

Two runs share a fleet whose limits, slots and locks change under them.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import redis
from helpers.ledgers import open_run, validate_fleet, validate_run
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

from agentflow.spec.artifacts import MODES, Lock
from agentflow.states import CLOSED, TERMINAL, NodeState, RunState
from agentflow.store import keys
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE

RUNS = ["one", "two"]
NODES = ["n0", "n1", "n2", "n3", "n4"]
PATHS = ["", "src", "src/a", "src/a/x.py", "src/b", "docs"]
LOCKS = st.builds(Lock, st.sampled_from(PATHS), st.sampled_from(MODES))
ROLES = ["coder", "tester"]
QUEUES = ["coder", "tester", "shared"]
Key = tuple[str, str]


class LedgerMachine(RuleBasedStateMachine):
    """Calls as workers make them: with the tokens that they were given, old ones too."""

    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger(self.client)
        self.held: dict[Key, int] = {}
        self.old: list[tuple[Key, int]] = []

    @initialize(data=st.data())
    def open(self, data):
        for run in RUNS:
            parents = {
                node: sorted(data.draw(st.sets(st.sampled_from(NODES[:i]), max_size=2))) if i else []
                for i, node in enumerate(NODES)
            }
            roles = {n: data.draw(st.sampled_from(ROLES)) for n in NODES}
            open_run(
                self.ledger, parents, run_id=run, roles=roles,
                queues={n: data.draw(st.sampled_from([roles[n], roles[n], "shared"])) for n in NODES},
                locks={n: data.draw(st.lists(LOCKS, max_size=2)) for n in NODES},
                optional=sorted(data.draw(st.sets(st.sampled_from(NODES), max_size=2))),
                role_limit=data.draw(st.integers(0, 2)), max_concurrent=data.draw(st.integers(0, 3)),
                on_failure=data.draw(st.sampled_from(["continue", "stop"])),
                priorities={n: data.draw(st.integers(0, 1)) for n in NODES},
                exclusive=data.draw(st.lists(LOCKS.filter(lambda lock: lock.path), max_size=1)),
            )  # fmt: skip

    @rule(run=st.sampled_from(RUNS), node=st.sampled_from([*NODES, *NODES, INTEGRATE]))
    def claim(self, run, node):
        woken = self.ledger.fields(run, node, "woken") == ("1",)
        taken = self.ledger.claim(run, node, worker="w", ttl_ms=60_000)
        if taken.granted:
            assert (run, node) not in self.held
            self.held[run, node] = taken.fence
            self.may_start(run, node)
            if not woken and node != INTEGRATE:
                self.is_within_limits(self.ledger.node(run, node).role)

    def may_start(self, run, node):
        """Nothing starts in a run, or of a role, that is paused; an integration only ends what there is."""
        if node != INTEGRATE:
            role = self.ledger.node(run, node).role
            assert self.ledger.run(run).state is RunState.OPEN
            assert not {"fleet", f"role:{role}"} & set(self.ledger.pauses())

    def is_within_limits(self, role):
        limits, flight = self.ledger.limits(), self.ledger.in_flight()
        for name in ("fleet", f"role:{role}"):
            assert flight[name] <= limits.get(name, 1000), name

    def _drop(self, data) -> tuple[str, str, int]:
        key = data.draw(st.sampled_from(sorted(self.held)))
        fence = self.held.pop(key)
        self.old.append((key, fence))
        return *key, fence

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ok=st.booleans(), path=st.sampled_from(PATHS[2:]))
    def settle(self, data, ok, path):
        run, node, fence = self._drop(data)
        state = NodeState.SUCCEEDED if ok else NodeState.FAILED
        answer = self.ledger.settle(run, node, fence, state, commit="c" if ok else "", paths=[path])
        assert answer.head[0] == "settled"
        if node == INTEGRATE:
            self.ledger.close(run, RunState.READY_TO_LAND if ok else RunState.FAILED)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), path=st.sampled_from(PATHS[2:]))
    def settle_optimistically(self, data, path):
        run, node, fence = self._drop(data)
        seq = self.ledger.sequence(run)
        arguments = {"commit": "c", "paths": [path], "seq": seq}
        answer = self.ledger.settle(run, node, fence, NodeState.SUCCEEDED, **arguments)
        if answer.head[0] == "locked":
            why = answer.head[1]
            again = self.ledger.requeue(run, node, fence, reason=why, park=True, locks=[Lock(path)])
            assert again.head[0] == "requeued"
        elif node == INTEGRATE:
            self.ledger.close(run, RunState.READY_TO_LAND)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), lock=LOCKS, waits=st.booleans())
    def ask_for_more(self, data, lock, waits):
        run, node = data.draw(st.sampled_from(sorted(self.held)))
        pattern = f"{lock.path}/**" if lock.path else "**"
        answer = self.ledger.extend(run, node, self.held[run, node], [pattern], lock.mode)
        assert answer.verdict in ("granted", "queued", "refused")
        if answer.verdict == "queued" and answer.by == "node" and waits:
            fence = self.held.pop((run, node))
            self.old.append(((run, node), fence))
            self.ledger.requeue(run, node, fence, reason="behind", park=True, locks=[lock], given=True)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), counter=st.sampled_from(["failures", "losses", ""]), delay=st.sampled_from([0, 1]))
    def come_back(self, data, counter, delay):
        run, node, fence = self._drop(data)
        again = self.ledger.requeue(run, node, fence, reason="again", counter=counter, delay_ms=delay)
        if again.head[0] == "quarantined" and node == INTEGRATE:
            self.ledger.close(run, RunState.FAILED)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), most=st.sampled_from([1, 10]))
    def expire(self, data, most):
        run, node, fence = self._drop(data)
        self.ledger.expire(run, node, fence, max_losses=most)
        if node == INTEGRATE and most == 1:
            self.ledger.close(run, RunState.FAILED)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def a_late_worker_is_refused(self, data):
        (run, node), fence = data.draw(st.sampled_from(self.old))
        assert self.ledger.settle(run, node, fence, NodeState.SUCCEEDED).head[0] == "superseded"
        assert self.ledger.requeue(run, node, fence, reason="late").head[0] == "superseded"
        assert self.ledger.renew([(run, node, fence)], ttl_ms=1) == {(run, node, fence): "lost"}

    @rule(
        run=st.sampled_from(RUNS),
        verb=st.sampled_from(["drain", "pause", "continue", "continue", "limit", "lift"]),
        by=st.sampled_from(["its user", "budget: spent", "breaker: down"]),
    )
    def control(self, run, verb, by):
        state, _ = self.ledger.control(run, verb, "2" if verb == "limit" else by)
        assert self.ledger.control(run, verb, "2" if verb == "limit" else by)[0] == state, "again is harmless"

    @rule(name=st.sampled_from(["fleet", "role:coder", "role:tester"]), held=st.booleans())
    def pause(self, name, held):
        was = name in self.ledger.pauses()
        if held:
            assert self.ledger.pause(name, "by its operator") is not was
        else:
            assert (self.ledger.unpause(name) is not None) is was

    @rule(run=st.sampled_from(RUNS), role=st.sampled_from(ROLES), sure=st.integers(0, 9))
    def cancel_role(self, run, role, sure):
        if sure == 0 and self.ledger.run(run).state not in CLOSED:
            self.ledger.cancel_role(run, role, "by its operator")

    @rule(run=st.sampled_from(RUNS), node=st.sampled_from(NODES))
    def retry(self, run, node):
        before = {n.id: n.state for n in self.ledger.nodes(run).values()}
        if self.ledger.retry(run, node).head[0] == "again":
            after = {n.id: n.state for n in self.ledger.nodes(run).values()}
            assert after[node] in (NodeState.READY, NodeState.PENDING)
            changed = {n for n in after if after[n] != before[n]} - {node, INTEGRATE}
            assert {before[n] for n in changed} <= {NodeState.SKIPPED, NodeState.CANCELLED}

    @rule()
    def nothing_is_to_be_healed(self):
        assert self.ledger.heal()[0] == ()

    @rule(run=st.sampled_from(RUNS), sure=st.integers(0, 9))
    def cancel(self, run, sure):
        if sure == 0:
            self.ledger.control(run, "cancel")

    @rule(run=st.sampled_from(RUNS), verb=st.sampled_from(["reopen", "land", "release"]))
    def afterwards(self, run, verb):
        if verb == "reopen":
            self.ledger.reopen(run)
        elif verb == "land":
            self.ledger.close(run, RunState.LANDED)
        elif self.ledger.is_closed(run):
            self.ledger.release(run)

    @rule(name=st.sampled_from(["fleet", "role:coder", "role:tester"]), slots=st.integers(0, 3))
    def limit(self, name, slots):
        self.ledger.set_limit(name, slots)

    @rule(slots=st.dictionaries(st.sampled_from(QUEUES), st.integers(1, 3)))
    def workers_come_and_go(self, slots):
        self.ledger.set_capacity(slots)

    @rule()
    def due(self):
        self.ledger.due()

    @invariant()
    def holds(self):
        for run in RUNS:
            if self.client.exists(keys.run(run)):
                validate_run(self.ledger, run)
        validate_fleet(self.ledger)

    def teardown(self):
        """However it came here, running what is ready ends both runs: no wake-up was lost."""
        runs = [r for r in RUNS if self.client.exists(keys.run(r))]
        self.ledger.set_capacity(dict.fromkeys(QUEUES, 1))
        for name in self.ledger.pauses():
            self.ledger.unpause(name)
        for run in runs:
            self.ledger.control(run, "continue")
            self.ledger.close(run, RunState.LANDED)
        for (run, node), fence in self.held.items():
            self.end(run, node, fence)
        for _ in range(80):
            self.ledger.due()
            for run in runs:
                self.let_go_on_what_was_kept_apart(run)
                for node in self.ledger.ready(run):
                    taken = self.ledger.claim(run, node, worker="w", ttl_ms=60_000)
                    if taken.granted:
                        self.end(run, node, taken.fence)
                    validate_fleet(self.ledger)
            if all(self.ledger.run(run).state in CLOSED for run in runs):
                self.nothing_is_left(runs)
                return
        left = [n for run in runs for n in self.ledger.nodes(run).values() if n.state not in TERMINAL]
        raise AssertionError([(n.id, n.state, n.reason) for n in left])

    def let_go_on_what_was_kept_apart(self, run):
        """What waits for a suspect of another run is woken by the leader, not by that one's end."""
        reasons = [n.reason for n in self.ledger.nodes(run).values() if n.state is NodeState.PARKED]
        if any(reason.startswith("isolation: ") for reason in reasons):
            self.ledger.recheck(run)

    def end(self, run, node, fence):
        self.ledger.settle(run, node, fence, NodeState.SUCCEEDED)
        if node == INTEGRATE:
            self.ledger.close(run, RunState.READY_TO_LAND)
            self.ledger.close(run, RunState.LANDED)

    def nothing_is_left(self, runs):
        for run in runs:
            self.ledger.release(run)
        left = {key for key in self.client.scan_iter("af:*") if self.client.ttl(key) == -1}
        assert left <= keys.PERMANENT


@pytest.mark.parametrize("examples", [40])
def test_any_order_of_calls(redis_client, examples):
    machine = type("Machine", (LedgerMachine,), {"client": redis_client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
