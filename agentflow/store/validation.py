"""What is true of every ledger between any two transitions, checked on a live store.

The rules are the invariants of docs/reliability.md as far as they can be read off the keys. They look at one
moment (`snapshot`), so they hold while workers work. `agentflow doctor --ledger` runs them, and so does the
teardown of every test that has a store. A violation tells the last transitions of what it is about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from agentflow.states import CLOSED, NodeState
from agentflow.store import history, owners, sharing, snapshot
from agentflow.store.events import EventLog
from agentflow.store.reading import Reading
from agentflow.store.records import INTEGRATE, Event
from agentflow.store.snapshot import NodeShot, RunShot, clashes, lock_table, sorted_names

#: Transitions that a violation tells of its node, or its run.
STORY_EVENTS = 8
#: What a rule finds: a node ('' for the run) and what is wrong with it.
Found = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be. `subject` is `run/node`, a run or a key; `story` its last transitions."""

    subject: str
    what: str
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.subject}: {self.what}", *(f"    {line}" for line in self.story)])


def validate_run(ledger: Reading, run_id: str) -> list[Violation]:
    """What is wrong with one run; empty when nothing is (or when there is no such run)."""
    found = snapshot.of_run(ledger.client, run_id)
    if not found:
        return []
    run, leases = found
    events = EventLog(ledger.client).read(run_id, count=history.STREAM_MAX)
    rules = (
        _states(run),
        _parents(run),
        _leases(run, leases),
        _room(run),
        _locks(run),
        _settled(run),
        _reservations(run),
        _attempts(run),
        history.contradictions(run, events),
    )
    return [
        Violation(f"{run_id}/{node}" if node else run_id, what, tell(events, node))
        for rule in rules
        for node, what in rule
    ]


def validate_fleet(ledger: Reading) -> list[Violation]:
    """What is wrong with what the open runs share; empty when nothing is."""
    shot = snapshot.of_fleet(ledger.client)
    return [Violation(subject, what) for subject, what in sharing.contradictions(shot)]


def validate_keys(ledger: Reading) -> list[Violation]:
    """I10: keys that nobody owns, or that would outlive their owner."""
    return [Violation(key, why) for key, why in owners.ownerless(ledger.client)]


def validate_store(ledger: Reading) -> list[Violation]:
    """Everything that is wrong on this Redis: keys, what is shared, each run that is known."""
    found = [*validate_keys(ledger), *validate_fleet(ledger)]
    for run in ledger.runs():
        found += validate_run(ledger, run.id)
    return found


def tell(events: list[Event], node: str = "") -> tuple[str, ...]:
    """The last transitions of a node ('' for the whole run), one a line."""
    mine = [event for event in events if not node or event.node == node]
    return tuple(
        f"{event.id} {event.kind} {event.node} {event.state} #{event.attempt} {event.reason[:100]}".rstrip()
        for event in mine[-STORY_EVENTS:]
    )


def _states(run: RunShot) -> Found:
    """Each node is in the collections of its state, and in no other; the counters agree."""
    left = {node.id for node in run.nodes.values() if not node.ended}
    yield from _differ("open", left, set(run.open))
    if run.number("nodes_left") != len(left):
        yield "", f"nodes_left is {run.number('nodes_left')}, but {len(left)} have not ended"
    ready = {node.id for node in run.nodes.values() if node.state is NodeState.READY}
    yield from _differ("ready", ready, set(run.ready))
    parked = {node.id for node in run.nodes.values() if node.state is NodeState.PARKED}
    yield from _differ("parked or waiting", parked, {*run.parked, *run.waiting})
    wide = {node.id for node in run.nodes.values() if node.raw.get("wide") == "1"}
    yield from _differ("waiting", wide, set(run.waiting))
    for node in set(run.parked) & set(run.waiting):
        yield node, "is both parked and waiting for room"
    for node in set(run.lockwait) - ready - parked:
        yield node, f"stands in the line for locks, but is {run.nodes[node].state}"
    if run.raw["state"] in CLOSED and left:
        yield "", f"is {run.raw['state']}, but {', '.join(sorted(left)[:5])} have not ended"


def _differ(name: str, expected: set[str], found: set[str]) -> Found:
    for node in sorted(expected - found):
        yield node, f"is missing in `{name}`"
    for node in sorted(found - expected):
        yield node, f"is in `{name}`, where it does not belong"


def _parents(run: RunShot) -> Found:
    """I3: nothing goes on before its parents, and nothing waits for more than them."""
    for node in run.nodes.values():
        left = [parent.id for parent in run.parents(node) if not parent.ended]
        if node.state is NodeState.PENDING:
            if not left and run.raw["state"] not in CLOSED:
                yield node.id, "waits for nothing"
            if node.id != INTEGRATE and node.number("parents_left") != len(left):
                yield node.id, f"counts {node.number('parents_left')} parents, but {len(left)} have not ended"
        elif node.state not in (NodeState.SKIPPED, NodeState.CANCELLED):
            # An optional one that failed may be done again after others went on without it.
            left = [name for name in left if not _is_done_again(run.nodes[name])]
            if left:
                yield node.id, f"is {node.state} before {', '.join(left[:5])}"
            yield from _needs(run, node.id)


