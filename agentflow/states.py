"""The one transition table of nodes and of runs; the ledger's scripts get their from-states here."""

from __future__ import annotations

from enum import StrEnum


class NodeState(StrEnum):
    """Where a node is."""

    PENDING = "pending"  #: parents are not settled yet
    READY = "ready"  #: nothing but a slot is missing; a message is (or must be) on its way
    PARKED = "parked"  #: refused by admission; holds no slot; woken by a settlement
    DELAYED = "delayed"  #: waits for its back-off to pass
    RUNNING = "running"  #: claimed, under a lease
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  #: something that it needs did not succeed
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """Where a run is."""

    OPEN = "open"
    PAUSED = "paused"  #: no new claims until it is resumed; running attempts go on
    DRAINING = "draining"  #: no new claims; running attempts finish, and whoever follows the run leaves
    CANCELLING = "cancelling"  #: no new claims; running attempts are ended
    READY_TO_LAND = "ready_to_land"
    LANDED = "landed"
    FAILED = "failed"
    CONFLICT = "conflict"
    CANCELLED = "cancelled"


TERMINAL = frozenset({NodeState.SUCCEEDED, NodeState.FAILED, NodeState.SKIPPED, NodeState.CANCELLED})
CLOSED = frozenset(
    {
        RunState.READY_TO_LAND,
        RunState.LANDED,
        RunState.FAILED,
        RunState.CONFLICT,
        RunState.CANCELLED,
    }
)

#: from -> the states that may follow. Anything absent is a defect and raises.
TRANSITIONS: dict[NodeState, frozenset[NodeState]] = {
    NodeState.PENDING: frozenset({NodeState.READY, NodeState.SKIPPED, NodeState.CANCELLED}),
    # What waited for longer than its queue timeout has failed.
    NodeState.READY: frozenset(
        {NodeState.RUNNING, NodeState.PARKED, NodeState.CANCELLED, NodeState.FAILED, NodeState.PENDING}
    ),
    NodeState.PARKED: frozenset({NodeState.READY, NodeState.CANCELLED, NodeState.FAILED}),
    NodeState.DELAYED: frozenset({NodeState.READY, NodeState.CANCELLED}),
    NodeState.RUNNING: frozenset(
        {
            NodeState.SUCCEEDED,
            NodeState.FAILED,
            NodeState.CANCELLED,
            NodeState.READY,
            NodeState.PARKED,
            NodeState.DELAYED,
        }
    ),
    # A resumed run opens again what did not succeed; one node alone can be done again too (and with it the
    # integration that was about to start waits once more).
    NodeState.FAILED: frozenset({NodeState.PENDING}),
    NodeState.SKIPPED: frozenset({NodeState.PENDING}),
    NodeState.CANCELLED: frozenset({NodeState.PENDING}),
    # Only by a rollback of its closed run.
    NodeState.SUCCEEDED: frozenset({NodeState.CANCELLED}),
}


#: The same for runs. Reopening leads back to open; only what is open, paused or draining can be told to move.
RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.OPEN: frozenset({RunState.PAUSED, RunState.DRAINING, RunState.CANCELLING}),
    RunState.PAUSED: frozenset({RunState.OPEN, RunState.DRAINING, RunState.CANCELLING}),
    RunState.DRAINING: frozenset({RunState.OPEN, RunState.PAUSED, RunState.CANCELLING}),
    RunState.CANCELLING: frozenset(),
    RunState.READY_TO_LAND: frozenset({RunState.OPEN, RunState.LANDED}),
    RunState.LANDED: frozenset(),
    RunState.FAILED: frozenset({RunState.OPEN}),
    RunState.CONFLICT: frozenset({RunState.OPEN}),
    RunState.CANCELLED: frozenset({RunState.OPEN}),
}
#: States of a run that has not come to its end; from each of them it can be closed.
UNFINISHED = frozenset(RunState) - CLOSED
#: How the reasons begin of pauses that nobody asked for; whoever set them lifts them.
AUTOMATIC_PAUSES = ("budget: ", "breaker: ")


def run_sources(target: RunState) -> tuple[str, ...]:
    """The unfinished states from which a run may be told to enter `target`."""
    return tuple(sorted(s.value for s in UNFINISHED if target in RUN_TRANSITIONS[s]))


def run_closed_sources(target: RunState) -> tuple[str, ...]:
    """The states of a closed run from which `target` may be entered."""
    return tuple(sorted(s.value for s in CLOSED if target in RUN_TRANSITIONS[s]))


def sources(target: NodeState) -> tuple[str, ...]:
    """The states from which `target` may be entered, as the scripts take them."""
    return tuple(sorted(s.value for s, targets in TRANSITIONS.items() if target in targets))
