"""What is kept of an attempt that talks to a model: notes in its log, and the whole conversation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TextIO

from agentflow.environment import Job
from agentflow.llm.endpoint import Endpoint


def note(log: TextIO, text: str) -> None:
    """One entry of the attempt's log, with the time for people."""
    log.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def save(
    job: Job, endpoint: Endpoint, messages: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Write the transcript: JSON lines, first the head (with these facts), then one message a line."""
    head = {
        "run": job.run,
        "node": job.node,
        "attempt": job.attempt,
        "model": endpoint.model,
        "base_url": endpoint.base_url,
        **facts,
        "usage": asdict(job.meter.usage),
    }
    job.transcript.parent.mkdir(parents=True, exist_ok=True)
    with job.transcript.open("w", encoding="utf-8", errors="replace") as file:
        for record in (head, *messages):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
