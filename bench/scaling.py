"""Five hundred slots, five, and five hundred again, while a run is on and no worker is started anew.

One worker with 500 threads serves a run of nodes that sleep; the limit of the fleet is changed under it.
What is counted is what the ledger has in flight (running, or woken with its message on the way), and what
the worker itself says that it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from bench.figures import Figure
from bench.shapes import Parents
from bench.stage import Stage, stage

SLOTS = 500
FEW = 5
NODE_S = 4.0
NODES = 1800
#: A node that runs when the limit falls is not ended; the rest is the ledger's and the machine's.
MOST_DOWN_S = NODE_S + 2.0
MOST_UP_S = 10.0


def measure() -> Iterator[Figure]:
    """Seconds until what runs has followed the limit, each way."""
    with stage() as found:
        worker = found.start("large", slots=SLOTS)
        found.run(found.plan({"a": []}, slots=1), "warm-up")
        nodes: Parents = {f"n{i}": [] for i in range(NODES)}
        found.ledger.set_limit("fleet", SLOTS)
        plan = found.plan(nodes, slots=NODES, seconds=dict.fromkeys(nodes, NODE_S))
        began = time.perf_counter()
        found.submit(plan, "large")
        filled = _until(found, lambda: _running(found) >= 0.9 * SLOTS, began)
        yield Figure(f"0 to {SLOTS} slots, 90 % at work", filled, "s", MOST_UP_S, note="submit included")
        down = _limit(found, FEW, lambda: _running(found) <= FEW)
        note = f"nodes take {NODE_S:g} s and are not ended"
        yield Figure(f"{SLOTS} to {FEW} slots", down, "s", MOST_DOWN_S, note)
        most = max(_samples(found, 2 * NODE_S))
        yield Figure(f"most at work under a limit of {FEW}", most, "nodes", float(FEW))
        up = _limit(found, SLOTS, lambda: _running(found) >= 0.9 * SLOTS)
        yield Figure(f"{FEW} to {SLOTS} slots, 90 % at work", up, "s", MOST_UP_S)
        found.closed_ms("large")
        yield Figure("workers started anew", float(worker.poll() is not None), "", 0.0)


def _limit(found: Stage, slots: int, followed: Callable[[], bool]) -> float:
    """Change the limit, send what it wakes (as `agentflow scale` does), wait until it is followed."""
    began = time.perf_counter()
    found.send_others(found.ledger.set_limit("fleet", slots))
    return _until(found, followed, began)


def _until(found: Stage, probe: Callable[[], bool], began: float) -> float:
    found.wait(probe, 60, "what runs follows the limit")
    return time.perf_counter() - began


def _running(found: Stage) -> int:
    """Attempts that hold a lease, and so run."""
    return len(found.ledger.leases())


def _samples(found: Stage, seconds: float) -> list[float]:
    """What runs, looked at every 20 ms."""
    until = time.perf_counter() + seconds
    seen: list[float] = []

    def over() -> bool:
        seen.append(float(_running(found)))
        return time.perf_counter() > until

    found.wait(over, seconds + 10, "a look at what runs")
    return seen
