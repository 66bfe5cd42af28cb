"""Going back: the checkpoints of a run, and `rollback` to one of them.

    landed        the target branch goes back to where it was, by compare-and-swap; then as below
    not landed    what the checkpoint does not hold is undone, in the ledger and among the refs

Afterwards the run is `cancelled`: nothing of it goes on by itself, and `resume` does what was undone again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentflow import failpoints
from agentflow import transport as carrying
from agentflow.canvas.compile import parse_plan
from agentflow.canvas.plan import Plan
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.homes import home_of
from agentflow.recovery import checkpoints, undoing
from agentflow.recovery.checkpoints import Checkpoint
from agentflow.recovery.journal import Journal
from agentflow.recovery.recording import Recorder, stages_of
from agentflow.runs.finishing import left_over
from agentflow.runs.following import open_ledger, send_others
from agentflow.states import CLOSED, RunState
from agentflow.store import verified
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE, NodeRecord, RunRecord
from agentflow.workspace import land as landing


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback came to. `commit` and `tree` are what the run holds now, `ref` names the commit in the
    repository; `branch` is the target when it was moved, `branch_at` where it is now ('': it is gone).
    """

    run: str
    to: str
    commit: str
    tree: str
    ref: str
    undone: tuple[str, ...]
    kept: tuple[str, ...]
    branch: str = ""
    branch_at: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def list_checkpoints(run_id: str, *, config: Config) -> list[Checkpoint]:
    """Every checkpoint of a run, in the order of the plan; none for a run without a repository."""
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if not run.repo:
        return []
    plan, nodes = _plan(ledger, run_id), _nodes(ledger, run_id)
    stages = stages_of(config, plan, run, nodes)
    return checkpoints.of_run(plan, run, nodes, stages)


def roll_back(
    run_id: str, *, config: Config, repo: Path, to: str = "", keep_successful: bool = False
) -> RolledBack:
    """Return to a checkpoint (the state before the run, when none is named), exactly.

    With `keep_successful`, verified commits stay that do not depend on what comes after the checkpoint.
    Raises `UsageError` for a run that goes on or a name that is none, `ConflictError` when the target has
    moved since it landed, `RepositoryError` when it is checked out. Nothing is undone then.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state not in CLOSED:
        raise _goes_on(run)
    if ledger.is_landing(run_id):
        raise _lands(run_id)
    nodes = _nodes(ledger, run_id)
    merge = checkpoints.name_of_merge(run)
    back = checkpoints.going_back(
        _plan(ledger, run_id), nodes, to, keep_successful=keep_successful, merge=merge
    )
    home = home_of(run, repo) if run.repo else None
    branch, branch_at = "", ""
    if home and run.state is RunState.LANDED and run.branch:
        branch = run.branch
        branch_at = landing.take_back(home, commit=run.result, branch=branch, run=run_id)
        if branch_at == run.result:
            branch, branch_at = "", ""  # another run had put it there
        failpoints.at("rollback.moved", run_id)
    if home:
        # Before the ledger forgets it: a journal that has more than the ledger would bring it back.
        Journal(home, run_id).add({"kind": "undone", "nodes": sorted(back.undone)})
        failpoints.at("rollback.journaled", run_id)
    verified.forget(ledger.client, run.project, [nodes[name].digest for name in back.undone])
    failpoints.at("rollback.forgotten", run_id)
    told = f"rolled back to {back.name} by its user"
    commit, answer = undoing.undo(ledger, config, run, back, reason=told, state=RunState.CANCELLED)
    if answer is None:  # resumed or landed meanwhile; what the journal lacks now it is told again
        raise _lands(run_id) if ledger.is_landing(run_id) else _goes_on(ledger.run(run_id))
    failpoints.at("rollback.undone", run_id)
    send_others(ledger, answer, config)
    kept = tuple(name for name, node in _nodes(ledger, run_id).items() if node.state == "succeeded")
    tree, ref = _show(ledger, config, run, home, commit) if home else ("", "")
    failpoints.at("rollback.shown", run_id)
    if home:
        Recorder(ledger, config, ledger.run(run_id), repo).write_down()
    return RolledBack(
        run_id, back.name, commit, tree, ref, tuple(sorted(back.undone)), kept, branch, branch_at
    )


def _lands(run_id: str) -> UsageError:
    return UsageError(
        f"run {run_id} cannot be rolled back: it is being landed",
        why="its branch moves now, or has moved when whoever landed it was killed",
        fix=f"agentflow land {run_id} finishes that; a landed run can be rolled back",
        code="AF-ROLLBACK-002",
    )


def _goes_on(run: RunRecord) -> UsageError:
    if run.state in CLOSED:
        return UsageError(
            f"run {run.id} was not rolled back: it is {run.state} by now",
            why="it has changed while this looked at it",
            fix="roll it back once more",
            code="AF-ROLLBACK-002",
        )
    return UsageError(
        f"run {run.id} cannot be rolled back: it is {run.state}",
        why="what runs would settle on top of what is undone",
        fix=f"agentflow cancel {run.id} first",
        code="AF-ROLLBACK-002",
    )


def _show(ledger: Ledger, config: Config, run: RunRecord, home: Path, commit: str) -> tuple[str, str]:
    """Leave in the repository the refs of what the run holds still, and one that shows the whole of it."""
    refs = left_over(ledger, config, _plan(ledger, run.id), run.id) | {"checkpoints/current": commit}
    depot = carrying.open_depot(config, run)
    landing.publish(depot.store, home, run.id, refs, base=run.base)
    undoing.withdraw(home, run, refs)
    return depot.store.commit(commit).tree, landing.run_ref(run.id, "checkpoints/current")


def _plan(ledger: Ledger, run_id: str) -> Plan:
    return parse_plan(json.dumps(ledger.plan(run_id)))


def _nodes(ledger: Ledger, run_id: str) -> dict[str, NodeRecord]:
    nodes = ledger.nodes(run_id)
    nodes.pop(INTEGRATE, None)
    return nodes