def _is_done_again(node: NodeShot) -> bool:
    # It has ended before, perhaps without an attempt: cancelled with its role.
    return node.raw.get("optional") == "1" and "ended_ms" in node.raw


def _needs(run: RunShot, node_id: str) -> Found:
    """What has begun had parents that succeeded or were optional (the integration takes what there is)."""
    if node_id == INTEGRATE:
        return
    for parent in run.parents(run.nodes[node_id]):
        if parent.raw.get("undone") and run.nodes[node_id].ended:
            continue  # what failed on top of work that was rolled back since
        if parent.ended and parent.state is not NodeState.SUCCEEDED and parent.raw.get("optional") != "1":
            yield node_id, f"is {run.nodes[node_id].state}, but {parent.id} is {parent.state}"


def _leases(run: RunShot, leases: dict[tuple[str, str, int], float]) -> Found:
    """I2: a lease is held exactly by what runs, under its newest fence."""
    held = {(node, fence) for (run_id, node, fence) in leases if run_id == run.id}
    running = {
        (node.id, node.number("fence")) for node in run.nodes.values() if node.state is NodeState.RUNNING
    }
    for node, fence in sorted(running - held):
        yield node, f"runs under fence {fence} without a lease: nobody would notice its worker's end"
    for node, fence in sorted(held - running):
        yield node, f"has a lease under fence {fence}, but is not running under it"


def _room(run: RunShot) -> Found:
    """In flight is what runs or was woken, in all and by role."""
    busy = [node for node in run.nodes.values() if node.in_flight]
    if run.number("in_flight") != len(busy):
        yield "", f"in_flight is {run.number('in_flight')}, but {len(busy)} nodes are"
    roles = {role: count for role, count in run.roles.items() if count}
    if roles != Counter(node.role for node in busy):
        yield "", f"counts {roles} by role, but in flight are {dict(Counter(n.role for n in busy))}"
    classes = {name: count for name, count in run.classes.items() if count}
    if classes != Counter(node.raw["complexity"] for node in busy if node.raw.get("complexity")):
        yield "", f"counts {classes} by complexity, which is not what is in flight"
    waits = Counter(f"{run.nodes[node].role}|{run.nodes[node].queue}" for node in run.waiting)
    if run.waits != waits:
        yield "", f"counts {dict(run.waits)} that wait for room, but there are {dict(waits)}"


def _locks(run: RunShot) -> Found:
    """I4: the table of locks is exactly what the running nodes hold, and no two of them clash.

    What those want that wait in the line is the table `wanted`.
    """
    holding = [node for node in run.nodes.values() if node.state is NodeState.RUNNING]
    held = [(node.id, lock) for node in holding for lock in node.list("locks")]
    wanted = [(node, lock) for node in run.lockwait for lock in run.nodes[node].list("locks")]
    for clash in clashes(held):
        yield "", clash
    for name, table, pairs in (("locks", run.locks, held), ("wanted", run.wanted, wanted)):
        found, expected = sorted_names(table), lock_table(pairs)
        for lock in sorted({*expected, *found}):
            if found.get(lock) != expected.get(lock):
                has, should = found.get(lock, "nobody"), expected.get(lock, "nobody")
                yield "", f"in `{name}` {lock!r} is with {has}, and belongs to {should}"


def _settled(run: RunShot) -> Found:
    """The settled sequence holds each piece of work once, and the last writers are of it."""
    done = {n.id for n in run.nodes.values() if n.state is NodeState.SUCCEEDED and n.raw.get("commit")}
    yield from _differ("settled", done, set(run.settled))
    places = list(run.settled.values())
    if len(set(places)) != len(places) or (places and max(places) > run.number("seq")):
        yield "", f"the settled sequence is {run.settled}, and seq is {run.raw.get('seq')}"
    for path, names in run.writers.items():
        for node in names.split("|"):
            if node not in run.settled:
                yield node, f"is the last writer of {path!r}, but has settled nothing"


def _reservations(run: RunShot) -> Found:
    """I5: money is reserved by running attempts only, and as much as the run's budget says."""
    held = {"usd": 0, "tokens": 0}
    for field, record in run.budget.items():
        if not field.startswith("hold:"):
            continue
        node, fence, _ = field.removeprefix("hold:").rsplit("|", 2)
        holder = run.nodes.get(node)
        if not holder or holder.state is not NodeState.RUNNING or str(holder.number("fence")) != fence:
            yield node, f"has money reserved under fence {fence}, but is not running under it"
        usd, tokens = record.split(" ")[:2]
        held = {"usd": held["usd"] + int(usd), "tokens": held["tokens"] + int(tokens)}
    for unit, amount in held.items():
        counted = int(run.budget.get(f"held:run:{unit}") or 0)
        if counted != amount:
            yield "", f"{counted} {unit} are counted as reserved, {amount} are"


def _attempts(run: RunShot) -> Found:
    """I9: no more attempts than claims, and each claim had a fence of its own."""
    for node in run.nodes.values():
        if node.number("attempt") > node.number("fence"):
            yield node.id, f"has had {node.number('attempt')} attempts under {node.number('fence')} fences"
