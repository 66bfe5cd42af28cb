"""What is lost on the way is made good by the ledger; without the reconciler the canvas does it alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import crashing_worker
from helpers.ledgers import validate_run
from helpers.wait import wait_until
from helpers.workers import DAG, noop_plan, stage, starts_and_ends

from agentflow.store.records import INTEGRATE


def test_without_the_reconciler_everything_still_ends(redis_url, tmp_path):
    line = {f"l{i}": ([f"l{i - 1}"] if i else []) for i in range(40)}
    with stage(redis_url, tmp_path, {"AGENTFLOW_RECONCILE": "false"}) as found:
        found.start()
        found.submit(noop_plan({**DAG, **line}, optional=["f"]))
        found.wait_closed()
        assert {n.state for n in found.ledger.nodes("run-1").values()} == {"succeeded"}
        validate_run(found.ledger, "run-1")


@pytest.mark.parametrize(
    ("point", "node"),
    [(point, node) for point in crashing_worker.POINTS for node in ("a", "d", "g")]
    # After its settlement the integration closes the run: the same gap as `continued`.
    + [(point, INTEGRATE) for point in crashing_worker.POINTS if point != "continued"],
)
def test_kill_9_between_any_two_steps(redis_url, tmp_path, point, node):
    with stage(redis_url, tmp_path) as found:
        crash = {"CRASH_AT": point, "CRASH_NODE": node, "CRASH_MARK": str(tmp_path / "mark")}
        program = [str(Path(crashing_worker.__file__))]
        doomed = found.start("doomed", program=program, env=crash, wait=False)
        second = found.start("second", program=program, env=crash, wait=False)
        found.submit(noop_plan(DAG))
        found.wait_closed(seconds=40)
        wait_until(lambda: doomed.process.poll() or second.process.poll())
        assert (tmp_path / "mark").exists()
        assert {n.state for n in found.ledger.nodes("run-1").values()} == {"succeeded"}
        starts_and_ends(found, "run-1")
        validate_run(found.ledger, "run-1")
