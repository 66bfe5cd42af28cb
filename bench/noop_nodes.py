"""A thousand nodes whose runner does nothing: what agentflow itself costs a node.

End to end: from the call that opens the run in the ledger to the ledger's closing of the run, with
claim, settlement, arrivals, results, events and the integration. Redis, worker, submitter and the
messages between them share the machine. Everything is measured three times after a warm-up; the
messages are looked at in one more run, because looking (MONITOR) costs time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from celery import group

from agentflow.canvas.plan import Plan
from bench import shapes
from bench.bare import QUEUE, make_bare
from bench.figures import Figure, median, spread
from bench.stage import Stage, stage

SLOTS = 8
NODES = 1000
ROUNDS = 3
MOST_MS_A_NODE = 4.0
MOST_SUBMIT_S = 1.0
MOST_MESSAGE_KB = 64.0
SHAPES: dict[str, Callable[[], shapes.Parents]] = {
    "10x100": lambda: shapes.layers(10, 100, parents=3),
    "100x10": lambda: shapes.layers(100, 10, parents=3),
    "line of 1,000": lambda: shapes.line(NODES),
}
#: A worker of local mode has 32 slots and a run has -j 4: what is above that parks and is sent again.
LOCAL_SLOTS, LOCAL_JOBS = 32, 4


def measure() -> Iterator[Figure]:
    """Each shape against its targets and against bare Celery."""
    with stage() as found:
        found.start("nodes", slots=SLOTS)
        found.run(found.plan(shapes.layers(3, 10, parents=2), slots=SLOTS), "warm-up")
        bare = _bare_ms(found)
        yield Figure(
            "bare Celery, 1,000 no-op tasks", median(bare), "ms", note="each; " + spread(bare), samples=bare
        )
        for name, make in SHAPES.items():
            yield from _shape(found, name, found.plan(make(), slots=SLOTS), median(bare))
        full = found.plan(shapes.full(10, 50), slots=SLOTS)
        costs = [found.run(full, f"full-{i}") / len(full.nodes) for i in range(ROUNDS)]
        yield Figure("10x50 fully connected, a node", median(costs), "ms", note=spread(costs), samples=costs)
    with stage() as found:
        found.start("local", slots=LOCAL_SLOTS)
        plan = found.plan(shapes.layers(10, 100, parents=3), slots=LOCAL_JOBS)
        found.run(found.plan(shapes.layers(3, 10, parents=2), slots=LOCAL_JOBS), "warm-up")
        costs = [found.run(plan, f"local-{i}") / NODES for i in range(ROUNDS)]
        note = f"-j {LOCAL_JOBS} on {LOCAL_SLOTS} slots; {spread(costs)}"
        yield Figure(
            "10x100 with local mode's numbers, a node", median(costs), "ms", note=note, samples=costs
        )


def _shape(found: Stage, name: str, plan: Plan, bare: float) -> Iterator[Figure]:
    costs, submits = [], []
    for i in range(ROUNDS):
        run_id = f"{name.replace(' ', '-')}-{i}"
        began = time.time()
        found.submit(plan, run_id)
        submits.append(time.time() - began)
        costs.append((found.closed_ms(run_id) - began * 1000) / len(plan.nodes))
    cost = median(costs)
    yield Figure(f"{name}, a node", cost, "ms", MOST_MS_A_NODE, spread(costs), costs)
    yield Figure(f"{name}, over a bare task", cost / bare, "x")
    yield Figure(f"{name}, submit", median(submits), "s", MOST_SUBMIT_S, spread(submits), submits)
    largest, total = _messages(found, plan, f"{name.replace(' ', '-')}-watched")
    note = f"all messages: {total / 1024 / len(plan.nodes):.1f} KB a node"
    yield Figure(f"{name}, largest message", largest / 1024, "KB", MOST_MESSAGE_KB, note)


def _bare_ms(found: Stage) -> list[float]:
    """Milliseconds a task: from sending the first to the last one's acknowledgement."""
    url = found.config.broker_url()
    found.env["BENCH_BROKER"] = url
    worker = found.launch("bare", slots=SLOTS, program=("-m", "celery", "-A", "bench.bare"))
    app = make_bare(url)
    client = found.ledger.client
    waiting = [QUEUE, *(f"{QUEUE}\x06\x16{i}" for i in range(1, 10))]

    def done() -> bool:
        return not client.hlen("unacked") and not client.exists(*waiting)

    costs = []
    for count in (10, *(NODES,) * ROUNDS):
        began = time.perf_counter()
        group([app.tasks["bench.sleep"].si() for _ in range(count)]).apply_async()
        found.wait(done, 120, "bare tasks")
        costs.append((time.perf_counter() - began) * 1000 / count)
    found.stop(worker)
    return costs[1:]


def _messages(found: Stage, plan: Plan, run_id: str) -> tuple[int, int]:
    """Bytes of the largest message of a run, and of all of them, as the broker was given them."""
    sizes: list[int] = []
    ready = threading.Event()

    def watch() -> None:
        client: Any = redis.Redis(unix_socket_path=str(found.redis))
        with client.monitor() as monitor:
            ready.set()
            for command in monitor.listen():
                words = command["command"].split(" ", 2)
                if words[0].upper() in {"LPUSH", "RPUSH"}:
                    sizes.append(len(words[2]))
                elif words[:2] == ["ECHO", run_id]:
                    return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    ready.wait(10)
    found.run(plan, run_id)
    found.ledger.client.echo(run_id)
    watcher.join(60)
    return max(sizes), sum(sizes)
