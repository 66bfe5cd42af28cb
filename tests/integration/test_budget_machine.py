"""Budgets under any order of calls, against an oracle in Python: figures, verdicts, parking and waking.

Two runs of one project share its day, and it shares the day of all projects with a third one, of another.
Attempts are lost and come back with old fences; bills come twice,
late, above their reservation or never.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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

from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.budgets import NANO, Amount, Change, nano
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE

#: Run -> its project.
PROJECTS = {"one": "p", "two": "p", "other": "q"}
RUNS = list(PROJECTS)
ROLES = {"n0": "coder", "n1": "coder", "n2": "tester"}
NODES = list(ROLES)
SCOPES = ["run", "role:coder", "role:tester", "node:n0", "node:n1", "node:n2"]
UNITS = ("usd", "tokens")
#: Cents and tokens: few enough to meet, many enough to differ.
amounts = st.tuples(st.integers(0, 40), st.integers(0, 40))
limits = st.one_of(st.none(), st.integers(0, 120))


def amount_of(cents: int, tokens: int) -> Amount:
    return Amount(cents / 100, tokens)


@dataclass
class Purse:
    """One budget as the oracle sees it; amounts are (cents, tokens)."""

    limit: dict[str, int] = field(default_factory=dict)
    spent: list[int] = field(default_factory=lambda: [0, 0])
    held: list[int] = field(default_factory=lambda: [0, 0])
    #: The highest limit that it ever had, and what bills took above their reservations.
    most: dict[str, int] = field(default_factory=dict)
    above: list[int] = field(default_factory=lambda: [0, 0])

    def lacks(self, want) -> str:
        """'' when there is room, else `spent` (of any unit) or `held`."""
        found = ""
        for i, unit in enumerate(UNITS):
            limit = self.limit.get(unit)
            if limit is not None and self.spent[i] + self.held[i] + want[i] > limit:
                found = "spent" if self.spent[i] + want[i] > limit else found or "held"
        return found


def refusal(purses, want):
    """The budget that refuses, as (scope, `spent` or `held`): the first that is spent, else the first."""
    found = [(scope, why) for scope, purse in purses if (why := purse.lacks(want))]
    return next((one for one in found if one[1] == "spent"), found[0] if found else ("", ""))


class Oracle:
    """What the scripts must do, without Redis."""

    def __init__(self) -> None:
        self.purses = {(run, scope): Purse() for run in RUNS for scope in SCOPES}
        self.purses |= {(project, "day"): Purse() for project in ("p", "q")}
        self.purses["", "org"] = Purse()
        self.holds: dict[tuple[str, str, int, str], tuple[tuple[int, int], bool]] = {}
        self.late: dict[tuple[str, str, int, str], tuple[tuple[int, int], bool]] = {}
        self.need: dict[tuple[str, str], tuple[int, int]] = {}

    def around(self, run, node):
        scopes = [f"node:{node}", f"role:{ROLES[node]}", "run"]
        daily = [("day", self.purses[PROJECTS[run], "day"]), ("org", self.purses["", "org"])]
        return [(scope, self.purses[run, scope]) for scope in scopes] + daily

    def reserve(self, run, node, fence, name, want, counts):
        if (run, node, fence, name) in self.holds:
            return "reserved", "", False
        scope, why = refusal(self.around(run, node), want) if any(want) else ("", "")
        if why:
            self.need[run, node] = want
            called = {f"node:{node}": "node"}.get(scope, scope.replace("role:", "role "))
            return "refused", called, why == "held"
        self.need.pop((run, node), None)
        self.holds[run, node, fence, name] = (want, counts)
        self.add(run, node, "held", want)
        return "reserved", "", False

    def add(self, run, node, figure, amount, sign=1):
        for _, purse in self.around(run, node):
            for i in range(2):
                getattr(purse, figure)[i] += sign * amount[i]

    def charge(self, run, node, fence, name, cost):
        key = (run, node, fence, name)
        if key in self.holds:
            reserved, _ = self.holds.pop(key)
            self.add(run, node, "held", reserved, -1)
            verdict = "charged"
        elif key in self.late:
            reserved, counted = self.late.pop(key)
            if counted:
                self.add(run, node, "spent", reserved, -1)
            else:
                reserved = (0, 0)
            verdict = "late"
        else:
            return "known"
        self.add(run, node, "spent", cost)
        self.add(run, node, "above", [max(0, c - r) for c, r in zip(cost, reserved, strict=True)])
        return verdict

    def ended(self, run, node, fence):
        for key in [k for k in self.holds if k[:3] == (run, node, fence)]:
            reserved, counts = self.late[key] = self.holds.pop(key)
            self.add(run, node, "held", reserved, -1)
            if counts:
                self.add(run, node, "spent", reserved)

    def gate(self, run, node):
        """Why it may not start: '', `spent` or `held`."""
        want = self.need.get((run, node), (1 / NANO * 100, 1))
        return refusal(self.around(run, node)[1:], want)[1]


class BudgetMachine(RuleBasedStateMachine):
    """Calls as workers make them."""

    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.ledger = Ledger(self.client)
        self.oracle = Oracle()
        self.held: dict[tuple[str, str], int] = {}
        self.calls: list[tuple[str, str, int, str]] = []
        self.count = 0
        for run in RUNS:
            open_run(self.ledger, {node: [] for node in NODES}, run_id=run, roles=ROLES)
            self.client.hset(keys.run(run), "project", PROJECTS[run])

    @initialize(data=st.data())
    def set_limits(self, data):
        for run, scope in self.oracle.purses:
            for unit in UNITS:
                if scope in ("run", "day", "org") or data.draw(st.booleans()):
                    self.change(run, scope, unit, data.draw(limits))

    def change(self, whose, scope, unit, limit):
        """`whose`: a run, a project (its day) or '' (the day of all)."""
        size = NANO // 100 if unit == "usd" else 1
        verb = "none" if limit is None else "set"
        run, project = (whose, "") if whose in RUNS else ("", whose)
        self.ledger.grant(run, project, [Change(f"{scope}:{unit}", verb, (limit or 0) * size)])
        purse = self.oracle.purses[whose, scope]
        purse.limit.pop(unit, None)
        if limit is not None:
            purse.limit[unit] = limit
        # Without a limit it may grow as it likes; a lower limit finds what is spent already.
        i = UNITS.index(unit)
        now = float("inf") if limit is None else limit
        purse.most[unit] = max(now, purse.most.get(unit, 0), purse.spent[i] + purse.held[i] - purse.above[i])

    @rule(run=st.sampled_from(RUNS), scope=st.sampled_from(SCOPES), unit=st.sampled_from(UNITS), limit=limits)
    def grant(self, run, scope, unit, limit):
        self.change(run, scope, unit, limit)

    @rule(whose=st.sampled_from(["p", "q", ""]), unit=st.sampled_from(UNITS), limit=limits)
    def grant_day(self, whose, unit, limit):
        self.change(whose, "day" if whose else "org", unit, limit)

    @rule(run=st.sampled_from(RUNS), node=st.sampled_from(NODES))
    def claim(self, run, node):
        before = self.ledger.node(run, node).state
        is_open = self.ledger.run(run).state is RunState.OPEN
        why = self.oracle.gate(run, node)
        taken = self.ledger.claim(run, node, worker="w", ttl_ms=60_000)
        if taken.granted:
            assert is_open
            assert not why
            self.held[run, node] = taken.fence
        elif before is NodeState.READY and is_open:
            assert why
            assert taken.reason.startswith("budget: ")

    @precondition(lambda self: self.held)
    @rule(data=st.data(), want=amounts, counts=st.booleans())
    def reserve(self, data, want, counts):
        run, node = data.draw(st.sampled_from(sorted(self.held)))
        fence = self.held[run, node]
        self.count += 1
        call = (run, node, fence, str(self.count))
        answer = self.ledger.reserve(*call, amount_of(*want), counts=counts)
        expected = self.oracle.reserve(*call, want, counts)
        assert (answer.verdict, answer.scope, answer.held) == expected
        if answer.verdict == "reserved":
            self.calls.append(call)
            assert self.ledger.reserve(*call, amount_of(*want), counts=counts).verdict == "reserved"

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), cost=amounts)
    def charge(self, data, cost):
        call = data.draw(st.sampled_from(self.calls))
        answer = self.ledger.charge(*call, amount_of(*cost))
        assert answer.head[0] == self.oracle.charge(*call, cost)
        assert self.ledger.charge(*call, amount_of(*cost)).head[0] == "known"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["settle", "fail", "again", "park", "lost"]))
    def end(self, data, how):
        run, node = data.draw(st.sampled_from(sorted(self.held)))
        fence = self.held.pop((run, node))
        self.oracle.ended(run, node, fence)
        if how in ("settle", "fail"):
            state = NodeState.SUCCEEDED if how == "settle" else NodeState.FAILED
            self.ledger.settle(run, node, fence, state)
        elif how == "lost":
            self.ledger.requeue(run, node, fence, reason="its worker is gone", counter="losses")
        else:
            self.ledger.requeue(run, node, fence, reason="budget: run: test", park=how == "park")
        answer = self.ledger.reserve(run, node, fence, "old", amount_of(1, 1))
        assert answer.verdict == "superseded"

    @rule(run=st.sampled_from(RUNS))
    def go_on(self, run):
        self.ledger.control(run, "continue", "resumed")

    @invariant()
    def figures_agree(self):
        org = self.ledger.org()
        for run, project in PROJECTS.items():
            purses = self.ledger.purses(run) | {"day": self.ledger.day(project), "org": org}
            for (whose, scope), mine in self.oracle.purses.items():
                if whose in (run, project, "") and scope in purses:
                    for figure in ("spent", "held"):
                        theirs, ours = getattr(purses[scope], figure), getattr(mine, figure)
                        assert (nano(theirs.usd), theirs.tokens) == (ours[0] * NANO // 100, ours[1])

    @invariant()
    def never_above_the_limit(self):
        """I5: what is spent and reserved stays within the limit, but for bills above their reservation."""
        for key, purse in self.oracle.purses.items():
            for i, unit in enumerate(UNITS):
                most = purse.most.get(unit, float("inf"))
                assert purse.spent[i] + purse.held[i] - purse.above[i] <= most, (key, unit)

    @invariant()
    def nobody_waits_for_nothing(self):
        """What has room is not parked, and a run in which nothing moves is paused."""
        for run in RUNS:
            record, nodes = self.ledger.run(run), self.ledger.nodes(run)
            validate_run(self.ledger, run)
            parked = [n for n in NODES if nodes[n].state is NodeState.PARKED]
            if record.state is not RunState.OPEN:
                continue
            for node in parked:
                assert self.oracle.gate(run, node), f"{node} of {run} has room and waits"
            moves = {n.state for n in nodes.values()} & {NodeState.READY, NodeState.RUNNING}
            if parked and not moves:
                assert "held" in {self.oracle.gate(run, node) for node in parked}, (
                    "nothing moves, nobody is told"
                )
        validate_fleet(self.ledger)

    def teardown(self):
        """With the limits away both runs come to their end, and nothing stays reserved."""
        for (run, node), fence in self.held.items():
            self.oracle.ended(run, node, fence)
            self.ledger.settle(run, node, fence, NodeState.SUCCEEDED)
        for run, scope in self.oracle.purses:
            for unit in UNITS:
                self.change(run, scope, unit, None)
        for run in RUNS:
            self.ledger.control(run, "continue", "resumed")
            for node in [*NODES, INTEGRATE]:
                if node in self.ledger.ready(run):
                    taken = self.ledger.claim(run, node, worker="w", ttl_ms=60_000)
                    assert taken.granted, taken.reason
                    self.ledger.settle(run, node, taken.fence, NodeState.SUCCEEDED)
            for purse in self.ledger.purses(run).values():
                assert purse.held == Amount()
            assert not [n.id for n in self.ledger.nodes(run).values() if n.state is NodeState.PARKED]
            self.ledger.close(run, RunState.FAILED)
        self.figures_agree()
        left = {key for key in self.client.scan_iter("af:*") if self.client.ttl(key) == -1}
        assert not left - keys.PERMANENT - {keys.project_budget(project) for project in "pq"}


@pytest.mark.parametrize("examples", [20])
def test_any_order_of_calls(redis_client, examples):
    machine = type("Machine", (BudgetMachine,), {"client": redis_client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
