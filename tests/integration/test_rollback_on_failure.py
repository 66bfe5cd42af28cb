"""`on_failure: rollback`, whoever closes the run: its integration may have died just before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.ledgers import RUN, states, validate_run
from helpers.workers import Stage, noop_plan, stage

from agentflow import runs
from agentflow.canvas.opening import open_in_ledger
from agentflow.errors import InfraError
from agentflow.recovery import undoing
from agentflow.runs import closing
from agentflow.runs.following import canvas_of
from agentflow.states import NodeState, RunState
from agentflow.store import keys, restoring
from agentflow.store.records import INTEGRATE
from agentflow.tasks.context import Context
from agentflow.tasks.maintenance import Reconciler

UNDONE = {"a": "cancelled", "b": "failed", INTEGRATE: "failed"}
KEPT = {"a": "succeeded", "b": "failed", INTEGRATE: "failed"}


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A run whose `a` has succeeded and whose `b` has failed; no worker is left."""
    with stage(redis_url, tmp_path) as found:
        plan = noop_plan({"a": [], "b": ["a"]})
        plan = plan.model_copy(update={"timeout_s": 60.0, "on_failure": "rollback"})
        open_in_ledger(found.ledger, RUN, plan, project="", repo="", root="")
        end(found, "a", NodeState.SUCCEEDED)
        end(found, "b", NodeState.FAILED)
        yield found


def end(house: Stage, node: str, state: NodeState, **facts: str) -> int:
    taken = house.ledger.claim(RUN, node, worker="w1", ttl_ms=3000)
    assert taken.granted
    assert house.ledger.settle(RUN, node, taken.fence, state, facts=facts).head[0] == "settled"
    return taken.fence


def test_the_leader_rolls_back_what_it_closes(house: Stage) -> None:
    end(house, INTEGRATE, NodeState.FAILED, result="", closing="failed")
    Reconciler(Context(house.config, house.app), "me").scan()
    assert house.ledger.run(RUN).state is RunState.FAILED
    assert states(house.ledger) == UNDONE
    assert house.ledger.run(RUN).reason.endswith("rolled back to start")
    validate_run(house.ledger)


def test_the_leader_closes_a_run_whose_rollback_fails(house: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise InfraError("its objects are elsewhere", code="AF-INFRA-014")

    end(house, INTEGRATE, NodeState.FAILED, result="", closing="failed")
    with monkeypatch.context() as patched:
        patched.setattr(undoing, "after_failure", fails)
        Reconciler(Context(house.config, house.app), "me").scan()
    assert house.ledger.run(RUN).state is RunState.FAILED
    assert states(house.ledger) == KEPT
    runs.resume(RUN, config=house.config)
    assert states(house.ledger) == {"a": "ready", "b": "pending", INTEGRATE: "pending"}


def test_who_follows_rolls_back_what_it_closes(house: Stage) -> None:
    """The run is past its time, and no worker does what is left."""
    ledger = house.ledger
    ledger.client.hset(keys.run(RUN), mapping={"opened_ms": 1, "since_ms": 1})
    closing.look_after(
        ledger, RUN, config=house.config, canvas_of=lambda run: canvas_of(ledger, run, house.config)
    )
    assert ledger.run(RUN).state is RunState.FAILED
    assert states(ledger) == UNDONE
    validate_run(ledger)


def test_a_resume_does_what_nobody_did_before(house: Stage) -> None:
    fence = end(house, INTEGRATE, NodeState.FAILED)
    house.ledger.close(RUN, RunState.FAILED, reason="failed: b", fence=fence)
    assert states(house.ledger) == KEPT
    assert runs.resume(RUN, config=house.config) is RunState.OPEN
    assert states(house.ledger) == {"a": "ready", "b": "pending", INTEGRATE: "pending"}
    validate_run(house.ledger)


def test_what_is_restored_after_a_loss_has_not_failed(house: Stage) -> None:
    """The ledger says so of it until it is opened again, and its settled work is what is wanted of it."""
    fence = end(house, INTEGRATE, NodeState.FAILED)
    house.ledger.close(RUN, RunState.FAILED, reason=restoring.RESTORED, fence=fence)
    runs.resume(RUN, config=house.config)
    assert states(house.ledger) == {"a": "succeeded", "b": "ready", INTEGRATE: "pending"}


def test_a_cancelled_run_keeps_what_it_has(house: Stage) -> None:
    assert runs.cancel(RUN, config=house.config) is RunState.CANCELLED
    assert states(house.ledger) == KEPT
