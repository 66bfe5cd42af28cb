"""A process with something odd about it: run in place of `celery` or of `agentflow`.

    odd_worker.py celery worker -c 4 ...        odd_worker.py agentflow run feature.yaml ...

`ODD_CLOCK_S`: seconds that its wall clock is off (the monotonic one is right). `ODD_SCHEMA`: the schema that
it knows. `ODD_TENFOLD`: a seed; every message that it sends goes out ten times, in any order.
"""

from __future__ import annotations

import copy
import os
import random
import sys
import threading
import time
import uuid
from typing import Any

#: How often a message goes out.
TIMES = 10
#: The longest time that one of them is late, in seconds.
LATE_S = 0.5


def shift_clock(seconds: float) -> None:
    """Let `time.time` be wrong in this process. (Under libfaketime Python's sleep would fail.)"""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1e9)


def send_tenfold(seed: int) -> None:
    """Let every message to a queue go out ten times: at either end of it, now or a little later."""
    from agentflow.broker import Channel

    rng, put = random.Random(seed), Channel._put

    def put_often(self: Any, queue: str, message: dict[str, Any], **more: Any) -> None:
        put(self, queue, message, **more)
        if "pidbox" in queue or "reply" in queue:
            return
        for _ in range(TIMES - 1):
            twin = copy.deepcopy(message)
            twin["properties"]["delivery_tag"] = str(uuid.uuid4())
            threading.Timer(rng.uniform(0, LATE_S), _push, (self, queue, twin, rng.random())).start()

    def _push(channel: Any, queue: str, message: dict[str, Any], side: float) -> None:
        from kombu.utils.json import dumps

        key = channel._q_for_pri(queue, rng.randrange(10))
        try:
            with channel.conn_or_acquire() as client:
                (client.lpush if side < 0.5 else client.rpush)(key, dumps(message))
        except Exception:  # noqa: BLE001 (a copy that is lost is no loss)
            return

    Channel._put = put_often  # type: ignore[method-assign]


def become_odd() -> None:
    """What the environment asks for; before agentflow is imported by anybody else."""
    if shift := os.environ.get("ODD_CLOCK_S"):
        shift_clock(float(shift))
    if schema := os.environ.get("ODD_SCHEMA"):
        from agentflow.store import keys

        keys.SCHEMA_VERSION = schema
    if seed := os.environ.get("ODD_TENFOLD"):
        send_tenfold(int(seed))


if __name__ == "__main__":
    become_odd()
    program, *words = sys.argv[1:]
    if program == "agentflow":
        from agentflow.cli.main import main

        sys.argv = ["agentflow", *words]
        main()
    else:
        from celery.bin.celery import celery

        sys.argv = ["celery", "-A", "agentflow", *words]
        celery()
