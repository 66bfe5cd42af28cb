"""What is said to a run that there is: cancel, pause, drain, resume, and one node done again.

Everything goes through the ledger, so that each of these can be typed in another terminal, or after a crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from agentflow import transport as carrying
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.config import Config
from agentflow.errors import RepositoryError, UsageError
from agentflow.homes import home_of
from agentflow.monitor import Monitor
from agentflow.recovery import rebuilding as recovery
from agentflow.recovery import undoing
from agentflow.results import RunResult, build_result
from agentflow.runs import closing
from agentflow.runs.following import canvas_of, grant, open_ledger, send_others
from agentflow.states import CLOSED, TERMINAL, RunState
from agentflow.store.budgets import Change
from agentflow.store.ledger import Ledger
from agentflow.store.records import RunRecord
from agentflow.workspace import land as landing


def cancel(run_id: str, *, config: Config, reason: str = "cancelled by its user") -> RunState:
    """Cancel durably: waiting nodes end now, running ones within a second or two.

    Where nothing runs the run is closed here, by whoever cancels it: perhaps there is no worker.
    """
    _control(run_id, config, "cancel", reason)
    ledger = open_ledger(config)
    return closing.conclude(
        ledger, run_id, config=config, canvas_of=lambda run: canvas_of(ledger, run, config)
    )


def pause(run_id: str, *, config: Config, reason: str = "paused by its user") -> RunState:
    """Start nothing further until `resume`; running attempts go on, and whoever follows the run stays."""
    return _control(run_id, config, "pause", reason)


def drain(run_id: str, *, config: Config, reason: str = "drained by its user") -> RunState:
    """Let running attempts finish and start no further ones; `resume` goes on."""
    return _control(run_id, config, "drain", reason)


def _control(run_id: str, config: Config, verb: str, reason: str) -> RunState:
    ledger = open_ledger(config)
    ledger.run(run_id)
    state, answer = ledger.control(run_id, verb, reason)
    closing.pass_on(run_id, answer, lambda run: canvas_of(ledger, run, config))
    return RunState(state)


def find(word: str | None, *, config: Config, repo: Path) -> str:
    """The id of the run meant, by its id, the beginning of one, or none for the newest: as `Monitor.resolve`
    finds it, and also one that Redis has lost and whose journal is in the repository `repo`.
    """
    monitor = Monitor(config)
    known = [run.id for run in monitor.runs()]
    if word is None:
        return (not known and recovery.newest_here(repo)) or monitor.resolve(None)
    if any(run_id.startswith(word) for run_id in known):
        return monitor.resolve(word)
    return recovery.known_here(word, repo) or monitor.resolve(word)


def resume(
    run_id: str,
    *,
    config: Config,
    repo: Path | None = None,
    tell: Callable[[str], None] | None = None,
    budget: Sequence[Change] = (),
) -> RunState:
    """Go on with a run after anything: a drain, a failure, a cancel, a crash of every process, or the loss of
    what Redis had.

    What the run's journal says has settled and the ledger has lost is put back first. A finished run opens
    again what did not succeed; an unfinished one is woken, and what is ready is sent again (a message that is
    still somewhere is refused at its claim). A base that Redis no longer has is sent again from `repo` or
    from where the run was submitted. `budget` is changed first; a run that has no more to spend
    is paused again at once.
    """
    ledger = open_ledger(config)
    moved = recovery.put_right(ledger, run_id, config=config, repo=repo or Path.cwd(), tell=tell)
    if budget:
        grant(ledger, run_id, ledger.run(run_id).project, budget, config)
    run = ledger.run(run_id)
    if run.state in (RunState.READY_TO_LAND, RunState.LANDED):
        return run.state
    _bring_objects(ledger, config, run, repo)
    if run.state in CLOSED:
        # Before it goes on: whoever closed it may have died before its `on_failure: rollback`.
        if undone := undoing.make_up(ledger, config, run):
            send_others(ledger, undone, config)
        answer = ledger.reopen(run_id)
        canvas = canvas_of(ledger, run_id, config)
        chords.arm(canvas)
        _arrive_again(ledger, canvas)
        chords.send(canvas, answer.ready if answer else ())
        return RunState.OPEN
    if run.state is RunState.CANCELLING:
        return run.state
    _, continued = ledger.control(run_id, "continue", "resumed")
    send_others(ledger, continued, config)
    canvas = canvas_of(ledger, run_id, config)
    chords.follow_up(canvas, ready=(), ended=moved.ended, woken=())
    chords.send(canvas, list(ledger.ready(run_id)))
    return ledger.run(run_id).state


def _bring_objects(ledger: Ledger, config: Config, run: RunRecord, repo: Path | None) -> None:
    """Let workers have the base and what has settled, where Redis has lost it or will soon."""
    if not run.repo:
        return
    home = None
    with contextlib.suppress(RepositoryError):  # without a clone at hand Redis must still have it
        home = home_of(run, repo)
        landing.guard_base(home, run.id, run.base)
        if run.transport == carrying.PACKS:
            carrying.publish_base(config, run.project, run.base, home)
    commits = [n.commit for n in ledger.nodes(run.id).values() if n.commit]
    carrying.keep_work(config, run, commits, home)


def retry(run_id: str, node: str, *, config: Config, repo: Path | None = None) -> RunState:
    """Do one node again that has failed or was cancelled, and what was skipped or cancelled with it.

    Its counters begin anew, everything else of the run stays as it is; a closed run is open again. Raises
    `UsageError` with what is in the way.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    ledger.node(run_id, node)
    answer = ledger.retry(run_id, node)
    if answer.head[0] != "again":
        raise UsageError(
            f"{node} of run {run_id} cannot be done again: {answer.head[1]}",
            fix=f"`agentflow failures {run_id}` lists what can; `agentflow why {run_id} {node}` tells more",
            code="AF-RUN-004",
        )
    _bring_objects(ledger, config, run, repo)
    canvas = canvas_of(ledger, run_id, config)
    chords.arm(canvas)
    _arrive_again(ledger, canvas)
    closing.pass_on(run_id, answer, lambda _: canvas)
    return RunState(answer.head[1])


def _arrive_again(ledger: Ledger, canvas: Canvas) -> None:
    """In a new generation every chord counts from nought: what has ended arrives at once.

    A join whose parents have all ended is left out: its body is sent because it is ready, or has been.
    """
    nodes = ledger.nodes(canvas.run_id)
    done = {n.id for n in nodes.values() if n.state in TERMINAL}
    for join in canvas.joins.values():
        if not done.issuperset(join.parents):
            for parent in done.intersection(join.parents):
                chords.arrive_at(canvas, join, parent)


def result(run_id: str, *, config: Config) -> RunResult:
    """What the run came to, or has come to so far."""
    return build_result(open_ledger(config), run_id)
