"""Writing down what a run settles, while somebody is attached to it: hidden refs, then the journal.

Commits come into the user's repository first (as refs below `refs/agentflow/runs/RUN/`), then the journal
says that they are settled: what the journal names is there. What cannot be brought or written now is tried
again with the next look at the run, which does not end for it: a commit that cannot be had keeps its own node
out of the journal, and no other.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentflow import failpoints, transport
from agentflow.canvas.compile import parse_plan
from agentflow.canvas.plan import Plan
from agentflow.config import Config
from agentflow.errors import AgentflowError, RepositoryError
from agentflow.homes import home_of
from agentflow.recovery import checkpoints
from agentflow.recovery.journal import Journal
from agentflow.states import CLOSED, TERMINAL
from agentflow.store import restoring
from agentflow.store.ledger import Ledger
from agentflow.store.records import Event, NodeRecord, RunRecord
from agentflow.workspace import land as landing

log = logging.getLogger("agentflow.journal")

#: Transitions of a node after which something of it is worth writing down: it ended, or it was paid for.
_TOLD = frozenset({"node.settled", "node.restored", "node.retry", "node.delayed", "node.lost"})


def home_or_none(run: RunRecord, repo: Path | None) -> Path | None:
    """The git directory that the run belongs to; None where there is none."""
    if not run.repo:
        return None
    with contextlib.suppress(RepositoryError):
        return home_of(run, repo)
    return None


class Recorder:
    """Keeps the journal and the refs of one run up to date. Does nothing where its repository is not.

    Raises what Redis raises; what git or the disk refuse is logged once and tried again.
    """

    def __init__(self, ledger: Ledger, config: Config, run: RunRecord, repo: Path | None = None) -> None:
        self._ledger = ledger
        self._config = config
        self._id = run.id
        self._home = home_or_none(run, repo)
        self._plan: Plan | None = None
        self._owed: dict[str, None] = {}
        self._published: dict[str, str] = {}
        self._told: dict[object, str] = {}
        #: All nodes as they were when they were read last: a run may have thousands, and few move at once.
        self._nodes: dict[str, NodeRecord] = {}
        self._whole: tuple[str, ...] = ()
        self._stages: dict[str, str] = {}
        self._quiet = False
        #: Whether the journal says what the run is; and whether the last attempt to add to it failed.
        self._has_plan = False
        self._is_behind = False
        #: What was told of: each thing that cannot be brought is told once.
        self._amiss: set[str] = set()
        self._names_refs = True

    def catch_up(self) -> None:
        """Write down all that has settled so far and is not in the journal."""
        if self._home is None:
            return
        self._nodes = self._ledger.nodes(self._id)
        known = Journal(self._home, self._id).read()
        for node in self._nodes.values():
            fields = known.nodes.get(node.id, {}).get("fields", {})
            if node.attempt and (str(node.fence) != fields.get("fence") or node.state != fields.get("state")):
                self._owed[node.id] = None
        self._has_plan = bool(known.plan)
        self._write(known.generation, closing=known.closing)

    def write_down(self) -> None:
        """The same without any ref: whoever calls has made (or removed) those."""
        self._names_refs = False
        self.catch_up()

    def take(self, batch: Iterable[Event]) -> None:
        """Write down what these transitions say."""
        if self._home is None:
            return
        batch = list(batch)
        if any(event.kind == "run.undone" for event in batch):
            self.catch_up()
            return
        self._owed.update({event.node: None for event in batch if event.kind in _TOLD})
        if self._owed or self._is_behind or any(event.kind.startswith("run.") for event in batch):
            self._write()

    def _write(self, generation: int = 0, *, closing: dict[str, str] | None = None) -> None:
        """Refs first, then the lines; what fails stays owed."""
        if self._home is None:
            return
        try:
            run = self._ledger.run(self._id)
            owed = [node for node in self._owed if node in self._nodes]
            # Read before what is published, so that what is journaled has been.
            facts = restoring.node_facts(self._ledger.client, self._id, owed)
            self._nodes |= self._ledger.some_nodes(self._id, owed)
            absent: frozenset[str] = frozenset()
            if self._names_refs and (run.result or any(self._nodes[n].state in TERMINAL for n in owed)):
                absent = self._publish(self._home, run)
                failpoints.at("journal.published", self._id)
            held = [node for node in owed if self._nodes[node].commit and f"nodes/{node}" in absent]
            owed = [node for node in owed if node not in held]
            lines = [] if self._has_plan else [self._opened()]
            if run.generation > max(1, generation):
                lines.append({"kind": "generation", "generation": run.generation})
            lines += [{"kind": "node", "node": node, **facts[node]} for node in owed]
            budget = restoring.budget_facts(self._ledger.client, self._id)
            lines += [{"kind": "budget", "fields": budget}] if budget else []
            is_ended = run.state in CLOSED and absent.isdisjoint((checkpoints.RESULT, checkpoints.MERGED))
            ended = restoring.closing_facts(self._ledger.client, self._id) if is_ended else {}
            if ended and ended != closing:
                lines.append({"kind": "closed", "fields": ended})
            lines = [line for line in lines if self._is_new(line)]
            Journal(self._home, self._id).add(*lines)
            failpoints.at("journal.written", self._id)
            self._has_plan, self._is_behind = True, False
            self._told |= {line["kind"]: json.dumps(line, sort_keys=True) for line in lines}
            self._owed = dict.fromkeys(held)
        except (AgentflowError, OSError) as error:
            told = log.debug if self._quiet else log.warning
            told("run %s: what has settled is not written down yet: %s", self._id, error)
            self._quiet = self._is_behind = True

    def _is_new(self, line: dict[str, object]) -> bool:
        """Whether this process has not written the same line already."""
        kind = line["kind"]
        return kind == "node" or self._told.get(kind) != json.dumps(line, sort_keys=True)

    def _opened(self) -> dict[str, object]:
        run = restoring.run_facts(self._ledger.client, self._id)
        return {"kind": "opened", "run": run, "plan": self._ledger.plan(self._id)}

    def _publish(self, home: Path, run: RunRecord) -> frozenset[str]:
        """Bring what is settled into the repository, each commit once; the refs that cannot be."""
        if self._plan is None:
            self._plan = parse_plan(json.dumps(self._ledger.plan(run.id)))
        self._merge_stages(self._plan, run)
        points = checkpoints.of_run(self._plan, run, self._nodes, self._stages)
        wanted = {p.ref: p.commit for p in points if self._published.get(p.ref) != p.commit}
        if not wanted:
            return frozenset()
        try:
            publish(self._config, run, home, wanted)
        except (AgentflowError, OSError):
            return self._publish_one_by_one(home, run, wanted)
        self._published |= wanted
        return frozenset()

    def _publish_one_by_one(self, home: Path, run: RunRecord, wanted: Mapping[str, str]) -> frozenset[str]:
        """The same where not all can be brought together."""
        absent = set()
        for ref, commit in wanted.items():
            try:
                publish(self._config, run, home, {ref: commit})
            except (AgentflowError, OSError) as error:
                absent.add(ref)
                self._tell_once(ref.removeprefix("nodes/"), error)
            else:
                self._published[ref] = commit
        return frozenset(absent)

    def _merge_stages(self, plan: Plan, run: RunRecord) -> None:
        """Make the checkpoints of stages that are whole by now."""
        whole = checkpoints.whole_stages(plan, self._nodes)
        if whole == self._whole:
            return
        try:
            self._stages = stages_of(self._config, plan, run, self._nodes)
            self._whole = whole
            failpoints.at("stage.merged", self._id)
        except (AgentflowError, OSError) as error:
            self._tell_once("the checkpoint of a stage", error)

    def _tell_once(self, what: str, error: Exception) -> None:
        told = log.debug if what in self._amiss else log.warning
        told("run %s: %s is not written down yet: %s", self._id, what, error)
        self._amiss.add(what)


def stages_of(config: Config, plan: Plan, run: RunRecord, nodes: Mapping[str, NodeRecord]) -> dict[str, str]:
    """The checkpoints of a run's whole stages; its objects are brought for that."""
    if not checkpoints.whole_stages(plan, nodes):
        return {}
    depot = transport.open_depot(config, run)
    depot.bring([run.base, *(node.commit for node in nodes.values() if node.commit)])
    return checkpoints.of_stages(depot.store, plan, run, nodes)


def refs_of(config: Config, plan: Plan, run: RunRecord, nodes: Mapping[str, NodeRecord]) -> dict[str, str]:
    """The refs that a run's checkpoints should have, by name below the run's own."""
    points = checkpoints.of_run(plan, run, nodes, stages_of(config, plan, run, nodes))
    return {point.ref: point.commit for point in points}


def publish(config: Config, run: RunRecord, home: Path, refs: dict[str, str]) -> transport.Depot:
    """Bring commits of a run into the user's repository `home` and name them there."""
    depot = transport.open_depot(config, run)
    depot.bring([run.base, *refs.values()])
    landing.publish(depot.store, home, run.id, refs, base=run.base)
    return depot
