"""`make demo` after the install: the shipped example, its private Redis and its worker started cold."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from bench.figures import Figure
from bench.stage import ROOT

MOST_S = 30.0
AGENTFLOW = (sys.executable, "-c", "from agentflow.cli.main import main; main()")


def measure() -> Iterator[Figure]:
    """One cold run in a data directory of its own."""
    with tempfile.TemporaryDirectory(prefix="afb-") as name:
        env = {**os.environ, "AGENTFLOW_HOME": f"{name}/home", "PYTHONPATH": str(ROOT)}
        env.pop("AGENTFLOW_REDIS_URL", None)
        began = time.perf_counter()
        try:
            done = subprocess.run(
                [*AGENTFLOW, "demo"], cwd=name, env=env, capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - began
        finally:
            subprocess.run([*AGENTFLOW, "down"], cwd=name, env=env, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"agentflow demo ended with {done.returncode}: {done.stderr[-2000:]}")
    yield Figure("agentflow demo, cold", seconds, "s", MOST_S)
