"""The end of a run: what it made comes into the user's repository, and its branch moves.

Only a submitter's repository (or a clone of it) lands, by compare-and-swap.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from agentflow import failpoints
from agentflow import transport as carrying
from agentflow.canvas import chords
from agentflow.canvas.compile import parse_plan
from agentflow.canvas.plan import Plan
from agentflow.config import Config
from agentflow.errors import ConflictError, UsageError
from agentflow.homes import NotHereError, home_of
from agentflow.local import service
from agentflow.recovery import recording, undoing
from agentflow.recovery.recording import Recorder
from agentflow.results import RunResult, build_result
from agentflow.runs.following import canvas_of, follow, open_ledger, send_others
from agentflow.states import CLOSED, RunState
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.records import RunRecord
from agentflow.workspace import gc as collecting
from agentflow.workspace import ingest
from agentflow.workspace import land as landing


def finish(run_id: str, *, config: Config, take: bool = True, repo: Path | None = None) -> RunResult:
    """Publish what the run made as hidden refs of the repository and, when `take`, land it.

    What failed and is to be rolled back (`on_failure: rollback`) leaves no ref but those of whole stages.
    `repo`: a clone of the run's repository, for a run that came from another machine or directory.
    Where there is none, what a run came to that cannot land is told all the same.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state in CLOSED and run.repo:
        try:
            home = home_of(run, repo)
            plan = parse_plan(json.dumps(ledger.plan(run_id)))
            if undoing.is_due(plan, run):
                answer = undoing.after_failure(ledger, config, run, plan)
                if answer:
                    send_others(ledger, answer, config)
                failpoints.at("failed.undone", run_id)
                undoing.withdraw(home, run, left_over(ledger, config, plan, run_id))
                failpoints.at("failed.withdrawn", run_id)
            else:
                _publish(ledger, config, run, home)
            Recorder(ledger, config, run, repo).write_down()
        except NotHereError:
            if run.transport != carrying.PACKS or (take and run.state is RunState.READY_TO_LAND):
                raise
    if take and run.state is RunState.READY_TO_LAND:
        return land(run_id, config=config, repo=repo)
    return build_result(ledger, run_id)


def left_over(ledger: Ledger, config: Config, plan: Plan, run_id: str) -> dict[str, str]:
    """The refs of what a run still has after a rollback; none when that is nothing but its base."""
    refs = recording.refs_of(config, plan, ledger.run(run_id), ledger.nodes(run_id))
    return refs if len(refs) > 1 else {}


def land(run_id: str, *, config: Config, repo: Path | None = None) -> RunResult:
    """Move the target branch to the run's result, all or nothing. Landing twice is harmless.

    A target that moved meanwhile is never overwritten: the run is integrated (merged and validated) again
    on top of it, once; if it moves again meanwhile, `ConflictError`. `repo` as for `finish`.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state is RunState.LANDED:
        return build_result(ledger, run_id)
    if run.state is not RunState.READY_TO_LAND:
        raise _cannot_land(run)
    if run.repo:
        git_dir = home_of(run, repo)
        try:
            branch = _move_branch(ledger, config, run, git_dir)
        except landing.TargetMovedError as moved:
            run = _integrate_on(ledger, config, run, git_dir, moved)
            branch = _move_branch(ledger, config, run, git_dir)
        ledger.landed_as(run_id, branch)
    closed = ledger.close(run_id, RunState.LANDED, result=run.result)
    failpoints.at("land.recorded", run_id)
    Recorder(ledger, config, ledger.run(run_id), repo).write_down()
    if closed:
        send_others(ledger, closed, config)
    return build_result(ledger, run_id)


def _move_branch(ledger: Ledger, config: Config, run: RunRecord, git_dir: Path) -> str:
    depot = _publish(ledger, config, run, git_dir)
    if run.transport == carrying.PACKS:
        # What others have packed is judged here once more, whoever they say they are.
        plan = parse_plan(json.dumps(ledger.plan(run.id)))
        named = [pattern for node in plan.nodes for pattern in node.artifacts]
        ingest.check_result(depot.store, run.onto or run.base, run.result, named)
    if run.result == run.base:
        # Reports only: there is nothing that a branch could point to.
        collecting.release_base(git_dir, run.id)
        return ""
    # The ledger decides whether it may move: another terminal may have rolled the run back, or landed it.
    token = uuid.uuid4().hex
    if not ledger.begin_landing(run.id, token, run.result):
        now = ledger.run(run.id)
        if now.state is RunState.LANDED:
            return now.branch
        raise _cannot_land(now)
    failpoints.at("land.begun", run.id)
    try:
        landed = landing.land(git_dir, commit=run.result, branch=run.target, run=run.id)
    except BaseException:
        ledger.give_up_landing(run.id, token)
        raise
    collecting.release_base(git_dir, run.id)
    return landed.branch


def _cannot_land(run: RunRecord) -> UsageError:
    return UsageError(
        f"run {run.id} cannot land: it is {run.state}",
        why=run.reason,
        fix=f"`agentflow status {run.id}` says what is missing; `agentflow resume {run.id}` goes on",
    )


def _integrate_on(
    ledger: Ledger, config: Config, run: RunRecord, git_dir: Path, moved: landing.TargetMovedError
) -> RunRecord:
    """Merge and validate once more, with what the target holds now; raises when that fails."""
    service.ensure(config)
    if run.transport == carrying.PACKS:
        carrying.publish_history(config, run, git_dir, moved.current)
    answer = ledger.reopen(run.id, onto=moved.current)
    if answer is None:
        raise moved
    failpoints.at("onto.reopened", run.id)
    canvas = canvas_of(ledger, run.id, config)
    chords.send(canvas, answer.ready)
    failpoints.at("onto.sent", run.id)
    for _ in follow(run.id, config=config, after=EventLog(ledger.client).last(run.id)):
        pass
    again = ledger.run(run.id)
    if again.state is not RunState.READY_TO_LAND:
        raise ConflictError(
            f"{moved.what}, and the work does not fit on top of it: {again.reason}",
            fix=f"merge {moved.branch} and the run's nodes yourself, or run the feature again",
            code="AF-CONFLICT-004",
        )
    return again


def _publish(ledger: Ledger, config: Config, run: RunRecord, git_dir: Path) -> carrying.Depot:
    """Bring the run's objects and refs into the user's repository."""
    plan = parse_plan(json.dumps(ledger.plan(run.id)))
    refs = recording.refs_of(config, plan, run, ledger.nodes(run.id))
    return recording.publish(config, run, git_dir, refs)
