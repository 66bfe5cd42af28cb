"""Shortest schedules of the task graphs in `graphs/` on W equal slots, each with its proof.

`graphs/optima.json` holds for each graph and W the optimum, a schedule of that length, and how it was
proved that none is shorter:

* `bound`: a lower bound has the same value. `check` computes it again, in milliseconds.
* `search`: OR-tools' CP-SAT solver has found that there is no schedule that is shorter by one. `check`
  does that again where OR-tools is installed (it is needed for nothing else).

A graph whose optimum is not known after `SOLVER_S` is not in the file for that W: one of 128
(`layrprob-100-30` on 4 slots, between 255 and 257).

`python -m bench.optima` checks the file; `python -m bench.optima --prove` makes it anew.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench import stg
from bench.stg import TaskGraph

FILE = stg.FOLDER / "optima.json"
SLOTS = (4, 8)
BOUND, SEARCH = "bound", "search"
#: Schedules that are drawn before the solver is asked, and seconds that it may take.
TRIES, SOLVER_S = 300, 60.0


@dataclass(frozen=True, slots=True)
class Optimum:
    """The shortest length of a graph on so many slots, a schedule (task -> start), and how it was proved."""

    graph: str
    slots: int
    length: int
    proof: str
    starts: Mapping[int, int]


def ways(graph: TaskGraph) -> tuple[dict[int, int], dict[int, int]]:
    """The longest way to each task's start, and from its end."""
    heads, tails = dict.fromkeys(graph.times, 0), dict.fromkeys(graph.times, 0)
    for task, parents in graph.parents.items():
        heads[task] = max((heads[p] + graph.times[p] for p in parents), default=0)
    for task in reversed(graph.times):
        for parent in graph.parents[task]:
            tails[parent] = max(tails[parent], tails[task] + graph.times[task])
    return heads, tails


