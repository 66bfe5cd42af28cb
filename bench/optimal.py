"""The product's order of nodes against proved optima: 64 task graphs in the STG form, 4 and 8 slots.

A virtual clock runs each graph through the real ledger (`bench/virtual.py`): spec, plan, ranks from the
known durations, admission and waking are the product's own. Beside it the same graphs first come, first
served, and level by level. The optima are proved ones (`bench/optima.py`); excess is over the optimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

from agentflow import graph as dag
from agentflow.canvas.ranks import ranked
from agentflow.store.durations import Durations
from bench import optima, stg
from bench.figures import Figure
from bench.optima import Optimum
from bench.stage import Stage, stage
from bench.stg import TaskGraph
from bench.virtual import VirtualRun

MOST_PERCENT = 2.0


def measure() -> Iterator[Figure]:
    """The mean excess of each way on 4 and on 8 slots."""
    graphs = {graph.name: graph for graph in stg.read_all()}
    with stage() as found:
        for slots in optima.SLOTS:
            proved = [o for o in optima.read_all() if o.slots == slots]
            ours = [_excess(o, _ours(found, graphs[o.graph], slots)) for o in proved]
            came = [_excess(o, first_come(graphs[o.graph], slots)) for o in proved]
            level = [_excess(o, level_by_level(graphs[o.graph], slots)) for o in proved]
            name = f"excess over the optimum, {len(proved)} STG graphs, W={slots}"
            yield Figure(name, mean(ours), "%", MOST_PERCENT, _note(ours), ours)
            yield Figure("  first come, first served", mean(came), "%", None, _note(came), came)
            yield Figure("  level by level", mean(level), "%", None, _note(level), level)


def _ours(found: Stage, graph: TaskGraph, slots: int) -> float:
    """The makespan of a second run of the same feature: what each node takes is known from the first."""
    names = {task: f"t{task:03}" for task in graph.times}
    parents = {names[task]: [names[p] for p in graph.parents[task]] for task in graph.times}
    seconds = {names[task]: float(time) for task, time in graph.times.items()}
    plan = found.plan(parents, slots=slots)
    known = {(n.role, n.id): (seconds[n.id], 1) for n in plan.nodes}
    plan = ranked(plan, Durations(known))
    return VirtualRun(found.ledger, plan, seconds, f"{graph.name}-{slots}").play()


def first_come(graph: TaskGraph, slots: int) -> int:
    """Nodes start in the order in which they became ready, as a plain queue serves them."""
    starts: dict[int, int] = {}
    ready_at = dict.fromkeys(graph.times, 0)
    free = [0] * slots
    left = dict(graph.parents)
    while left:
        able = [t for t, parents in left.items() if all(p in starts for p in parents)]
        for task in able:
            ready_at[task] = max((starts[p] + graph.times[p] for p in graph.parents[task]), default=0)
        task = min(able, key=lambda t: (ready_at[t], t))
        free.sort()
        starts[task] = max(free[0], ready_at[task])
        free[0] = starts[task] + graph.times[task]
        del left[task]
    return optima.length(graph, starts)


def level_by_level(graph: TaskGraph, slots: int) -> int:
    """A level starts when the one before it has ended, as nested chords do; within it as they come."""
    names = {str(task): [str(p) for p in parents] for task, parents in graph.parents.items()}
    total = 0
    for wave in dag.waves(names):
        free = [0] * slots
        for name in wave:
            free.sort()
            free[0] += graph.times[int(name)]
        total += max(free)
    return total


def _excess(optimum: Optimum, makespan: float) -> float:
    return 100 * (makespan / optimum.length - 1)


def _note(samples: list[float]) -> str:
    exact = sum(1 for sample in samples if sample < 1e-9)
    return f"mean; max {max(samples):.1f}, {exact} of {len(samples)} are optimal"
