"""What can be seen of runs, nodes, workers and queues, as plain values; derived from the ledger alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.config import Config
from agentflow.errors import InfraError, UsageError
from agentflow.states import CLOSED, TERMINAL, NodeState
from agentflow.store import client
from agentflow.store.events import EventLog
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.reach import reachable
from agentflow.store.records import INTEGRATE, Event, NodeRecord, RunRecord, WorkerRecord

__all__ = [
    "INTEGRATE", "Event", "Monitor", "NodeRecord", "NodeStatus", "RunRecord", "RunStatus", "WorkerRecord",
    "WorkerStatus", "event_as_dict", "reachable", "run_as_dict", "waits_for", "worker_state",
]  # fmt: skip

#: A worker that has not renewed its entry for this long is shown as dead (it renews every second).
DEAD_AFTER_MS = 5000
#: Names of parents that a "waits for" spells out.
NAMED_PARENTS = 4


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
    """A run and its nodes (in the plan's order, the integration last) at `now_ms` of Redis' clock."""

    run: RunRecord
    nodes: tuple[NodeStatus, ...]
    now_ms: int

    @property
    def counts(self) -> dict[NodeState, int]:
        """How many of the spec's nodes are in each state."""
        return dict(Counter(node.state for node in self.nodes if node.id != INTEGRATE))

    @property
    def total(self) -> int:
        """How many nodes the spec has."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """How many of them have ended, well or not."""
        return sum(count for state, count in self.counts.items() if state in TERMINAL)

    @property
    def seconds(self) -> float:
        """How long the run took, or has taken so far."""
        return max(0, (self.run.closed_ms or self.now_ms) - self.run.opened_ms) / 1000

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        nodes = [
            dataclasses.asdict(node.record)
            | {"waits": node.waits, "seconds": round(node.seconds(self.now_ms), 3)}
            for node in self.nodes
        ]
        return run_as_dict(self.run) | {
            "now_ms": self.now_ms,
            "seconds": round(self.seconds, 3),
            "counts": {state.value: count for state, count in self.counts.items()},
            "nodes": nodes,
        }


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker: `idle`, `working` or `dead`."""

    record: WorkerRecord
    state: str


def run_as_dict(run: RunRecord) -> dict[str, Any]:
    """A run as JSON values."""
    return dataclasses.asdict(run)


def event_as_dict(event: Event) -> dict[str, Any]:
    """A transition as JSON values, without the fields that say nothing."""
    return {key: value for key, value in dataclasses.asdict(event).items() if value not in ("", 0, {})}


def waits_for(node: NodeRecord, nodes: Mapping[str, NodeRecord]) -> str:
    """What a node that is not running and has not ended waits for, in a few words; else nothing."""
    if node.state is NodeState.PENDING:
        names = [name for name in node.parents if name not in nodes or nodes[name].state not in TERMINAL]
        more = len(names) - NAMED_PARENTS
        listed = ", ".join(names[:NAMED_PARENTS]) + (f" and {more} more" if more > 0 else "")
        return f"waits for {listed}" if names else "about to be ready"
    if node.state is NodeState.READY:
        return "ready, waits for a free slot"
    if node.state in (NodeState.PARKED, NodeState.DELAYED):
        return node.reason or str(node.state)
    return ""


def worker_state(worker: WorkerRecord, now_ms: int) -> str:
    """`dead` when it has not been heard of, else `working` or `idle`."""
    if now_ms - worker.seen_ms > DEAD_AFTER_MS:
        return "dead"
    return "working" if worker.busy else "idle"


class Monitor:
    """Looks at one ledger. Every method raises `InfraError` when Redis does not answer."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client = client.connect(config.client_url())
        self._ledger = Ledger(self._client)

    def _reachable(self) -> AbstractContextManager[None]:
        return reachable(self._config.client_url())

    def check(self) -> None:
        """Raise `InfraError` unless a usable server answers."""
        client.check(self._client, self._config.client_url())

    def resolve(self, word: str | None) -> str:
        """The id of the run meant: an id, a unique beginning of one, or none for the newest run."""
        known = [run.id for run in self.runs()]
        if word is None:
            if not known:
                raise UsageError(
                    "no run is known here", fix="`agentflow run FILE` starts one", code="AF-RUN-002"
                )
            return known[0]
        found = [word] if word in known else [run_id for run_id in known if run_id.startswith(word)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"{word!r} is the beginning of {len(found)} runs: {', '.join(found[:5])}",
                fix="type more of the id",
                code="AF-RUN-003",
            )
        self._check_lost(word)
        return self._ledger.run(word).id

    def _check_lost(self, word: str) -> None:
        """Raise `InfraError` for a run that this machine has a record of and the ledger has not."""
        record = self._config.data_dir / "runs" / word / "spec.yaml"
        if Path(word).name == word and record.is_file():
            raise InfraError(
                f"the ledger has no run {word!r}, though its record is on this machine",
                why="Redis was emptied, or lost its data",
                fix=f"run it again: agentflow run {record} (what its attempts made is kept as refs/agentflow/"
                f"{word}/ in the store repository)",
                code="AF-INFRA-011",
            )

    def runs(self) -> list[RunRecord]:
        """All known runs, newest first."""
        with self._reachable():
            return self._ledger.runs()

    def run(self, run_id: str) -> RunRecord:
        """One run; raises `UsageError` when there is none of that id."""
        with self._reachable():
            return self._ledger.run(run_id)

    def status(self, run_id: str) -> RunStatus:
        """A run with its nodes; raises `UsageError` when there is none of that id."""
        with self._reachable():
            nodes = self._ledger.nodes(run_id)
            return RunStatus(
                run=self._ledger.run(run_id),
                nodes=tuple(NodeStatus(node, waits_for(node, nodes)) for node in nodes.values()),
                now_ms=self._ledger.now_ms(),
            )

    def why(self, run_id: str, node: str) -> str:
        """Why a node is where it is."""
        with self._reachable():
            return self._ledger.why(run_id, node)

    def node(self, run_id: str, node: str) -> NodeRecord:
        """One node; raises `UsageError` when there is none of that id."""
        with self._reachable():
            return self._ledger.node(run_id, node)

    def events(self, run_id: str) -> list[Event]:
        """The transitions of a run so far."""
        with self._reachable():
            return EventLog(self._client).read(run_id)

    def workers(self) -> list[WorkerStatus]:
        """Every worker that was heard of lately."""
        with self._reachable():
            now = self._ledger.now_ms()
            return [WorkerStatus(worker, worker_state(worker, now)) for worker in self._ledger.workers()]

    def queues(self, names: Iterable[str]) -> dict[str, int]:
        """How many messages wait in each queue, empty ones left out."""
        with self._reachable():
            lengths = Fleet(self._client).queue_lengths(names)
            return {name: length for name, length in lengths.items() if length}

    def open_runs(self) -> list[RunRecord]:
        """The runs that are not closed yet."""
        return [run for run in self.runs() if run.state not in CLOSED]
