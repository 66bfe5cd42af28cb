"""Integration: merge all work in the order of the DAG, validate the whole, close the run.

The body of the last chord. It is a node of the ledger like any other (`@integrate`, tolerant of
failed parents), so it is claimed, fenced, renewed and, when its worker dies, done again: merging is
deterministic, so two workers that merge the same commits make the same object.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Ignore, Reject, Retry

from agentflow import failpoints
from agentflow.app import INTEGRATE_TASK, get_app
from agentflow.canvas.plan import Plan
from agentflow.canvas.scope import appends_in
from agentflow.environment import Stop
from agentflow.errors import AgentflowError, AttemptCancelled, InfraError
from agentflow.recovery import undoing
from agentflow.states import TERMINAL, NodeState, RunState
from agentflow.store.client import Unreachable
from agentflow.store.ledger import Claim
from agentflow.store.records import INTEGRATE, NodeRecord
from agentflow.store.scripts import Answer
from agentflow.tasks.attempts import ATTEMPTS
from agentflow.tasks.context import Context, current
from agentflow.tasks.surroundings import Surroundings
from agentflow.transport import keep_work, open_depot, send_logs
from agentflow.workspace import acceptance, clone, merge
from agentflow.workspace.store import Store

log = logging.getLogger("agentflow.integrate")
app = get_app()

#: Seconds that merging and validating may take in all.
INTEGRATE_TIMEOUT_S = 3600.0
#: Troubles (Redis, git, the disk) after which an integration is given up, and the longest back-off.
MAX_TROUBLES = 10
MAX_TROUBLE_DELAY_S = 60.0


class StaleWorkError(AgentflowError):
    """A commit that nobody with the current token has settled is not merged."""

    code = "AF-FENCE-001"


@dataclass(frozen=True, slots=True)
class Closing:
    """How a run ends: its state, the merged commit and the reason."""

    state: RunState
    result: str = ""
    reason: str = ""


@app.task(name=INTEGRATE_TASK, bind=True, acks_late=True)
def integrate(self: Any, run_id: str, node_id: str = INTEGRATE) -> dict[str, Any]:
    """Merge, validate and close a run."""
    context = current()
    if ATTEMPTS.closed:
        raise Reject("this worker is leaving", requeue=True)
    claim = context.ledger.claim(
        run_id, node_id, worker=str(self.request.hostname), ttl_ms=context.config.lease_ttl_ms
    )
    context.send_woken(run_id, claim.answer)
    if not claim.granted:
        if claim.reason == "unknown":
            log.warning("a message for %.60r of run %.60r was dropped: no such node", node_id, run_id)
        raise Ignore
    failpoints.at("integrate.claimed", run_id)
    with ATTEMPTS.holding(run_id, node_id, claim.fence, INTEGRATE_TIMEOUT_S) as held:
        try:
            closing = _conclude(context, run_id, held.stop, held.deadline)
            folder = context.run_dir(run_id) / "logs"
            send_logs(context.config, context.known(run_id).run, folder, "validation")
        except (InfraError, AttemptCancelled, OSError, *Unreachable) as error:
            return _again(context, run_id, claim, str(error))
        except AgentflowError as error:
            closing = Closing(_state_of(error), reason=error.what)
        except Exception as error:  # the boundary of the integration: a defect of ours must not hang the run
            log.exception("the integration of run %s broke", run_id)
            return _again(context, run_id, claim, f"{type(error).__name__}: {error}")
        return _close(context, run_id, claim, closing)


def _state_of(error: AgentflowError) -> RunState:
    return RunState.CONFLICT if error.exit_code.name == "CONFLICT" else RunState.FAILED


def _again(context: Context, run_id: str, claim: Claim, reason: str) -> dict[str, Any]:
    """Not the work's fault: try again a little later, but not for ever."""
    troubles = context.ledger.node(run_id, INTEGRATE).troubles
    if troubles + 1 >= MAX_TROUBLES:
        why = f"the integration was given up after {MAX_TROUBLES} attempts: {reason}"
        return _close(context, run_id, claim, Closing(RunState.FAILED, reason=why))
    delay_ms = int(1000 * min(MAX_TROUBLE_DELAY_S, 2.0**troubles))
    answer = context.ledger.requeue(
        run_id, INTEGRATE, claim.fence, reason=reason, counter="troubles", delay_ms=delay_ms
    )
    context.resend(run_id, answer, generation=claim.generation)
    raise Retry(reason)


