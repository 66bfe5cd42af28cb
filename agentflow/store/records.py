"""What the ledger answers, as plain values. Times are milliseconds of Redis' clock since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentflow.spec.artifacts import Lock
from agentflow.states import CLOSED, NodeState, RunState

#: The reserved node that merges, validates and closes a run; no spec can name it (`@`).
INTEGRATE = "@integrate"
#: Milliseconds without a sign of life after which a worker counts as dead.
DEAD_AFTER_MS = 5000


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `repo` is the repository's object directory, `root` its work tree, `onto` the
    target's commit to integrate on when it has moved. `since_ms`: when it was opened or resumed last; its
    timeout counts from there. `transport` says how objects reach the workers: `alternates` (they read
    `repo` on the submitter's machine, `host`) or `packs` (through Redis). `result` is the commit to
    land (or the merged tree of a failed validation).
    """

    id: str
    state: RunState
    feature: str
    project: str
    repo: str
    root: str
    base: str
    target: str
    opened_ms: int
    since_ms: int = 0
    closed_ms: int = 0
    generation: int = 1
    seq: int = 0
    nodes_total: int = 0
    nodes_left: int = 0
    running: int = 0
    max_concurrent: int = 0
    timeout_ms: int = 0
    detached: bool = False
    transport: str = "alternates"
    host: str = ""
    result: str = ""
    branch: str = ""
    onto: str = ""
    reason: str = ""

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing happens to it any more unless somebody says so.

        A run that its user paused goes on when they resume it, so whoever follows it stays; one whose budget
        is used up needs a decision.
        """
        stops = self.state is RunState.DRAINING or self.is_out_of_budget
        return self.state in CLOSED or (stops and self.running <= 0)

    @property
    def is_rolled_back(self) -> bool:
        """Whether work of the closed run was undone, by its user or for its failure."""
        return self.state in CLOSED and "rolled back to " in self.reason

    @property
    def is_out_of_budget(self) -> bool:
        """Whether it is paused because a budget is used up."""
        return self.state is RunState.PAUSED and self.reason.startswith("budget: ")

    @property
    def standing(self) -> str:
        """Why nothing of it starts, as its nodes are told at their claim; '' when that is not so."""
        if self.state not in (RunState.PAUSED, RunState.DRAINING):
            return ""
        return f"the run is {self.state}" + (f": {self.reason}" if self.reason else "")

    @property
    def wants_worker(self) -> bool:
        """Whether somebody must serve it: what is drained or paused needs nobody once nothing runs.

        A breaker's pause ends by itself, which a worker sees to.
        """
        is_held = self.state in (RunState.DRAINING, RunState.PAUSED)
        stands = is_held and not self.reason.startswith("breaker: ")
        return self.state not in CLOSED and (self.running > 0 or not stands)

    def is_late(self, now_ms: int) -> bool:
        """Whether its timeout has passed."""
        return self.timeout_ms > 0 and now_ms - self.since_ms > self.timeout_ms

    @property
    def nodes_ended(self) -> int:
        """How many of its `nodes_total` have ended (`nodes_left` counts `@integrate` too, the last)."""
        return self.nodes_total - max(0, self.nodes_left - 1)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node of a run. `parents` are static edges, `edges` the dynamic ones that locks added. `tests`
    counts the outcomes that its acceptance saw.
    """

    id: str
    role: str
    state: NodeState
    output: str = "change"
    reason: str = ""
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    conflicts: int = 0
    troubles: int = 0
    fence: int = 0
    parents: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    optional: bool = False
    base: str = ""
    commit: str = ""
    worker: str = ""
    code: str = ""
    ready_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    lease_ms: int = 0
    busy_ms: int = 0
    settled_fence: int = 0
    summary: str = ""
    verdict: str = ""
    feedback: str = ""
    fix: str = ""
    conflict: str = ""
    pending_commit: str = ""
    pending_text: str = ""
    digest: str = ""
    reused: str = ""
    locks: tuple[Lock, ...] = ()
    extension: tuple[Lock, ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Mapping[str, Any], ...] = ()
    tests: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_rolled_back(self) -> bool:
        """Whether it had settled and a rollback has undone that (`undo.lua`)."""
        return self.state is NodeState.CANCELLED and self.reason == "rolled back"


def work_ended_ms(run: RunRecord, integrate: NodeRecord | None) -> int:
    """When a run had done its work, 0 while it goes on. Landing may come days later and does not count."""
    integrated_ms = integrate.ended_ms if integrate and run.state is RunState.LANDED else 0
    return integrated_ms or run.closed_ms


@dataclass(frozen=True, slots=True)
class Event:
    """One transition. `kind` is `run.*` or `node.*`; `id` is the position in the stream."""

    id: str
    run: str
    kind: str
    at_ms: int
    node: str = ""
    state: str = ""
    attempt: int = 0
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One registered worker process. `seen_ms` is its last sign of life.

    `queues` are those that it consumes, `roles` those whose tasks it has; `every`: it takes up whatever
    role and queue a run asks for (it was started without a choice of queues).

    `state`: `idle`, `working`, `held` (takes one node at a time, `reason` says why), `draining`, `waiting`
    (the fleet is drained), `refused` (it does not serve). `room`: slots that it serves now (-1: all).
    `running`: `run/node` of some of its attempts. `memory_mb`: with its children. `load`: of its host, a
    share of all processors. `place`: tells hosts and containers apart where process ids mean the same;
    `born` (when it was started, by its kernel) a process from another one that has its id later.
    """

    name: str
    pid: int
    host: str
    slots: int
    roles: tuple[str, ...]
    schema: str
    seen_ms: int
    busy: int = 0
    queues: tuple[str, ...] = ()
    every: bool = False
    state: str = ""
    reason: str = ""
    room: int = -1
    running: tuple[str, ...] = ()
    memory_mb: int = 0
    load: float = 0.0
    place: str = ""
    started_ms: int = 0
    born: str = ""

    @property
    def draining(self) -> bool:
        """Whether it finishes what it has and takes nothing more."""
        return self.state == "draining"

    def is_dead(self, now_ms: int) -> bool:
        """Whether it has not been heard of for `DEAD_AFTER_MS` (it signs every second)."""
        return now_ms - self.seen_ms > DEAD_AFTER_MS

    @property
    def offered(self) -> int:
        """The slots that may be counted on: fewer than it has while it holds back, none when it leaves."""
        return 0 if self.state in ("draining", "waiting") else self.slots if self.room < 0 else self.room