def lower_bound(graph: TaskGraph, slots: int) -> int:
    """No schedule is shorter: of tasks that cannot start before `a` nor end later than `b` before the end,
    the work stands between, on all slots at most. With every `a` and `b`; the critical path is among them.
    """
    heads, tails = ways(graph)
    best = max(heads[t] + graph.times[t] + tails[t] for t in graph.times)
    by_tail = sorted(graph.times, key=lambda t: -tails[t])
    for head in set(heads.values()):
        work = 0
        for task in by_tail:
            if heads[task] >= head:
                work += graph.times[task]
                best = max(best, head + -(-work // slots) + tails[task])
    return best


def list_schedule(graph: TaskGraph, slots: int, order: Mapping[int, Any]) -> dict[int, int]:
    """Whenever a slot is free, the ready task that is first in `order` starts (task -> start)."""
    missing = {task: len(parents) for task, parents in graph.parents.items()}
    below: dict[int, list[int]] = {task: [] for task in graph.times}
    for task, parents in graph.parents.items():
        for parent in parents:
            below[parent].append(task)
    ready = [(order[t], t) for t, count in missing.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[int, int]] = []
    starts: dict[int, int] = {}
    now = 0
    while ready or running:
        while ready and len(running) < slots:
            task = heapq.heappop(ready)[1]
            starts[task] = now
            heapq.heappush(running, (now + graph.times[task], task))
        now = running[0][0]
        while running and running[0][0] == now:
            for child in below[heapq.heappop(running)[1]]:
                missing[child] -= 1
                if not missing[child]:
                    heapq.heappush(ready, (order[child], child))
    return starts


def length(graph: TaskGraph, starts: Mapping[int, int]) -> int:
    """When the last task of a schedule ends."""
    return max(start + graph.times[task] for task, start in starts.items())


def faults(graph: TaskGraph, slots: int, starts: Mapping[int, int]) -> Iterator[str]:
    """What is wrong with a schedule; nothing when it is one."""
    if set(starts) != set(graph.times):
        yield "not every task has a start"
        return
    for task, parents in graph.parents.items():
        for parent in parents:
            if starts[parent] + graph.times[parent] > starts[task]:
                yield f"task {task} starts before {parent} has ended"
    for now in set(starts.values()):
        busy = sum(1 for t, start in starts.items() if start <= now < start + graph.times[t])
        if busy > slots:
            yield f"{busy} tasks run at {now}"


class UnprovedError(Exception):
    """The solver's time was too short."""


def prove(graph: TaskGraph, slots: int) -> Optimum:
    """The optimum with its proof; raises `UnprovedError`."""
    low, tails = lower_bound(graph, slots), ways(graph)[1]
    draw = random.Random(f"{graph.name}/{slots}")
    best: dict[int, int] = {}
    for attempt in range(TRIES):
        order = {t: -(tails[t] + graph.times[t]) * (1 + attempt / TRIES * draw.random()) for t in graph.times}
        starts = list_schedule(graph, slots, order)
        if not best or length(graph, starts) < length(graph, best):
            best = starts
        if length(graph, best) == low:
            return Optimum(graph.name, slots, low, BOUND, best)
    while (shorter := search(graph, slots, length(graph, best) - 1)) is not None:
        best = shorter
    proof = BOUND if length(graph, best) == low else SEARCH
    return Optimum(graph.name, slots, length(graph, best), proof, best)


def search(graph: TaskGraph, slots: int, most: int) -> dict[int, int] | None:
    """A schedule no longer than `most`, None when it is proved that there is none (CP-SAT)."""
    from ortools.sat.python import cp_model  # type: ignore[import-not-found]

    heads, tails = ways(graph)
    if any(heads[t] + graph.times[t] + tails[t] > most for t in graph.times):
        return None
    model = cp_model.CpModel()
    starts = {
        t: model.new_int_var(heads[t], most - tails[t] - time, f"s{t}") for t, time in graph.times.items()
    }
    boxes = [model.new_fixed_size_interval_var(starts[t], time, f"i{t}") for t, time in graph.times.items()]
    model.add_cumulative(boxes, [1] * len(boxes), slots)
    for task, parents in graph.parents.items():
        for parent in parents:
            model.add(starts[task] >= starts[parent] + graph.times[parent])
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = SOLVER_S
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return {task: solver.value(start) for task, start in starts.items()}
    raise UnprovedError(f"{graph.name} on {slots} slots: nothing is known about {most} after {SOLVER_S:g} s")


def prove_all(graphs: Iterable[TaskGraph]) -> list[Optimum]:
    """Each graph on each number of slots, without those that are not proved."""
    found = []
    for graph in graphs:
        for slots in SLOTS:
            try:
                found.append(prove(graph, slots))
            except UnprovedError as error:
                print(f"left out: {error}", file=sys.stderr)
    return found


def read_all() -> list[Optimum]:
    """Every committed optimum."""
    rows = json.loads(FILE.read_text("ascii"))
    return [
        Optimum(r["graph"], r["slots"], r["length"], r["proof"], dict(enumerate(r["starts"], 1)))
        for r in rows
    ]


def write_all(found: list[Optimum]) -> None:
    """The committed file: one optimum a line."""
    rows = [
        json.dumps(
            {
                "graph": o.graph,
                "slots": o.slots,
                "length": o.length,
                "proof": o.proof,
                "starts": [o.starts[task] for task in sorted(o.starts)],
            },
            separators=(",", ":"),
        )
        for o in found
    ]
    FILE.write_text("[\n" + ",\n".join(rows) + "\n]\n", "ascii")


def check(optimum: Optimum, graph: TaskGraph) -> Iterator[str]:
    """What is wrong with a committed optimum; a proof by search is made again where OR-tools is installed."""
    yield from faults(graph, optimum.slots, optimum.starts)
    if length(graph, optimum.starts) != optimum.length:
        yield "its schedule has another length"
    if optimum.proof == BOUND and lower_bound(graph, optimum.slots) != optimum.length:
        yield "the bound does not prove it"
    is_shown = optimum.proof != SEARCH or not importlib.util.find_spec("ortools")
    if not is_shown and search(graph, optimum.slots, optimum.length - 1) is not None:
        yield "there is a shorter schedule"


def main() -> int:
    """Check the committed file, or make it anew."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.optima", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--prove", action="store_true", help="make the file anew (needs OR-tools)")
    graphs = {graph.name: graph for graph in stg.read_all()}
    if parser.parse_args().prove:
        write_all(prove_all(graphs.values()))
    found = read_all()
    wrong = [f"{o.graph} on {o.slots}: {fault}" for o in found for fault in check(o, graphs[o.graph])]
    by = {proof: sum(1 for o in found if o.proof == proof) for proof in (BOUND, SEARCH)}
    print(f"{len(found)} optima of {len(graphs)} graphs: {by[BOUND]} by bound, {by[SEARCH]} by search")
    print("\n".join(wrong) or "all hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
