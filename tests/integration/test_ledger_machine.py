"""The ledger under any order of calls: invariants hold after each, and every run can be driven to its end."""

from __future__ import annotations

from typing import ClassVar

import pytest
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

from agentflow.states import TERMINAL, NodeState
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE

NODES = ["n0", "n1", "n2", "n3", "n4", "n5"]
PATHS = ["", "src", "src/a", "src/a/x.py", "src/b", "docs"]


class LedgerMachine(RuleBasedStateMachine):
    """Calls as workers make them: with the tokens that they were given, old ones too."""

    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger(self.client)
        self.held: dict[str, int] = {}
        self.old: list[tuple[str, int]] = []

    @initialize(data=st.data(), limit=st.integers(0, 3), role_limit=st.integers(0, 2))
    def open(self, data, limit, role_limit):
        parents = {
            node: sorted(data.draw(st.sets(st.sampled_from(NODES[:i]), max_size=2))) if i else []
            for i, node in enumerate(NODES)
        }
        locks = {n: data.draw(st.lists(st.sampled_from(PATHS), max_size=1)) for n in NODES}
        optional = data.draw(st.sets(st.sampled_from(NODES), max_size=2))
        stop = data.draw(st.sampled_from(["continue", "stop"]))
        open_run(
            self.ledger, parents, locks=locks, optional=sorted(optional), role_limit=role_limit,
            max_concurrent=limit, on_failure=stop,
        )  # fmt: skip

    @rule(node=st.sampled_from([*NODES, INTEGRATE]))
    def claim(self, node):
        taken = self.ledger.claim(RUN, node, worker="w", ttl_ms=60_000)
        if taken.granted:
            assert node not in self.held
            self.held[node] = taken.fence

    def _drop(self, data) -> tuple[str, int]:
        node = data.draw(st.sampled_from(sorted(self.held)))
        fence = self.held.pop(node)
        self.old.append((node, fence))
        return node, fence

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ok=st.booleans(), path=st.sampled_from(PATHS[2:]))
    def settle(self, data, ok, path):
        node, fence = self._drop(data)
        state = NodeState.SUCCEEDED if ok else NodeState.FAILED
        answer = self.ledger.settle(RUN, node, fence, state, commit="c" if ok else "", paths=[path])
        assert answer.head[0] == "settled"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), path=st.sampled_from(PATHS[2:]))
    def settle_optimistically(self, data, path):
        node, fence = self._drop(data)
        seq = self.ledger.sequence(RUN)
        arguments = {"commit": "c", "paths": [path], "seq": seq}
        answer = self.ledger.settle(RUN, node, fence, NodeState.SUCCEEDED, **arguments)
        if answer.head[0] == "locked":
            facts = {"locks": f'["{path}"]'}
            again = self.ledger.requeue(RUN, node, fence, reason=answer.head[1], park=True, facts=facts)
            assert again.head[0] == "requeued"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), counter=st.sampled_from(["failures", "losses", ""]), delay=st.sampled_from([0, 1]))
    def come_back(self, data, counter, delay):
        node, fence = self._drop(data)
        self.ledger.requeue(RUN, node, fence, reason="again", counter=counter, delay_ms=delay)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def a_late_worker_is_refused(self, data):
        node, fence = data.draw(st.sampled_from(self.old))
        assert self.ledger.settle(RUN, node, fence, NodeState.SUCCEEDED).head[0] == "superseded"
        assert self.ledger.requeue(RUN, node, fence, reason="late").head[0] == "superseded"
        assert self.ledger.renew([(RUN, node, fence)], ttl_ms=1) == {(RUN, node, fence): "lost"}

    @rule(verb=st.sampled_from(["drain", "continue", "continue", "limit"]))
    def control(self, verb):
        self.ledger.control(RUN, verb, "2" if verb == "limit" else "")

    @rule(sure=st.integers(0, 9))
    def cancel(self, sure):
        if sure == 0:
            self.ledger.control(RUN, "cancel")

    @rule()
    def due(self):
        self.ledger.due()

    @invariant()
    def holds(self):
        if self.client.exists(f"af:run:{RUN}"):
            validate_run(self.ledger)

    def teardown(self):
        """However it came here, running what is ready ends the run: no wake-up was lost."""
        if not self.client.exists(f"af:run:{RUN}"):
            return
        self.ledger.control(RUN, "continue")
        for node, fence in self.held.items():
            self.ledger.settle(RUN, node, fence, NodeState.SUCCEEDED)
        for _ in range(40):
            self.ledger.due()
            for node in self.ledger.ready(RUN):
                taken = self.ledger.claim(RUN, node, worker="w", ttl_ms=60_000)
                if taken.granted:
                    self.ledger.settle(RUN, node, taken.fence, NodeState.SUCCEEDED)
            validate_run(self.ledger)
            nodes = self.ledger.nodes(RUN).values()
            if all(n.state in TERMINAL for n in nodes):
                return
        raise AssertionError({n.id: (n.state, n.reason) for n in nodes})


@pytest.mark.parametrize("examples", [40])
def test_any_order_of_calls(redis_client, examples):
    machine = type("Machine", (LedgerMachine,), {"client": redis_client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
