"""What the open runs share agrees with what each of them says: room, turns, messages, paths, money."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.budgets import UNITS
from agentflow.store.snapshot import FleetShot, RunShot, clashes, lock_table, sorted_names

#: What a rule finds: a run or a key, and what is wrong with it.
Found = Iterator[tuple[str, str]]


def contradictions(shot: FleetShot) -> Found:
    """Everything that is wrong, rule by rule."""
    yield from _room(shot)
    yield from _turns(shot)
    yield from _times(shot)
    yield from _exclusive(shot)
    yield from _money(shot)
    yield from _forgotten(shot)


def _room(shot: FleetShot) -> Found:
    """What is in flight, and what lies in the queues, is the sum over the runs."""
    flight: Counter[str] = Counter()
    hungry: dict[str, Counter[str]] = {}
    for run in shot.runs.values():
        for node in run.nodes.values():
            if node.in_flight:
                flight.update(("fleet", f"role:{node.role}", f"queue:{node.queue}"))
            elif node.state is NodeState.READY:
                hungry.setdefault(node.queue, Counter())[run.id] += 1
    yield from _unequal(keys.FLIGHT, shot.flight, flight)
    for queue in sorted({*shot.hungry, *hungry}):
        yield from _unequal(keys.hungry(queue), shot.hungry.get(queue, {}), hungry.get(queue, {}))


def _turns(shot: FleetShot) -> Found:
    """Who waits for room is counted, and stands in each class in the order in which runs are woken."""
    waiting: Counter[str] = Counter()
    ranks: dict[str, dict[str, float]] = {}
    for run in shot.runs.values():
        waiting.update(run.waits)
        for name in run.waits:
            ranks.setdefault(name, {})[run.id] = run.number("in_flight") * 2**40 + run.number("turn")
    yield from _unequal(keys.WAITING, shot.waiting, waiting)
    for name in sorted({*shot.ranks, *ranks}):
        yield from _unequal(f"{keys.WAITING}:{name}", shot.ranks.get(name, {}), ranks.get(name, {}))


def _unequal(key: str, found: Mapping[str, float], expected: Mapping[str, float]) -> Found:
    if found != expected:
        yield key, f"holds {dict(found)}, but the runs say {dict(expected)}"


def _times(shot: FleetShot) -> Found:
    """Leases and delays belong to nodes of open runs."""
    for run_id, node, fence in shot.leases:
        if run_id not in shot.open:
            yield f"{run_id}/{node}", f"has a lease under fence {fence}, but its run is not open"
    delayed = {
        f"{run.id}|{node.id}"
        for run in shot.runs.values()
        for node in run.nodes.values()
        if node.state is NodeState.DELAYED
    }
    for member in sorted(delayed ^ set(shot.delayed)):
        missing = "not in" if member in delayed else "in"
        yield member.replace("|", "/"), f"is {missing} {keys.DELAYED}, and its state says otherwise"


def _exclusive(shot: FleetShot) -> Found:
    """I4: what exclusive runs hold is in their project's table, and nothing else is; no two clash."""
    held: dict[str, list[tuple[str, str]]] = {}
    for run in shot.runs.values():
        if run.raw.get("holds") == "1":
            locks = json.loads(run.raw["exclusive"])
            held.setdefault(keys.project_locks(run.raw.get("project", "")), []).extend(
                (run.id, lock) for lock in locks
            )
    for key in sorted({*held, *shot.tables}):
        table = sorted_names(shot.tables.get(key, {}))
        if table != lock_table(held.get(key, [])):
            yield key, f"holds {table}, but the runs hold {held.get(key, [])}"
    for key, pairs in held.items():
        for clash in clashes(pairs):
            yield key, clash


def _money(shot: FleetShot) -> Found:
    """I5: reserved of a day is what its calls under way have reserved; what all have spent is the sum."""
    held: Counter[str] = Counter()
    for run in shot.runs.values():
        for field, record in run.budget.items():
            if field.startswith("hold:"):
                usd, tokens, day, _ = record.split(" ", 3)
                project = keys.project_spent(run.raw.get("project", ""), int(day))
                for key in (project, keys.org_spent(int(day))):
                    held.update({f"{key} usd": int(usd), f"{key} tokens": int(tokens)})
    sums: Counter[str] = Counter()
    for key, raw in shot.spent.items():
        scope = "org" if key == keys.org_spent(_day_of(key)) else "day"
        for unit in UNITS:
            counted, should = raw.get(f"held:{scope}:{unit}", 0), held[f"{key} {unit}"]
            if counted != should:
                yield key, f"{counted} {unit} are counted as reserved, {should} are"
            spent = raw.get(f"spent:{scope}:{unit}", 0)
            sums[f"{keys.org_spent(_day_of(key))} {unit}"] += spent if scope == "day" else -spent
    for name, above in sums.items():
        if above:
            key, _, unit = name.rpartition(" ")
            yield key, f"differs by {abs(above)} {unit} from what the projects have spent"


def _day_of(key: str) -> int:
    return int(key.rpartition(":")[2])


def _forgotten(shot: FleetShot) -> Found:
    """I3: while nothing runs and no message is under way, nobody is left to wake what waits for room."""
    if shot.hungry or shot.flight or shot.held_back:
        return
    for run in shot.runs.values():
        if run.raw["state"] == RunState.OPEN and not run.raw.get("exclusive") and _served(run, shot):
            yield run.id, f"waits for room that is there: {dict(run.waits)}"


def _served(run: RunShot, shot: FleetShot) -> bool:
    queues = {name.partition("|")[2] for name in run.waits}
    return any(not shot.capacity or shot.capacity.get(queue) for queue in queues)
