"""kill -9 of one of two workers -> the node that it ran is at its runner's first instruction again.

The shipped lease, renewal and scan; the killed worker leads the reconciliation in about every second
kill, so a new leader has to be found too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.figures import Figure, median
from bench.stage import STAMPING, Stage, stage

KILLS = 10
MOST_MAX_S = 6.0
LONG_S = 120.0


def measure() -> Iterator[Figure]:
    """The slowest of all kills; the median beside it."""
    with stage() as found:
        workers = {name: found.start(name, slots=4, program=STAMPING) for name in ("w0", "w1")}
        times = []
        for kill in range(KILLS):
            run_id = f"kill-{kill}"
            found.submit(found.plan({"only": []}, slots=1, seconds={"only": LONG_S}), run_id)
            _wait_begun(found, run_id, 1)
            name = found.ledger.node(run_id, "only").worker.partition("@")[0]
            killed = time.time()
            found.stop(workers[name])
            times.append(_wait_begun(found, run_id, 2) - killed)
            found.ledger.control(run_id, "cancel")
            workers[name] = found.start(name, slots=4, program=STAMPING)
    note = f"slowest of {KILLS}; median {median(times):.1f}"
    yield Figure("kill -9 of a worker -> its node's runner again", max(times), "s", MOST_MAX_S, note, times)


def _wait_begun(found: Stage, run_id: str, times: int) -> float:
    """When the runner of the run's only node began for the n-th time (seconds since the epoch)."""

    def stamps() -> list[int]:
        return [at for run, _, at in found.stamped() if run == run_id]

    found.wait(lambda: len(stamps()) >= times, 60, f"begin {times} of {run_id}")
    return stamps()[times - 1] / 1e9
