"""What the live view costs: a run with a hundred nodes at work, watched in a terminal.

`agentflow watch` draws on a pty of 120 x 40 while three hundred no-op nodes sleep for two to twelve seconds,
a hundred at a time. Counted is the processor time of the watching process, from its first picture to the end
of the run, against the time that passed. Watching with plain lines is measured beside it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import random
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import psutil

from bench import shapes
from bench.figures import Figure
from bench.stage import Stage, stage

SLOTS = 100
LAYERS = 3
COLUMNS, ROWS = 120, 40
SHORTEST_S, LONGEST_S = 2.0, 12.0
MOST_PERCENT = 5.0


def measure() -> Iterator[Figure]:
    """The live view against its target, and plain lines for comparison."""
    with stage() as found:
        found.start("watched", slots=SLOTS)
        random.seed(1)
        parents = shapes.layers(LAYERS, SLOTS, parents=1)
        seconds = {node: random.uniform(SHORTEST_S, LONGEST_S) for node in parents}
        plan = found.plan(parents, slots=SLOTS, seconds=seconds)
        for progress, most in (("tty", MOST_PERCENT), ("plain", None)):
            run_id = f"watched-{progress}"
            found.submit(plan, run_id)
            percent, wall, written = _watch(found, run_id, progress)
            note = f"of a core over {wall:.0f} s; {written / wall / 1024:.1f} KB/s written"
            yield Figure(f"watching 100 nodes, {progress}", percent, "%", most, note)


def _watch(found: Stage, run_id: str, progress: str) -> tuple[float, float, int]:
    """Percent of a core, seconds, and bytes that were written to the terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    words = ["watch", run_id, "--no-land", "--progress", progress]
    process = subprocess.Popen(
        [sys.executable, "-m", "agentflow.cli.main", *words],
        cwd=found.directory, env=found.env | {"TERM": "xterm-256color"},
        stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    first, count = threading.Event(), [0]

    def read() -> None:
        try:
            while chunk := os.read(master, 65536):
                count[0] += len(chunk)
                first.set()
        except OSError:  # the program has closed its end
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    if not first.wait(60):
        raise TimeoutError("the view did not appear")
    watched = psutil.Process(process.pid)
    before, began = watched.cpu_times(), time.monotonic()
    found.wait(lambda: run_id not in found.ledger.open_runs(), 300, run_id)
    after, wall = watched.cpu_times(), time.monotonic() - began
    process.wait(60)
    reader.join(5)
    os.close(master)
    spent = after.user + after.system - before.user - before.system
    return 100 * spent / wall, wall, count[0]
