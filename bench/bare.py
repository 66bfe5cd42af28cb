"""The comparator: plain Celery with agentflow's own celeryconfig.py, a task that sleeps, nothing else."""

from __future__ import annotations

import os
import time

from celery import Celery

from agentflow.app import queue, settings

#: Plain tasks go where nothing of agentflow listens.
QUEUE = "bench"


def make_bare(url: str) -> Celery:
    """The application that sends; the worker (`celery -A bench.bare`) gets its URL from BENCH_BROKER."""
    app = Celery("bench", set_as_current=False)
    app.config_from_object(settings())
    app.conf.update(broker_url=url, result_backend=url, task_queues=[queue(QUEUE)], task_default_queue=QUEUE)
    app.task(name="bench.sleep")(sleep)
    return app


def sleep(seconds: float = 0.0) -> None:
    """What a no-op node's runner does."""
    if seconds:
        time.sleep(seconds)


#: What `celery -A bench.bare` finds.
celery = make_bare(os.environ.get("BENCH_BROKER", "memory://"))
