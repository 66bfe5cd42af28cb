"""How long the command line takes before it does anything."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from bench.figures import Figure, median, spread
from bench.stage import ROOT

ROUNDS = 10
MOST_S = 0.4


def measure() -> Iterator[Figure]:
    """`agentflow --help`, as the console script starts it; the first, cold one is not counted."""
    command = [sys.executable, "-c", "from agentflow.cli.main import main; main()", "--help"]
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - began)
    times = times[1:]
    yield Figure("agentflow --help", median(times), "s", MOST_S, spread(times), times)
