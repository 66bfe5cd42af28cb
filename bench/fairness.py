"""A hundred runs at once on one fleet, and what each gets of it.

Each run is ten no-op nodes of 50 ms, half of them side by side and half in a line; all are submitted
one after the other before the first could have ended. Jain's index of the times at which they end
(R. Jain, 1984: the square of the sum over n times the sum of squares) is 1 when all end together and
0.75 when they are served one after the other. It is measured with the natural limit (the slots of the
workers) and with a limit of the fleet below it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from bench.figures import Figure, median, percentile
from bench.shapes import Parents
from bench.stage import Stage, stage

RUNS = 100
SLOTS = 16
LIMIT = 8
NODE_S = 0.05
LEAST_INDEX = 0.9


def measure() -> Iterator[Figure]:
    """Both limits; and how long a small run takes that comes to a fleet full of another's work."""
    with stage() as found:
        found.start("fleet", slots=SLOTS)
        found.run(found.plan(_shape(), slots=SLOTS), "warm-up")
        yield from _share(found, f"{RUNS} runs of 10 on {SLOTS} slots", "slots", SLOTS)
        found.ledger.set_limit("fleet", LIMIT)
        yield from _share(found, f"{RUNS} runs of 10, limit {LIMIT}", "limit", LIMIT)
        found.ledger.set_limit("fleet", 0)
        yield _newcomer(found)


def _shape() -> Parents:
    """Five nodes side by side and five in a line."""
    line: Parents = {f"line{i}": [f"line{i - 1}"] if i else [] for i in range(5)}
    return {**{f"wide{i}": [] for i in range(5)}, **line}


def _share(found: Stage, name: str, prefix: str, at_once: int) -> Iterator[Figure]:
    shape = _shape()
    plan = found.plan(shape, slots=SLOTS, seconds=dict.fromkeys(shape, NODE_S))
    runs = [f"{prefix}-{i}" for i in range(RUNS)]
    began = time.time() * 1000
    for run in runs:
        found.submit(plan, run)
    ends = [(found.closed_ms(run) - began) / 1000 for run in runs]
    note = f"ends {min(ends):.1f}-{max(ends):.1f} s, median {median(ends):.1f}"
    yield Figure(f"{name}, Jain of ends", jain(ends), "", note=note, samples=ends, least=LEAST_INDEX)
    per_node = max(ends) * 1000 / (RUNS * len(shape))
    yield Figure(
        f"{name}, all, a node", per_node, "ms", note=f"the work alone: {NODE_S * 1000 / at_once:.1f} ms"
    )


def _newcomer(found: Stage) -> Figure:
    """Runs of one node, one after the other, beside a run of 500 that has the fleet and the queue full."""
    large: Parents = {f"n{i}": [] for i in range(500)}
    found.submit(found.plan(large, slots=500, seconds=dict.fromkeys(large, 4 * NODE_S)), "large")
    found.wait(lambda: found.ledger.in_flight().get("fleet", 0) >= SLOTS - 1, 30, "a full fleet")
    one = found.plan({"a": []}, slots=1, seconds={"a": NODE_S})
    times = [found.run(one, f"newcomer-{i}") / 1000 for i in range(10)]
    left = found.ledger.run("large").nodes_left
    found.closed_ms("large")
    note = f"p95 {percentile(times, 0.95):.2f} s; the large run had {left} nodes left"
    return Figure("one node beside a run of 500", median(times), "s", note=note, samples=times)


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index of these values: 1 when all are equal, 1/n when one has everything."""
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values))
