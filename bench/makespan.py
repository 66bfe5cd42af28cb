"""Time of a whole run over its lower bound, max(critical path, work / slots), on random DAGs.

Sleeping nodes, so that what is measured is waiting: for a message, for a slot, for a node that is not
one's parent. Each DAG runs twice: the second time its ranks are the durations that the first has measured.
Beside it the same DAGs as plain Celery runs them, level by level: a chain of chords.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping

from celery import chain, chord, group

from agentflow import graph
from agentflow.canvas.ranks import ranked
from agentflow.store.durations import read_durations
from bench import shapes
from bench.bare import make_bare
from bench.figures import Figure, median, spread
from bench.stage import Stage, stage

SLOTS = 8
SEEDS = range(20)
MOST_MEDIAN = 1.06


def measure() -> Iterator[Figure]:
    """All on every seed, none left out."""
    ours, again, levels = [], [], []
    with stage() as found:
        found.start("makespan", slots=SLOTS)
        found.run(found.plan(shapes.diamonds(3), slots=SLOTS), "warm-up")
        for seed in SEEDS:
            parents, seconds = shapes.sleepers(seed)
            plan = found.plan(parents, slots=SLOTS, seconds=seconds)
            least_ms = bound(parents, seconds) * 1000
            ours.append(found.run(plan, f"seed-{seed}", project=f"p{seed}") / least_ms)
            plan = ranked(plan, read_durations(found.ledger.client, f"p{seed}"))
            again.append(found.run(plan, f"seed-{seed}-again", project=f"p{seed}") / least_ms)
    yield Figure(
        "makespan over its bound, 20 DAGs of 60 nodes", median(ours), "x", MOST_MEDIAN, spread(ours), ours
    )
    yield Figure("  again, with what was measured", median(again), "x", MOST_MEDIAN, spread(again), again)
    with stage() as found:
        found.env["BENCH_BROKER"] = found.config.broker_url()
        found.launch("levels", slots=SLOTS, program=("-m", "celery", "-A", "bench.bare"))
        _by_levels(found, {"a": []}, {"a": 0.0})
        for seed in SEEDS:
            parents, seconds = shapes.sleepers(seed)
            levels.append(_by_levels(found, parents, seconds) / bound(parents, seconds))
    yield Figure(
        "  level by level, Celery's own chords", median(levels), "x", note=spread(levels), samples=levels
    )


def bound(parents: Mapping[str, list[str]], seconds: Mapping[str, float]) -> float:
    """Seconds below which no schedule on `SLOTS` slots can end."""
    critical = sum(seconds[node] for node in graph.critical_path(parents, seconds))
    return max(critical, sum(seconds.values()) / SLOTS)


def _by_levels(found: Stage, parents: Mapping[str, list[str]], seconds: Mapping[str, float]) -> float:
    """Seconds that plain Celery takes: each level a chord whose body (a no-op) starts the next level."""
    app = make_bare(found.config.broker_url())
    task = app.tasks["bench.sleep"]
    steps = [
        chord(group([task.si(seconds[n]) for n in wave], app=app), task.si()) for wave in graph.waves(parents)
    ]
    began = time.perf_counter()
    result = chain(*steps, app=app).apply_async() if len(steps) > 1 else steps[0].apply_async()
    found.wait(result.ready, 120, "levels")
    took = time.perf_counter() - began
    # Results refer to each other and unsubscribe when they are collected: before the server goes.
    del result
    gc.collect()
    return took
