"""A runner that does nothing for a while: for benchmarks and for tests of everything around it."""

from __future__ import annotations

import time

from agentflow.environment import Environment, Job, Outcome, Usage
from agentflow.errors import AttemptTimeout


class NoopRunner:
    """Sleeps `seconds` of its configuration (default 0); a stop or the deadline cuts it short."""

    def run(self, job: Job, environment: Environment) -> Outcome:  # noqa: ARG002 - the protocol's shape
        """Spend and sleep; raises `BudgetReached`, `AttemptCancelled` or `AttemptTimeout` like any runner."""
        for _ in range(int(job.runner.get("calls") or 1)):
            self._spend(job)
        seconds = float(job.runner.get("seconds") or 0.0)
        left = job.deadline - time.monotonic()
        job.stop.wait(min(seconds, max(0.0, left)))
        job.stop.check()
        if seconds > left:
            raise AttemptTimeout(f"the no-op of {seconds:g} s did not fit into the attempt's deadline")
        return Outcome(summary="nothing to do")

    def _spend(self, job: Job) -> None:
        """Pay for a call that nobody makes, as a model's is paid."""
        cost = Usage(
            calls=1,
            input_tokens=int(job.runner.get("tokens") or 0),
            cost_usd=float(job.runner.get("usd") or 0.0),
        )
        if cost.input_tokens or cost.cost_usd:
            job.meter.reserve(cost)
            job.meter.charge(cost)
