"""What a worker holds while five hundred agents only wait: its proportional set size."""

from __future__ import annotations

from collections.abc import Iterator

import psutil

from bench.figures import Figure
from bench.stage import stage

ATTEMPTS = 500
MOST_MB = 120.0
LONG_S = 600.0


def measure() -> Iterator[Figure]:
    """One threads worker, every slot inside a sleeping runner under a lease of its own."""
    nodes: dict[str, list[str]] = {f"n{i}": [] for i in range(ATTEMPTS)}
    with stage() as found:
        worker = found.start("memory", slots=ATTEMPTS)
        empty = psutil.Process(worker.pid).memory_full_info().pss / 1e6
        plan = found.plan(nodes, slots=ATTEMPTS, seconds=dict.fromkeys(nodes, LONG_S))
        found.submit(plan, "asleep")
        found.wait(lambda: found.ledger.run("asleep").running == ATTEMPTS, 120, "500 attempts")
        found.wait(lambda: found.ledger.workers()[0].busy == ATTEMPTS, 10, "500 renewed leases")
        process = psutil.Process(worker.pid)
        full = sum(p.memory_full_info().pss for p in (process, *process.children(recursive=True))) / 1e6
    note = f"threads -c {ATTEMPTS}; {empty:.0f} MB before; the worker and its children"
    yield Figure("PSS of a worker with 500 sleeping attempts", full, "MB", MOST_MB, note)
