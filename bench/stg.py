"""Task graphs in the form of the Standard Task Graph Set (Tobita and Kasahara, 2002), and a maker of them.

The form: first the number of tasks without the two dummies; then a line for each task, its number, its
processing time, how many predecessors it has, and these; the dummies are the first and the last line and
take no time. What follows a `#` is a remark.

Made here the way that the set's own generators work, so that no file of theirs is needed:

| method | edges |
|---|---|
| `sameprob` | every pair (earlier, later) is an edge with the same probability |
| `samepred` | every task has about the same number of predecessors, any earlier ones |
| `layrprob` | tasks lie in layers; pairs of neighbouring layers are edges with the same probability |
| `layrpred` | tasks lie in layers and have about the same number of predecessors in the layer before |

Processing times are whole: even between 1 and 19, normal around 10, or exponential around 10.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Where the committed graphs lie.
FOLDER = Path(__file__).with_name("graphs")
METHODS = ("sameprob", "samepred", "layrprob", "layrpred")
TIMES: dict[str, Callable[[random.Random], float]] = {
    "unif": lambda draw: draw.randint(1, 19),
    "norm": lambda draw: draw.gauss(10, 4),
    "expo": lambda draw: draw.expovariate(0.1),
}
#: Tasks of a graph: sixteen of each method, every fourth of the larger size.
SMALL, LARGE, OF_EACH = 50, 100, 16


@dataclass(frozen=True, slots=True)
class TaskGraph:
    """Tasks by number in an order in which they could run, without the dummies; times are whole numbers."""

    name: str
    times: dict[int, int]
    parents: dict[int, tuple[int, ...]]


def read(path: Path) -> TaskGraph:
    """One graph; raises `ValueError` for a file that is not in the form."""
    lines = [line.split("#", 1)[0].split() for line in path.read_text("ascii").splitlines()]
    rows = [[int(word) for word in words] for words in lines if words]
    count = rows[0][0]
    tasks = rows[1:]
    if len(tasks) != count + 2 or [row[0] for row in tasks] != list(range(count + 2)):
        raise ValueError(f"{path}: {count} tasks and two dummies are announced, {len(tasks)} lines follow")
    times, parents = {}, {}
    for number, time, size, *before in tasks[1:-1]:
        if size != len(before) or not all(0 <= other < number for other in before) or time < 1:
            raise ValueError(f"{path}: task {number} is not well-formed")
        times[number] = time
        parents[number] = tuple(other for other in before if other)
    return TaskGraph(path.stem, times, parents)


def write(graph: TaskGraph, path: Path, remark: str) -> None:
    """The same graph as a file: tasks without predecessors follow the first dummy."""
    count = len(graph.times)
    needed = {parent for parents in graph.parents.values() for parent in parents}
    ends = [task for task in graph.times if task not in needed]
    rows: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]
    rows += [(task, graph.times[task], graph.parents[task] or (0,)) for task in graph.times]
    rows.append((count + 1, 0, tuple(ends)))
    lines = [f"{count}"]
    lines += [" ".join(map(str, (task, time, len(before), *before))) for task, time, before in rows]
    path.write_text("\n".join([*lines, f"# {remark}"]) + "\n", "ascii")


def make(seed: int) -> tuple[TaskGraph, str]:
    """The graph of a seed, and how it was made."""
    draw = random.Random(seed)
    method, place = METHODS[seed % len(METHODS)], seed // len(METHODS)
    count = LARGE if place % 4 == 3 else SMALL
    kind = list(TIMES)[place % len(TIMES)]
    density = draw.choice((1.5, 2.5, 4.0))
    numbers = range(1, count + 1)
    times = {n: max(1, round(TIMES[kind](draw))) for n in numbers}
    edges = _LAYERED if method.startswith("layr") else _PLAIN
    parents = edges[method.removeprefix("layr").removeprefix("same")](draw, count, density)
    name = f"{method}-{count}-{seed:02}"
    remark = f"{method}, {kind} times, {density} predecessors on average, seed {seed}"
    return TaskGraph(name, times, parents), remark


def _plain_prob(draw: random.Random, count: int, density: float) -> dict[int, tuple[int, ...]]:
    share = min(1.0, density * 2 / (count - 1))
    return {n: tuple(m for m in range(1, n) if draw.random() < share) for n in range(1, count + 1)}


def _plain_pred(draw: random.Random, count: int, density: float) -> dict[int, tuple[int, ...]]:
    return {n: _some(draw, range(1, n), density) for n in range(1, count + 1)}


def _layered_prob(draw: random.Random, count: int, density: float) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for before, layer in _layers(draw, count):
        share = min(1.0, density / len(before)) if before else 0.0
        found |= {n: tuple(m for m in before if draw.random() < share) for n in layer}
    return found


def _layered_pred(draw: random.Random, count: int, density: float) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for before, layer in _layers(draw, count):
        found |= {n: _some(draw, before, density) for n in layer}
    return found


def _layers(draw: random.Random, count: int) -> list[tuple[range, range]]:
    """Neighbouring layers, the first with an empty one before it."""
    found, before, first = [], range(0), 1
    while first <= count:
        layer = range(first, min(count + 1, first + draw.randint(3, 15)))
        found.append((before, layer))
        before, first = layer, layer.stop
    return found


def _some(draw: random.Random, among: range, density: float) -> tuple[int, ...]:
    size = min(len(among), max(0, round(draw.gauss(density, 1))))
    return tuple(sorted(draw.sample(among, size)))


_PLAIN = {"prob": _plain_prob, "pred": _plain_pred}
_LAYERED = {"prob": _layered_prob, "pred": _layered_pred}


def write_all() -> None:
    """Every committed graph anew, byte for byte."""
    FOLDER.mkdir(exist_ok=True)
    for seed in range(len(METHODS) * OF_EACH):
        graph, remark = make(seed)
        write(graph, FOLDER / f"{graph.name}.stg", remark)


def read_all() -> list[TaskGraph]:
    """Every committed graph, by name."""
    return [read(path) for path in sorted(FOLDER.glob("*.stg"))]
