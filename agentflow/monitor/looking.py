"""Looks at one ledger: runs, nodes, transitions, workers, queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from agentflow.config import Config
from agentflow.errors import InfraError, UsageError
from agentflow.monitor.values import (
    EVENTS_VERSION,
    NO_WORKER,
    NodeStatus,
    Overview,
    RunStatus,
    WorkerStatus,
    fleet_told,
    waits_for,
    worker_state,
)
from agentflow.states import CLOSED
from agentflow.store import client
from agentflow.store.events import EventLog
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.reach import reachable
from agentflow.store.records import INTEGRATE, Event, NodeRecord, RunRecord
from agentflow.store.validation import validate_store

#: Transitions read at once.
BATCH = 5000


class Monitor:
    """Looks at one ledger. Every method raises `InfraError` when Redis does not answer."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client = client.connect(config.client_url())
        self._ledger = Ledger(self._client)
        self._plans: dict[str, tuple[tuple[str, str, str], ...]] = {}

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
                why=f"it is in another Redis than {self._config.shown_url()}, or this one lost its data",
                fix=f"in the run's repository: agentflow resume {word} (it goes on from what was settled "
                "while somebody was attached); or name the other Redis (AGENTFLOW_REDIS_URL, or --redis-url "
                f"before the command); or run it again: agentflow run {record}",
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
            run = self._ledger.run(run_id)
            nodes = self._ledger.nodes(run_id)
            is_open = run.state not in CLOSED
            unserved = self.unserved(run_id) if is_open else {}
            return RunStatus(
                run=run,
                nodes=tuple(
                    NodeStatus(node, waits_for(node, nodes, unserved.get(node.id, ""), standing=run.standing))
                    for node in nodes.values()
                ),
                now_ms=self._ledger.now_ms(),
                shards=self.shards(run_id),
                fleet=self.fleet_told() if is_open else "",
            )

    def some(self, run_id: str, ids: Iterable[str]) -> tuple[RunRecord, dict[str, NodeRecord], int]:
        """A run, these of its nodes, and Redis' clock: what a view needs when something has moved."""
        with self._reachable():
            now = self._ledger.now_ms()
            return self._ledger.run(run_id), self._ledger.some_nodes(run_id, list(ids)), now

    def shards(self, run_id: str) -> dict[str, str]:
        """The shard of each node that belongs to one."""
        return {node: shard for node, _, shard in self._planned(run_id) if shard}

    def _planned(self, run_id: str) -> tuple[tuple[str, str, str], ...]:
        """Node, queue and shard of the run's plan, which never changes."""
        if run_id not in self._plans:
            with self._reachable():
                nodes = self._ledger.plan(run_id)["nodes"]
            self._plans[run_id] = tuple(
                (n["id"], n.get("queue") or n["role"], n.get("shard", "")) for n in nodes
            )
        return self._plans[run_id]

    def unserved(self, run_id: str) -> dict[str, str]:
        """Nodes of a run whose queue no live worker listens to, and that queue.

        None in local mode: its one worker serves every queue, and is started again when it dies.
        """
        if self._config.redis_url is None:
            return {}
        queues = {node: queue for node, queue, _ in self._planned(run_id)}
        with self._reachable():
            unserved = set(self._ledger.unserved(queues.values()))
        return {node: queue for node, queue in queues.items() if queue in unserved}

    def fleet_told(self) -> str:
        """Who serves, in a few words."""
        told = fleet_told(self.workers())
        starting = told == NO_WORKER and self._config.redis_url is None
        return f"{NO_WORKER} yet: one is starting" if starting else told

    def overview(self, queues: Iterable[str]) -> Overview:
        """All that goes on, and what waits in these queues."""
        found = self.runs()
        with self._reachable():
            nodes = {run.id: self._ledger.nodes(run.id) for run in found if run.state not in CLOSED}
        counts = {
            run_id: dict(Counter(node.state for node in known.values() if node.id != INTEGRATE))
            for run_id, known in nodes.items()
        }
        return Overview(tuple(self.workers()), self.queues(queues), tuple(found), counts)

    def system_events(self, count: int = 1000) -> list[dict[str, Any]]:
        """The newest entries of the list `system_events`, oldest first, each with its version."""
        with self._reachable():
            return [{"v": EVENTS_VERSION, **entry} for entry in reversed(self._ledger.system_events(count))]

    def why(self, run_id: str, node: str) -> str:
        """Why a node is where it is."""
        with self._reachable():
            return self._ledger.why(run_id, node)

    def node(self, run_id: str, node: str) -> NodeRecord:
        """One node; raises `UsageError` when there is none of that id."""
        with self._reachable():
            return self._ledger.node(run_id, node)

    def events(self, run_id: str, *, after: str = "0", count: int = 1000) -> list[Event]:
        """The transitions of a run so far: at most `count` of them, after the position `after`."""
        with self._reachable():
            return EventLog(self._client).read(run_id, after=after, count=count)

    def last_event(self, run_id: str) -> str:
        """The position of a run's newest transition; `0` when there is none."""
        with self._reachable():
            return EventLog(self._client).last(run_id)

    def history(self, run_id: str) -> Iterator[Event]:
        """All transitions of a run so far."""
        after = "0"
        while batch := self.events(run_id, after=after, count=BATCH):
            yield from batch
            after = batch[-1].id

    def is_closed(self, run_id: str) -> bool:
        """Whether a run has come to its end."""
        return self.run(run_id).state in CLOSED

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

    def known_queues(self) -> set[str]:
        """Queues that some run asked for."""
        with self._reachable():
            return Fleet(self._client).queues()

    def violations(self) -> list[str]:
        """What contradicts itself on this Redis, each with its story (docs/reliability.md)."""
        with self._reachable():
            return [str(found) for found in validate_store(self._ledger)]

    def open_runs(self) -> list[RunRecord]:
        """The runs that are not closed yet."""
        return [run for run in self.runs() if run.state not in CLOSED]
