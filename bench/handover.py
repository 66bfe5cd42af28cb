"""From the settlement of a parent (the last one, at a join) to the first instruction of its child's runner.

An idle worker: each node sleeps 50 ms, one or two run at a time. The settlement is the ledger's time
(Redis' clock, cut to milliseconds, so up to 1 ms is counted too much), the first instruction the
runner's own (`bench/worker.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from agentflow.canvas.plan import Plan
from bench import shapes
from bench.figures import Figure, percentile
from bench.stage import STAMPING, Stage, stage

SLOTS = 8
PAUSE_S = 0.05
MOST_P50_MS = 20.0


def measure() -> Iterator[Figure]:
    """By the way that the child's message takes, and all together."""
    with stage() as found:
        found.start("handover", slots=SLOTS, program=STAMPING)
        line, ladder = shapes.line(65), shapes.diamonds(30)
        found.run(found.plan(shapes.diamonds(3), slots=SLOTS), "warm-up")
        by_way: dict[str, list[float]] = {"chain": [], "fork": [], "join": []}
        for name, parents in (("line", line), ("ladder", ladder)):
            plan = found.plan(parents, slots=SLOTS, seconds=dict.fromkeys(parents, PAUSE_S))
            found.run(plan, name)
            for node, ms in latencies(found, plan, name).items():
                by_way[_way(name, node)].append(ms)
    everything = [ms for samples in by_way.values() for ms in samples]
    yield _figure("parent settled -> child's runner, no-op", everything, MOST_P50_MS)
    for way, samples in by_way.items():
        yield _figure(f"  through a {way}", samples)


def latencies(found: Stage, plan: Plan, run_id: str) -> dict[str, float]:
    """Milliseconds by node, for every node that has a parent."""
    settled = {e.node: e.at_ms for e in found.events(run_id) if e.kind == "node.settled"}
    began = {node: at / 1e6 for run, node, at in found.stamped() if run == run_id}
    return {
        node: began[node] - max(settled[p] for p in parents)
        for node, parents in plan.parents.items()
        if parents
    }


def _way(shape: str, node: str) -> str:
    if shape == "line":
        return "chain"
    return "join" if node.startswith("j") else "fork"


def _figure(name: str, samples: list[float], most: float | None = None) -> Figure:
    note = f"p50 of {len(samples)}; p95 {percentile(samples, 0.95):.1f}, max {max(samples):.1f}"
    return Figure(name, percentile(samples, 0.5), "ms", most, note, samples)
