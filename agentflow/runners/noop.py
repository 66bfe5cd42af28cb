"""A runner that does nothing for a while: for benchmarks and for tests of everything around it."""

from __future__ import annotations

import time

from agentflow.environment import Environment, Job, Outcome
from agentflow.errors import AttemptTimeout


class NoopRunner:
    """Sleeps `seconds` of its configuration (default 0); a stop or the deadline cuts it short."""

    def run(self, job: Job, environment: Environment) -> Outcome:  # noqa: ARG002 - the protocol's shape
        """Sleep; raises `AttemptCancelled` or `AttemptTimeout` like any other runner."""
        seconds = float(job.runner.get("seconds") or 0.0)
        left = job.deadline - time.monotonic()
        job.stop.wait(min(seconds, max(0.0, left)))
        job.stop.check()
        if seconds > left:
            raise AttemptTimeout(f"the no-op of {seconds:g} s did not fit into the attempt's deadline")
        return Outcome(summary="nothing to do")
