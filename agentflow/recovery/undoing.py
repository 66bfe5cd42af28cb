"""Taking back what a closed run has settled: by `agentflow rollback`, or because it failed (`on_failure:
rollback`).

The ledger forgets the work, the repository its refs. Commits stay in the store repository until `agentflow
gc`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from agentflow.canvas.compile import parse_plan
from agentflow.canvas.plan import Plan
from agentflow.canvas.scope import appends_in
from agentflow.config import Config
from agentflow.errors import AgentflowError
from agentflow.recovery import checkpoints
from agentflow.recovery.checkpoints import Return
from agentflow.states import NodeState, RunState
from agentflow.store import restoring
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE, NodeRecord, RunRecord
from agentflow.store.scripts import Answer
from agentflow.transport import open_depot
from agentflow.workspace import gc as collecting
from agentflow.workspace import merge
from agentflow.workspace.ingest import changed_paths
from agentflow.workspace.land import run_ref
from agentflow.workspace.store import Store

log = logging.getLogger("agentflow.undo")

_FAILED = (RunState.FAILED, RunState.CONFLICT)


def undo(
    ledger: Ledger,
    config: Config,
    run: RunRecord,
    back: Return,
    *,
    reason: str,
    state: RunState | None = None,
) -> tuple[str, Answer | None]:
    """Undo `back.undone` in a closed run: the commit that holds exactly what is left, and what that moved.

    `state`: what the run is afterwards (as it is). Without a repository the commit is ''.
    """
    plan = parse_plan(json.dumps(ledger.plan(run.id)))
    nodes = {name: record for name, record in ledger.nodes(run.id).items() if name != INTEGRATE}
    left = [n for n in ledger.settled(run.id) if n not in back.undone]
    paths: Mapping[str, Collection[str]] = {}
    commit = ""
    if run.repo:
        depot = open_depot(config, run)
        good = [node.id for node in nodes.values() if node.state is NodeState.SUCCEEDED]
        work = checkpoints.work_of(nodes, [name for name in good if name not in back.undone])
        depot.bring([run.base, *work])
        commit = merge.merge_all(depot.store, work, run.base, appends_in(plan, nodes))
        paths = _paths(depot.store, [nodes[name] for name in left])
    kept = [(name, tuple(paths.get(name, ()))) for name in left]
    gone = [*back.undone, INTEGRATE]
    # As it was read: a run that has landed since has a branch that would have to go back too.
    answer = restoring.undo(ledger, run.id, gone, kept, reason=reason, state=state, seen=run.state)
    return commit, answer


def _paths(store: Store, nodes: Collection[NodeRecord]) -> dict[str, list[str]]:
    """What the commits of nodes write that locked nothing (the others' locks say it)."""
    free = [node for node in nodes if node.commit and node.base and not node.locks]
    return {node.id: changed_paths(store.git, node.base, node.commit) for node in free}


def is_due(plan: Plan, run: RunRecord) -> bool:
    """Whether a run has failed that is to be rolled back then; one that was lost and restored has not."""
    has_failed = run.state in _FAILED and run.reason != restoring.RESTORED
    return plan.on_failure == "rollback" and has_failed


def close(
    ledger: Ledger,
    config: Config,
    run_id: str,
    state: RunState,
    *,
    result: str = "",
    reason: str = "",
    fence: int | None = None,
    send: Callable[[Answer], None],
) -> bool:
    """Close a run, and roll it back when it has failed and says so; whether it was closed by this call.

    `send` gets what either has moved. A rollback that does not come to its end here (objects of the run are
    elsewhere) is left to who finishes or resumes the run.
    """
    closed = ledger.close(run_id, state, result=result, reason=reason, fence=fence)
    if not closed:
        return False
    send(closed)
    if state in _FAILED:
        try:
            if moved := make_up(ledger, config, ledger.run(run_id)):
                send(moved)
        except (AgentflowError, OSError, ValueError) as error:
            log.warning("run %s is closed and not rolled back yet: %s", run_id, error)
    return True


def make_up(ledger: Ledger, config: Config, run: RunRecord) -> Answer | None:
    """Roll back a closed run for which that is due and was not done: who closed it died, or could not."""
    plan = parse_plan(json.dumps(ledger.plan(run.id)))
    return after_failure(ledger, config, run, plan) if is_due(plan, run) else None


def after_failure(ledger: Ledger, config: Config, run: RunRecord, plan: Plan) -> Answer | None:
    """Undo what a failed run has settled: all of it, or back to the last whole stage. Harmless twice."""
    nodes = {name: record for name, record in ledger.nodes(run.id).items() if name != INTEGRATE}
    all_good = all(node.state is NodeState.SUCCEEDED or node.optional for node in nodes.values())
    # Nodes that are all good and a run that failed: it was its validation (or the merge) that did not pass.
    stage = checkpoints.last_good_stage(plan, nodes, validated=not all_good)
    to = checkpoints.STAGE + stage if stage else ""
    back = checkpoints.going_back(plan, nodes, to, keep_successful=False)
    if not back.undone:
        return None
    return undo(ledger, config, run, back, reason=f"{run.reason}; rolled back to {back.name}")[1]


def withdraw(home: Path, run: RunRecord, refs: Mapping[str, str]) -> None:
    """Remove the run's refs from the user's repository, but for these (names below the run's own)."""
    collecting.keep_only(home, run.id, [run_ref(run.id, name) for name in refs])
    if not refs:
        collecting.release_base(home, run.id)
