"""`celery -A agentflow` with a no-op runner that writes down when its first instruction ran."""

from __future__ import annotations

import os
import sys
import time

from celery.bin.celery import celery

from agentflow.environment import Environment, Job, Outcome
from agentflow.runners import registry
from agentflow.runners.noop import NoopRunner


class StampingRunner(NoopRunner):
    """Appends `run node nanoseconds` to the file that BENCH_STAMPS names, then sleeps as a no-op does."""

    def run(self, job: Job, environment: Environment) -> Outcome:
        """The stamp is taken first; the write follows it."""
        now = time.time_ns()
        handle = os.open(os.environ["BENCH_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{job.run} {job.node} {now}\n".encode())
        finally:
            os.close(handle)
        return super().run(job, environment)


if __name__ == "__main__":
    # The worker imports this file again under its own name; the registry keeps places, not classes.
    registry.RUNNERS["noop"] = "bench.worker:StampingRunner"
    sys.argv = ["celery", "-A", "agentflow", *sys.argv[1:]]
    celery()
