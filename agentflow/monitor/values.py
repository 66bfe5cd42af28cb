"""What is seen of runs, nodes and workers: plain values, their JSON, and what a waiting node waits for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentflow.states import TERMINAL, NodeState, RunState
from agentflow.store.records import INTEGRATE, Event, NodeRecord, RunRecord, WorkerRecord, work_ended_ms

#: Names of parents that a "waits for" spells out.
NAMED_PARENTS = 4
NO_WORKER = "no worker"
#: Version of the lines of an event stream; grows when a field changes its meaning or goes.
EVENTS_VERSION = 1


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node as people see it. `waits` says what a node that could not start yet waits for."""

    record: NodeRecord
    waits: str = ""

    @property
    def id(self) -> str:
        """The node's id."""
        return self.record.id

    @property
    def state(self) -> NodeState:
        """The node's state."""
        return self.record.state

    def seconds(self, now_ms: int) -> float:
        """How long the last attempt took, or has taken so far; 0 when there was none."""
        if not self.record.started_ms:
            return 0.0
        end = now_ms if self.state is NodeState.RUNNING else self.record.ended_ms
        return max(0, end - self.record.started_ms) / 1000


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run and its nodes (in the plan's order, the integration last) at `now_ms` of Redis' clock.

    `shards` names the shard of each node that has one; `fleet` says who serves (workers are processes).
    """

    run: RunRecord
    nodes: tuple[NodeStatus, ...]
    now_ms: int
    shards: Mapping[str, str] = field(default_factory=dict)
    fleet: str = ""

    @property
    def counts(self) -> dict[NodeState, int]:
        """How many of the spec's nodes are in each state."""
        return dict(Counter(node.state for node in self.nodes if node.id != INTEGRATE))

    @property
    def total(self) -> int:
        """How many nodes the spec has."""
        return sum(self.counts.values())

    @property
    def rolled_back(self) -> int:
        """How many of them had ended well and were undone."""
        return sum(1 for node in self.nodes if node.record.is_rolled_back and node.id != INTEGRATE)

    @property
    def done(self) -> int:
        """How many of them have ended, well or not; what was rolled back is to be done again."""
        ended = sum(count for state, count in self.counts.items() if state in TERMINAL)
        return ended - self.rolled_back

    @property
    def is_unattended(self) -> bool:
        """Whether no worker was there to begin with."""
        return self.fleet.startswith(NO_WORKER)

    @property
    def shards_told(self) -> str:
        """How many shards are done, all their nodes having succeeded: `6/9 shards`."""
        every = set(self.shards.values())
        left = {
            self.shards[node.id]
            for node in self.nodes
            if node.id in self.shards and node.state is not NodeState.SUCCEEDED
        }
        return f"{len(every - left)}/{len(every)} shards"

    @property
    def shards_of_workers(self) -> dict[str, list[str]]:
        """The shards that each worker has a running node of."""
        at: dict[str, set[str]] = {}
        for node in self.nodes:
            if node.state is NodeState.RUNNING and node.id in self.shards:
                at.setdefault(node.record.worker, set()).add(self.shards[node.id])
        return {worker: sorted(shards, key=_counted) for worker, shards in sorted(at.items())}

    @property
    def seconds(self) -> float:
        """How long the run took, or has taken so far; without the time until it was landed."""
        integrate = next((node.record for node in self.nodes if node.id == INTEGRATE), None)
        return max(0, (work_ended_ms(self.run, integrate) or self.now_ms) - self.run.opened_ms) / 1000

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        nodes = [
            dataclasses.asdict(node.record)
            | {"waits": node.waits, "seconds": round(node.seconds(self.now_ms), 3)}
            | {"shard": self.shards.get(node.id, "")}
            for node in self.nodes
        ]
        return run_as_dict(self.run) | {
            "now_ms": self.now_ms,
            "seconds": round(self.seconds, 3),
            "counts": {state.value: count for state, count in self.counts.items()},
            "rolled_back": self.rolled_back,
            "fleet": self.fleet,
            "shards": {"told": self.shards_told, "workers": self.shards_of_workers} if self.shards else {},
            "nodes": nodes,
        }


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker (a process with many slots): idle, working, held, draining, waiting or dead."""

    record: WorkerRecord
    state: str


@dataclass(frozen=True, slots=True)
class Overview:
    """All that goes on: workers, queues, runs (newest first), and the nodes of open runs by state."""

    workers: tuple[WorkerStatus, ...]
    queues: Mapping[str, int]
    runs: tuple[RunRecord, ...]
    nodes: Mapping[str, Mapping[NodeState, int]]

    @property
    def tasks(self) -> dict[NodeState, int]:
        """The nodes of all open runs by state."""
        total: Counter[NodeState] = Counter()
        for counts in self.nodes.values():
            total.update(counts)
        return dict(total)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "fleet": fleet_told(self.workers),
            "workers": [dataclasses.asdict(w.record) | {"state": w.state} for w in self.workers],
            "queues": dict(self.queues),
            "tasks": {state.value: count for state, count in self.tasks.items()},
            "runs": [
                run_as_dict(run) | {"nodes": {s.value: n for s, n in self.nodes.get(run.id, {}).items()}}
                for run in self.runs
            ],
            "ready_to_land": [
                {"run": run.id, "command": f"agentflow land {run.id}"}
                for run in self.runs
                if run.state is RunState.READY_TO_LAND
            ],
        }


def _counted(shard: str) -> tuple[int, str]:
    """Numbered shards in the order of their numbers, others by name."""
    return (int(shard) if shard.isdecimal() else 0, shard)


def run_as_dict(run: RunRecord) -> dict[str, Any]:
    """A run as JSON values; its id is `run`, as in everything else that is printed."""
    told = dataclasses.asdict(run)
    return {"run": told.pop("id"), **told}


def event_as_dict(event: Event) -> dict[str, Any]:
    """A transition as a line of an event stream, without the fields that say nothing.

    A run may be closed more than once (it was opened again): such a transition is `run.closed`,
    and `run_finished` makes the one line that ends the stream.
    """
    told = {key: value for key, value in dataclasses.asdict(event).items() if value not in ("", 0, {})}
    if event.kind == "run.finished":
        told["kind"] = "run.closed"
    return {"v": EVENTS_VERSION, **told}


def run_finished(run: RunRecord, exit_code: int) -> dict[str, Any]:
    """The last line of the event stream of a run that is at rest; there is exactly one."""
    told = {
        "v": EVENTS_VERSION,
        "run": run.id,
        "kind": "run.finished",
        "at_ms": run.closed_ms or "",
        "state": run.state.value,
        "exit_code": exit_code,
        "reason": run.reason,
        "branch": run.branch,
        "commit": run.result,
    }
    return {key: value for key, value in told.items() if value != ""}


def waits_for(
    node: NodeRecord, nodes: Mapping[str, NodeRecord], unserved: str = "", *, standing: str = ""
) -> str:
    """What a node that is not running and has not ended waits for, in a few words; else nothing.

    `unserved` names the node's queue when no worker listens to it; `standing` says why nothing of its run
    starts (`RunRecord.standing`), which goes before what the node was told.
    """
    if node.state is NodeState.PENDING:
        names = [name for name in node.parents if name not in nodes or nodes[name].state not in TERMINAL]
        more = len(names) - NAMED_PARENTS
        listed = ", ".join(names[:NAMED_PARENTS]) + (f" and {more} more" if more > 0 else "")
        return f"waits for {listed}" if names else "about to be ready"
    if node.state in (NodeState.READY, NodeState.PARKED):
        if standing and node.id != INTEGRATE:
            return f"waits: {standing}"
        if node.state is NodeState.PARKED:
            return _parked(node.reason)
        return f"ready, but no worker serves queue {unserved}" if unserved else "ready, waits for a free slot"
    if node.state is NodeState.DELAYED:
        return f"retries after a pause: {node.reason}" if node.reason else str(node.state)
    return ""


def _parked(reason: str) -> str:
    """`lock: src is held for api` as a person would say it."""
    kind, _, rest = reason.partition(": ")
    if kind == "lock" and rest:
        return f"waits for the lock: {rest}"
    if kind.endswith("limit") and rest:
        return f"waits for room: {kind} of {rest}"
    return f"waits: {reason}" if reason and not reason.startswith("waits") else reason or "parked"


def worker_state(worker: WorkerRecord, now_ms: int) -> str:
    """`dead` when it has not been heard of, else what it says of itself (see `WorkerRecord.state`)."""
    if worker.is_dead(now_ms):
        return "dead"
    return worker.state or ("working" if worker.busy else "idle")


def fleet_told(workers: Iterable[WorkerStatus]) -> str:
    """How many worker processes serve, and how many of their slots are taken."""
    alive = [worker for worker in workers if worker.state != "dead"]
    if not alive:
        return NO_WORKER
    states = Counter(worker.state for worker in alive)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    busy, slots = sum(w.record.busy for w in alive), sum(w.record.slots for w in alive)
    return f"{len(alive)} process{'es' if len(alive) > 1 else ''} ({told}), {busy}/{slots} slots taken"
