"""`celery -A agentflow` whose no-op runner talks to the provider at BENCH_PROVIDER until it is stopped."""

from __future__ import annotations

import os
import sys

from celery.bin.celery import celery

from agentflow.environment import Environment, Job, Outcome
from agentflow.llm.client import ChatModel
from agentflow.llm.endpoint import Endpoint
from agentflow.runners import registry

#: What is said with every call: some hundred tokens.
WORDS = "Say something about the weather. " * 40


class TalkingRunner:
    """One conversation without an end, through the attempt's own gate."""

    def run(self, job: Job, environment: Environment) -> Outcome:
        """Ask again and again; a stop raises."""
        del environment
        endpoint = Endpoint(base_url=os.environ["BENCH_PROVIDER"], model="metered", max_output_tokens=600)
        model = ChatModel(
            endpoint, stop=job.stop, deadline=job.deadline, charge=job.meter.charge, gate=job.gate
        )
        with model:
            while True:
                model.complete([{"role": "user", "content": WORDS}])


if __name__ == "__main__":
    # The worker imports this file again under its own name; the registry keeps places, not classes.
    registry.RUNNERS["noop"] = "bench.talker:TalkingRunner"
    sys.argv = ["celery", "-A", "agentflow", *sys.argv[1:]]
    celery()