def _close(context: Context, run_id: str, claim: Claim, closing: Closing) -> dict[str, Any]:
    """Settle the node first (the fence decides), then close the run."""
    good = closing.state is RunState.READY_TO_LAND
    failpoints.at("integrate.validated", run_id)
    answer = context.ledger.settle(
        run_id,
        INTEGRATE,
        claim.fence,
        NodeState.SUCCEEDED if good else NodeState.FAILED,
        reason=closing.reason,
        facts={"result": closing.result, "closing": closing.state.value},
    )
    if answer.head[0] == "superseded":
        raise Ignore
    failpoints.at("integrate.settled", run_id)
    context.send_woken(run_id, answer)

    def send(moved: Answer) -> None:
        failpoints.at("integrate.closed", run_id)
        context.send_woken(run_id, moved)

    undoing.close(
        context.ledger,
        context.config,
        run_id,
        closing.state,
        result=closing.result,
        reason=closing.reason,
        fence=claim.fence,
        send=send,
    )
    clone.remove_tree(context.run_dir(run_id) / "work")
    return {"run": run_id, "node": INTEGRATE, "state": closing.state.value, "commit": closing.result}


def _conclude(context: Context, run_id: str, stop: Stop, deadline: float) -> Closing:
    """What the run comes to; merging only what succeeded."""
    known = context.known(run_id)
    nodes = context.ledger.nodes(run_id)
    nodes.pop(INTEGRATE, None)
    left = [n.id for n in nodes.values() if n.state not in TERMINAL]
    if left:
        raise InfraError(f"integration came early: {', '.join(left[:5])} not settled", code="AF-INFRA-010")
    run = context.ledger.run(run_id)
    failed = [n.id for n in nodes.values() if n.state is not NodeState.SUCCEEDED and not n.optional]
    if run.state is RunState.CANCELLING:
        late = run.is_late(context.ledger.now_ms())
        return Closing(RunState.FAILED if late else RunState.CANCELLED, reason=run.reason or "cancelled")
    causes = [nodes[f] for f in failed if nodes[f].state is not NodeState.SKIPPED]
    if not run.repo:
        return _failed(causes) if failed else Closing(RunState.READY_TO_LAND)
    depot = open_depot(context.config, run)
    store = depot.store
    commits = _settled_work(known.plan, nodes)
    if run.onto:
        commits.append(run.onto)
    depot.bring((run.base, *commits))
    merged = merge.merge_all(store, commits, run.base, appends_in(known.plan, nodes))
    store.keep(f"refs/agentflow/{run_id}/merged", merged)
    failpoints.at("integrate.merged", run_id)
    depot.share(merged, commits or [run.base])
    # From now on all of it must be there until somebody lands it; what Redis has lost is here.
    keep_work(context.config, run, commits, store.git_dir)
    if failed:
        return _failed(causes, merged)
    return _validate(context, run_id, store, merged, stop, deadline)


def _settled_work(plan: Plan, nodes: Mapping[str, NodeRecord]) -> list[str]:
    """The commits to merge, in the order of the plan: each was settled under its node's newest token."""
    planned = [nodes[n.id] for n in plan.nodes]
    done = [node for node in planned if node.state is NodeState.SUCCEEDED and node.commit]
    stale = [node.id for node in done if node.settled_fence != node.fence]
    if stale:
        raise StaleWorkError(
            f"the work of {', '.join(stale[:5])} was not settled by the last attempt at it",
            why="the ledger names a commit under another fencing token than the newest",
            fix="`agentflow doctor --ledger` says what else is wrong; run the feature again",
        )
    return [node.commit for node in done]


def _failed(causes: list[NodeRecord], merged: str = "") -> Closing:
    """A run whose only failures are conflicts ends as a conflict."""
    clash = causes and all(node.code.startswith("AF-CONFLICT") for node in causes)
    reason = "failed: " + ", ".join(node.id for node in causes)
    return Closing(RunState.CONFLICT if clash else RunState.FAILED, merged, reason)


def _validate(
    context: Context, run_id: str, store: Store, merged: str, stop: Stop, deadline: float
) -> Closing:
    """The run's own tests on the merged tree; what fails stays under a ref to be looked at."""
    plan = context.known(run_id).plan
    if not plan.validation:
        return Closing(RunState.READY_TO_LAND, merged)
    place = context.run_dir(run_id) / "work" / "validation"
    clone.remove_tree(place)
    with contextlib.closing(Surroundings(place, own_home=context.config.worker.own_home)) as own:
        verdict = acceptance.judge(
            store,
            commit=merged,
            base=context.known(run_id).run.base,
            commands=plan.validation,
            expect="green",
            setup=plan.setup,
            env=own.env(run_id, INTEGRATE, 1, plan.env),
            data_dir=context.config.data_dir,
            scratch=place / "acceptance",
            deadline=deadline,
            stop=stop,
            log=context.run_dir(run_id) / "logs" / "validation.log",
        )
    if verdict.ok:
        return Closing(RunState.READY_TO_LAND, merged)
    return Closing(RunState.FAILED, merged, f"validation: {verdict.reason}")
