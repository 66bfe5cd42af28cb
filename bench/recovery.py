"""kill -9 of one of two workers -> the node that it ran is at its runner's first instruction again.

The shipped lease, renewal and scan; the killed worker leads the reconciliation in about every second
kill, so a new leader has to be found too. Beside it Celery's own redelivery (`bench/celery_defaults.py`),
with a visibility timeout that one can wait for: what it takes beyond that timeout does not depend on it,
so with the default of an hour it is an hour and as much. Net is what is left from the end of the dead
worker's lease on: before it nobody may take the node.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import celery_defaults
from bench.figures import Figure, median, percentile
from bench.stage import STAMPING, Stage, stage

KILLS = 50
MOST_P95_S, MOST_MAX_S = 4.0, 5.0
LONG_S = 120.0
#: Seconds of the comparator: its timeout, how long one waits beyond it, and tasks of the killed worker.
VISIBILITY_S, PATIENCE_S, TASKS = 5, 180.0, 2


def measure() -> Iterator[Figure]:
    """Percentile and slowest of all kills, none left out; then Celery's."""
    with stage() as found:
        workers = {name: found.start(name, slots=4, program=STAMPING) for name in ("w0", "w1")}
        times, net = [], []
        for kill in range(KILLS):
            run_id = f"kill-{kill}"
            found.submit(found.plan({"only": []}, slots=1, seconds={"only": LONG_S}), run_id)
            _wait_begun(found, run_id, 1)
            name = found.ledger.node(run_id, "only").worker.partition("@")[0]
            killed = time.time()
            found.stop(workers[name])
            lapse = max(found.ledger.leases().values()) / 1000
            again = _wait_begun(found, run_id, 2)
            times.append(again - killed)
            net.append(again - lapse)
            found.ledger.control(run_id, "cancel")
            workers[name] = found.start(name, slots=4, program=STAMPING)
    note = f"of {KILLS}; median {median(times):.1f}"
    p95 = percentile(times, 0.95)
    yield Figure("kill -9 -> its node's runner again, p95", p95, "s", MOST_P95_S, note, times)
    yield Figure("  the slowest", max(times), "s", MOST_MAX_S, note)
    note = f"median {median(net):.2f}, slowest {max(net):.2f}"
    yield Figure(
        "  net, after the lease has run out, p95", percentile(net, 0.95), "s", note=note, samples=net
    )
    with stage() as found:
        times = _celery(found)
    name = f"  Celery's redelivery, visibility timeout {VISIBILITY_S} s"
    default = celery_defaults.DEFAULT_VISIBILITY_S
    note = f"late acks; with the default of {default} s: {default - VISIBILITY_S + max(times):,.0f}"
    yield Figure(name, max(times), "s", note=note, samples=times)


def _wait_begun(found: Stage, run_id: str, times: int) -> float:
    """When the runner of the run's only node began for the n-th time (seconds since the epoch)."""

    def stamps() -> list[int]:
        return [at for run, _, at in found.stamped() if run == run_id]

    found.wait(lambda: len(stamps()) >= times, 60, f"begin {times} of {run_id}")
    return stamps()[times - 1] / 1e9


def _celery(found: Stage) -> list[float]:
    """Seconds from the kill to the second start of each task that the killed worker ran."""
    url = found.config.broker_url()
    found.env |= {"BENCH_BROKER": url, "BENCH_VISIBILITY_S": str(VISIBILITY_S)}
    program = ("-m", "celery", "-A", "bench.celery_defaults")
    first = found.launch("first", slots=TASKS, program=(*program,))
    app = celery_defaults.make(url, VISIBILITY_S)
    names = [f"task-{number}" for number in range(TASKS)]
    for name in names:
        app.tasks["defaults.stamp"].delay(name, LONG_S)

    def starts(name: str) -> list[float]:
        return [at / 1e9 for _, task, at in found.stamped() if task == name]

    found.wait(lambda: all(starts(name) for name in names), 60, "first starts")
    # The survivor comes now, so that what it does is wait for the messages of the other one.
    found.launch("second", slots=TASKS, program=program)
    found.wait(lambda: _consumers(found) > 1, 60, "the second worker")
    killed = time.time()
    found.stop(first)
    found.wait(lambda: all(len(starts(n)) > 1 for n in names), VISIBILITY_S + PATIENCE_S, "redelivery")
    return [starts(name)[1] - killed for name in names]


def _consumers(found: Stage) -> int:
    """Connections that wait for a message."""
    return sum(1 for client in found.ledger.client.client_list() if client["cmd"] == "brpop")
