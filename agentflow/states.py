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
    DRAINING = "draining"  #: no new claims; running attempts finish
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
    NodeState.READY: frozenset({NodeState.RUNNING, NodeState.PARKED, NodeState.CANCELLED}),
    NodeState.PARKED: frozenset({NodeState.READY, NodeState.CANCELLED}),
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
    # A resumed run opens again what did not succeed.
    NodeState.FAILED: frozenset({NodeState.PENDING}),
    NodeState.SKIPPED: frozenset({NodeState.PENDING}),
    NodeState.CANCELLED: frozenset({NodeState.PENDING}),
    NodeState.SUCCEEDED: frozenset(),
}


def sources(target: NodeState) -> tuple[str, ...]:
    """The states from which `target` may be entered, as the scripts take them."""
    return tuple(sorted(s.value for s, targets in TRANSITIONS.items() if target in targets))
