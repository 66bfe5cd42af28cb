"""Workers of two schemas on one Redis: the older one takes nothing and says why; others do its work."""

from __future__ import annotations

from pathlib import Path

from chaos.theatre import ODD
from helpers.wait import wait_until
from helpers.workers import Stage, Worker, noop_plan, stage

from agentflow.errors import Exit
from agentflow.store import keys

OLD = str(int(keys.SCHEMA_VERSION) - 1)


def start_old(found: Stage, name: str = "old", *, wait: bool = False) -> Worker:
    """A worker that knows the previous schema."""
    return found.start(name, env={"ODD_SCHEMA": OLD}, program=(ODD, "celery"), wait=wait)


def reason_of(found: Stage, worker: Worker) -> str:
    """What the register says of a worker that does not serve."""
    return "".join(w.reason for w in found.ledger.workers() if w.name == worker.name)


def test_a_worker_of_the_previous_schema_takes_nothing(redis_url: str, tmp_path: Path) -> None:
    """It comes while the fleet is of the present one: its work goes to another worker."""
    with stage(redis_url, tmp_path) as found:
        new = found.start("new")
        old = start_old(found)
        assert old.process.wait(120) == Exit.INFRA
        assert f"schema {keys.SCHEMA_VERSION}" in reason_of(found, old)
        found.submit(noop_plan({"a": [], "b": ["a"]}))
        found.wait_closed(seconds=180)
        assert {n.worker for n in found.ledger.nodes("run-1").values()} == {new.name}
        assert "Traceback" not in old.log.read_text()


def test_a_worker_that_the_fleet_has_left_behind(redis_url: str, tmp_path: Path) -> None:
    """It was cut off while the others were upgraded, and comes back: it stops at once, and what it had runs
    elsewhere.
    """
    with stage(redis_url, tmp_path) as found:
        found.ledger.client.set(keys.SCHEMA, OLD)
        old = start_old(found, wait=True)
        found.submit(noop_plan({"a": [], "b": ["a"]}, seconds={"a": 8.0}))
        wait_until(lambda: found.ledger.node("run-1", "a").state == "running", timeout=60)
        found.ledger.client.set(keys.SCHEMA, keys.SCHEMA_VERSION)
        wait_until(lambda: old.process.poll() is not None, timeout=120, what="the old one leaves")
        assert f"schema {keys.SCHEMA_VERSION}" in reason_of(found, old)
        new = found.start("new")
        found.wait_closed(seconds=180)
        nodes = found.ledger.nodes("run-1").values()
        assert {(n.state, n.worker) for n in nodes} == {("succeeded", new.name)}
