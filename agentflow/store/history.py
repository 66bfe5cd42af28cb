"""What a run's stream of transitions must tell: each one allowed, no end twice, no start too early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from agentflow.states import TRANSITIONS, NodeState
from agentflow.store.records import INTEGRATE, Event
from agentflow.store.snapshot import NodeShot, RunShot

#: Entries that a run's stream keeps (lib.lua has the number too); a full one has lost its beginning.
STREAM_MAX = 100_000
_FRESH = frozenset({NodeState.PENDING, NodeState.READY})
#: What opens again everything that did not succeed, without a word about each node.
_REOPENING = ("run.reopened",)
#: Work that a journal has and the ledger had lost: from wherever the ledger had the node to its success. In
#: an open run it is as if it ran, for it settles then.
_RESTORED = "node.restored"
#: What a transition means for the nodes that have ended.
_ENDINGS: dict[str, Callable[[set[str], str], None]] = {
    "node.settled": set.add,
    _RESTORED: set.add,
    "node.undone": set.discard,
    "node.again": set.discard,
}


def contradictions(run: RunShot, events: list[Event]) -> Iterator[tuple[str, str]]:
    """Node ('' for the run) and what is wrong. `events`: the run's stream, read after `run` was."""
    if len(events) >= STREAM_MAX or not events or events[0].kind != "run.opened":
        return
    states: dict[str, frozenset[NodeState]] = dict.fromkeys(run.nodes, _FRESH)
    ended: set[str] = set()
    # Optional nodes that had ended and are done again: what needs them may have gone on without.
    done_without: set[str] = set()
    starts: Counter[str] = Counter()
    for event in events:
        if event.kind in _REOPENING:
            _reopen(states, ended)
        if event.node not in states or event.state not in set(NodeState):
            continue
        node, state = event.node, NodeState(event.state)
        if event.kind != _RESTORED and not any(state in TRANSITIONS[was] for was in states[node]):
            before = "/".join(sorted(states[node]))
            yield node, f"went from {before} to {state} ({event.kind}), which no transition allows"
        if event.kind == "node.settled" and node in ended:
            yield node, f"ended a second time, as {state}"
        if event.kind == "node.started":
            starts[node] += 1
            yield from _too_early(run, run.nodes[node], ended | done_without)
        if event.kind == _RESTORED:
            starts[node] = event.attempt
        if event.kind in _ENDINGS and state is not NodeState.RUNNING:
            _ENDINGS[event.kind](ended, node)
        done_without |= _goes_without(run, event)
        states[node] = frozenset({state})
    yield from _ends(run, states, starts)


def _goes_without(run: RunShot, event: Event) -> set[str]:
    is_optional = event.kind == "node.again" and run.nodes[event.node].raw.get("optional") == "1"
    return {event.node} if is_optional else set()


def _reopen(states: dict[str, frozenset[NodeState]], ended: set[str]) -> None:
    for node, was in states.items():
        if was != {NodeState.SUCCEEDED} or node == INTEGRATE:
            states[node] = was | _FRESH
            ended.discard(node)


def _too_early(run: RunShot, node: NodeShot, ended: Iterable[str]) -> Iterator[tuple[str, str]]:
    missing = [parent.id for parent in run.parents(node) if parent.id not in ended]
    if missing:
        yield node.id, f"started before {', '.join(sorted(missing)[:5])} had ended"


def _ends(
    run: RunShot, states: dict[str, frozenset[NodeState]], starts: Counter[str]
) -> Iterator[tuple[str, str]]:
    for node in run.nodes.values():
        if node.state not in states[node.id] and node.state is not NodeState.PENDING:
            yield node.id, f"is {node.state}, but its last transition was to {'/'.join(states[node.id])}"
        if starts[node.id] != node.number("attempt"):
            yield node.id, f"counts {node.number('attempt')} attempts, but started {starts[node.id]} times"
