"""The comparator of recovery: Celery with its defaults, apart from what makes it deliver again at all.

With its default of early acknowledgement a task whose worker is killed is never started again. So here
`task_acks_late` is on. It starts again when its message has been unacknowledged for
`visibility_timeout` (an hour by default) and somebody sweeps; the time comes from BENCH_VISIBILITY_S.
"""

from __future__ import annotations

import os
import time

from celery import Celery

QUEUE = "defaults"
#: What Celery has when nobody says anything.
DEFAULT_VISIBILITY_S = 3600


def make(url: str, visibility_s: int) -> Celery:
    """The application of sender and worker."""
    app = Celery("defaults", broker=url, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_default_queue=QUEUE,
        broker_transport_options={"visibility_timeout": visibility_s},
        broker_connection_retry_on_startup=True,
    )
    app.task(name="defaults.stamp")(stamp)
    return app


def stamp(name: str, seconds: float) -> None:
    """Write down that it began, then sleep."""
    handle = os.open(os.environ["BENCH_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"celery {name} {time.time_ns()}\n".encode())
    finally:
        os.close(handle)
    time.sleep(seconds)


#: What `celery -A bench.celery_defaults` finds.
celery = make(os.environ.get("BENCH_BROKER", "memory://"), int(os.environ.get("BENCH_VISIBILITY_S", "3600")))
