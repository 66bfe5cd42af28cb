"""`celery -A agentflow` that counts its requests to Redis: one for each write to a connection.

A pipeline or a transaction is one request. Whose it is, its bytes say: `arrivals` (a chord's keys),
`ledger` (agentflow's keys, or one of its scripts), `celery` (all others). The counts go to the file that
BENCH_COUNTS names, as JSON, ten times a second.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from celery.bin.celery import celery
from redis.connection import AbstractConnection

COUNTS: Counter[str] = Counter()
EVERY_S = 0.1
_LOCK = threading.Lock()
_SEND = AbstractConnection.send_packed_command


def send_packed_command(self: AbstractConnection, command: Any, *args: Any, **kwargs: Any) -> Any:
    """The original, counted."""
    parts = [command] if isinstance(command, bytes | str) else list(command)
    with _LOCK:
        COUNTS[kind_of(b"".join(p if isinstance(p, bytes) else p.encode() for p in parts))] += 1
    return _SEND(self, parts, *args, **kwargs)  # type: ignore[no-untyped-call]


def kind_of(request: bytes) -> str:
    """Whose request it is."""
    if b"celery-taskset-meta" in request:
        return "arrivals"
    if b"EVALSHA" in request or b"\r\naf:" in request:
        return "ledger"
    return "celery"


def _write() -> None:
    place = Path(os.environ["BENCH_COUNTS"])
    while True:
        with _LOCK:
            text = json.dumps(COUNTS)
        place.with_suffix(".new").write_text(text)
        place.with_suffix(".new").replace(place)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    AbstractConnection.send_packed_command = send_packed_command  # type: ignore[method-assign]
    threading.Thread(target=_write, daemon=True).start()
    sys.argv = ["celery", "-A", "agentflow", *sys.argv[1:]]
    celery()
