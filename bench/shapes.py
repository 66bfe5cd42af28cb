"""The DAGs that are measured: node -> parents. Everything random is drawn from a named seed."""

from __future__ import annotations

import random

Parents = dict[str, list[str]]


def layers(count: int, width: int, *, parents: int, seed: int = 0) -> Parents:
    """`count` layers of `width` nodes, each with that many random parents in the layer before."""
    draw = random.Random(seed)
    found: Parents = {}
    before: list[str] = []
    for layer in range(count):
        names = [f"n{layer}-{place}" for place in range(width)]
        for name in names:
            found[name] = sorted(draw.sample(before, min(parents, len(before))))
        before = names
    return found


def line(length: int) -> Parents:
    """One after the other."""
    return {f"n{i}": [f"n{i - 1}"] if i else [] for i in range(length)}


def full(count: int, width: int) -> Parents:
    """Layers in which every node needs every node of the layer before."""
    return layers(count, width, parents=width)


def diamonds(count: int) -> Parents:
    """A ladder of `count` forks into two and joins of the two."""
    found: Parents = {"j0": []}
    for i in range(count):
        found[f"l{i}"] = found[f"r{i}"] = [f"j{i}"]
        found[f"j{i + 1}"] = [f"l{i}", f"r{i}"]
    return found


def sleepers(seed: int, *, nodes: int = 60) -> tuple[Parents, dict[str, float]]:
    """A random DAG of nodes that sleep, and for how long (seconds).

    Each node has nought to three parents, any of the earlier ones; durations are even between 0.1 and
    0.7 s. Of the seeds 0-19 some are bound by their critical path, some by the slots.
    """
    draw = random.Random(seed)
    names = [f"n{i}" for i in range(nodes)]
    parents: Parents = {}
    seconds: dict[str, float] = {}
    for place, name in enumerate(names):
        parents[name] = sorted(draw.sample(names[:place], min(draw.randint(0, 3), place)))
        seconds[name] = round(draw.uniform(0.1, 0.7), 3)
    return parents, seconds
