"""Ten thousand nodes that nobody disturbs, on two workers: no runner may start twice.

Every runner writes down its first instruction; a message that came twice, a lease that was taken for
dead or a join that fired twice would show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bench import shapes
from bench.figures import Figure
from bench.stage import STAMPING, stage

RUNS, SLOTS = 10, 8


def measure() -> Iterator[Figure]:
    """Starts beyond the first, and nodes without one."""
    with stage() as found:
        for name in ("w0", "w1"):
            found.start(name, slots=SLOTS, program=STAMPING)
        plan = found.plan(shapes.layers(10, 100, parents=3), slots=2 * SLOTS)
        for number in range(RUNS):
            found.run(plan, f"calm-{number}")
        starts = Counter((run, node) for run, node, _ in found.stamped())
    nodes = RUNS * len(plan.nodes)
    twice = sum(starts.values()) - len(starts)
    yield Figure(f"runners started twice, {nodes:,} nodes", twice, "nodes", 0.0, "two workers, 16 slots")
    yield Figure("  never started", nodes - len(starts), "nodes", 0.0)
