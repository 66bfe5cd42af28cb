"""Bad messages on every queue: no worker ends, none comes round again, each is told of, and work goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from chaos import poison
from helpers.wait import wait_until
from helpers.workers import Stage, noop_plan, stage

from agentflow.store.fleet import Fleet

ROLE, SYSTEM = "implementer", "agentflow.system"


def is_drunk(found: Stage, queues: tuple[str, ...]) -> bool:
    """Whether nothing lies in the queues and nobody holds a message."""
    return not any(
        Fleet(found.ledger.client).queue_lengths(queues).values()
    ) and not found.ledger.client.exists("unacked")


@pytest.mark.parametrize("queue", [ROLE, SYSTEM])
def test_a_queue_full_of_poison(queue: str, redis_url: str, tmp_path: Path) -> None:
    with stage(redis_url, tmp_path) as found:
        worker = found.start()
        found.submit(noop_plan({"a": []}), "before")
        found.wait_closed("before", 120)
        bad = poison.messages(ROLE, "before", "a")
        poison.pour(found.ledger.client, queue, bad, random.Random(queue))
        wait_until(
            lambda: is_drunk(found, (ROLE, SYSTEM)), timeout=180, what="all of it was taken and dropped"
        )
        found.submit(noop_plan({"a": [], "b": ["a"]}), "after")
        found.wait_closed("after", 120)
        assert worker.process.poll() is None
        assert {n.state for n in found.ledger.nodes("after").values()} == {"succeeded"}
        said = worker.log.read_text(errors="replace")
        assert said.count("dropped") > 20
        assert "Unrecoverable" not in said
