"""What anybody who looks on can end, so that it ends where no worker is left to do it.

A leader does all of this too (`tasks/maintenance.py`). But with every worker stopped or gone a timeout must
still hold and a cancelled run must still come to its end; so whoever cancels or follows a run lends a hand.
Each step is one transition of the ledger, so that it is harmless when somebody else is faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.recovery import undoing
from agentflow.states import NodeState, RunState
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE
from agentflow.store.scripts import Answer, Refused
from agentflow.workspace.clone import remove_tree

#: Who claims the integration of a run that is closed without a worker.
CLOSER = "agentflow cancel"
#: The canvas of a run by its id; raises `UsageError` or `ValueError` for one that cannot be read.
CanvasOf = Callable[[str], Canvas]


def look_after(ledger: Ledger, run_id: str, *, config: Config, canvas_of: CanvasOf) -> None:
    """End what is past its time, and a cancelled run that nobody works on any more."""
    overdue = ledger.deadlines(run_id)
    if overdue:
        pass_on(run_id, overdue, canvas_of)
    if ledger.run(run_id).state is RunState.CANCELLING:
        with contextlib.suppress(Refused):  # a full server: the next look, or a worker, does it
            conclude(ledger, run_id, config=config, canvas_of=canvas_of)


def conclude(ledger: Ledger, run_id: str, *, config: Config, canvas_of: CanvasOf) -> RunState:
    """Close a run that is being cancelled once nothing of it runs; its state then.

    An attempt whose lease is over is ended here: its worker is gone or asleep, and nobody wants its work.
    """
    run = ledger.run(run_id)
    if run.state is not RunState.CANCELLING:
        return run.state
    now = ledger.now_ms()
    for (owner, node, fence), end in ledger.leases().items():
        if owner == run_id and end < now and node != INTEGRATE:
            end_attempt(ledger, run_id, node, fence, reason="the run was cancelled", canvas_of=canvas_of)
    if ledger.unfinished(run_id) != {INTEGRATE}:
        return RunState.CANCELLING
    claim = ledger.claim(run_id, INTEGRATE, worker=CLOSER, ttl_ms=config.lease_ttl_ms)
    if claim.granted:
        state = RunState.FAILED if run.is_late(now) else RunState.CANCELLED
        ledger.settle(
            run_id,
            INTEGRATE,
            claim.fence,
            NodeState.FAILED,
            reason=run.reason,
            facts={"result": "", "closing": state.value},
        )
        undoing.close(
            ledger,
            config,
            run_id,
            state,
            reason=run.reason or "cancelled",
            send=lambda moved: chords.send_others(moved.others, canvas_of),
        )
        remove_tree(config.data_dir / "runs" / run_id / "work")
    return ledger.run(run_id).state


def end_attempt(
    ledger: Ledger, run_id: str, node: str, fence: int, *, reason: str, canvas_of: CanvasOf
) -> bool:
    """End a running attempt as cancelled, whatever its worker does; whether it was still running.

    Its token is void from then on: the worker is told so with its next beat and ends the attempt's processes.
    """
    answer = ledger.settle(run_id, node, fence, NodeState.CANCELLED, reason=reason)
    pass_on(run_id, answer, canvas_of)
    return answer.head[0] == "settled"


def pass_on(run_id: str, answer: Answer, canvas_of: CanvasOf) -> None:
    """Send what a transition has moved; a run that cannot be read is left to the reconciler."""
    if answer.ready or answer.ended or answer.woken:
        try:
            canvas = canvas_of(run_id)
        except (UsageError, ValueError):
            return
        chords.follow_up(canvas, ready=answer.ready, ended=answer.ended, woken=answer.woken)
    chords.send_others(answer.others, canvas_of)
