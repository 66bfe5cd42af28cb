"""The story of an attempt, top to bottom.

    claim -> workspace at its base -> setup -> runner -> one commit -> policy -> ingest
          -> acceptance -> settle -> continue

A message carries ids only. Whatever it says, the ledger decides at the claim; whatever the agent
says, acceptance decides before the settlement. Everything that an attempt raises ends here.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from celery.exceptions import Ignore, OperationalError, Reject, Retry

from agentflow import failpoints
from agentflow.canvas.plan import PlanNode
from agentflow.environment import Meter, Outcome
from agentflow.errors import (
    AgentflowError,
    AttemptCancelled,
    AttemptError,
    BudgetReached,
    ConflictError,
    InfraError,
    PolicyViolation,
    ProviderPaused,
)
from agentflow.spec.artifacts import Lock
from agentflow.states import NodeState
from agentflow.store.client import Unreachable
from agentflow.store.ledger import Claim
from agentflow.store.packs import FullError
from agentflow.store.records import NodeRecord
from agentflow.store.scripts import Answer
from agentflow.tasks import optimistic, prompt, reuse
from agentflow.tasks.account import account_of
from agentflow.tasks.artifacts import ArtifactHeld
from agentflow.tasks.attempts import ATTEMPTS
from agentflow.tasks.claimed import Attempt
from agentflow.tasks.context import Context
from agentflow.tasks.desk import Delivery, open_desk
from agentflow.tasks.gate import count_failure, gate_of

log = logging.getLogger("agentflow.attempt")
T = TypeVar("T")

#: Conflicts, and troubles around a node (Redis, git, the disk), after which it is not tried again. Red
#: attempts are capped by its `retries`, worker losses by the run; the ledger has caps of its own behind all
#: of these.
MAX_CONFLICTS = 5
MAX_TROUBLES = 10
#: The longest back-off after trouble: ten times come to five minutes.
MAX_TROUBLE_DELAY_S = 60.0
#: The longest back-off between two attempts.
MAX_DELAY_S = 300.0
#: Seconds that a settlement is tried again while Redis is away.
SETTLE_PATIENCE_S = 60.0
#: Characters of a failed attempt's output that the next one is told.
FEEDBACK_CAP = 6000
#: Characters of what its user is told to do about it.
FIX_CAP = 1000
#: Kinds of failure that a reason begins with; the others say it themselves.
TOLD_KINDS = ("acceptance", "policy", "provider", "limit")
DRAINED = "the worker is leaving"


class NodeFailed(Exception):
    """Raised in the Celery task of a node that failed, so that monitors show FAILURE."""


def perform(context: Context, run_id: str, node_id: str, worker: str) -> dict[str, Any]:
    """Do one attempt at a node. Raises `Ignore` when there is nothing to do, `NodeFailed` when it failed."""
    if ATTEMPTS.closed:
        raise Reject("this worker is leaving", requeue=True)
    claim = context.ledger.claim(run_id, node_id, worker=worker, ttl_ms=context.config.lease_ttl_ms)
    context.send_woken(run_id, claim.answer)
    if not claim.granted:
        if claim.reason == "unknown":
            log.warning("a message for %.60r of run %.60r was dropped: no such node", node_id, run_id)
        # A duplicate, or parked with a reason: whoever changes that sends the segment's tail again.
        raise Ignore
    failpoints.at("attempt.claimed", node_id)
    known = context.known(run_id, claim.generation)
    node = known.plan.by_id[node_id]
    with ATTEMPTS.holding(run_id, node_id, claim.fence, node.timeout_s) as held:
        record = context.ledger.node(run_id, node_id) if needs_record(node, claim) else _fresh(node, claim)
        gate = gate_of(context, held, node)
        account = account_of(context, known.plan, held)
        attempt = Attempt(
            context,
            known.run,
            known.plan,
            node,
            record,
            claim,
            held,
            Meter(account),
            gate=gate,
            account=account,
        )
        try:
            outcome, delivery = work(attempt)
            return settle(attempt, outcome, delivery)
        except (Ignore, Retry, NodeFailed):
            raise
        except AgentflowError as error:
            return unsuccessful(attempt, error)
        except (*Unreachable, OperationalError) as error:
            return unsuccessful(attempt, InfraError(f"Redis is away: {error}", code="AF-INFRA-001"))
        except OSError as error:  # a full disk, no more processes: the work's doing, or this machine's
            return unsuccessful(attempt, AttemptError(f"this machine: {error}", code="AF-INFRA-047"))
        except Exception as error:  # the boundary of an attempt: a defect of ours must not lose the node
            log.exception("attempt %s of %s in run %s broke", claim.attempt, node_id, run_id)
            return unsuccessful(attempt, AttemptError(f"{type(error).__name__}: {error}", code="AF-INTERNAL"))
        finally:
            attempt.close()


def needs_record(node: PlanNode, claim: Claim) -> bool:
    """Whether what happened before matters: always, but for the first attempt of a no-op."""
    return claim.attempt > 1 or node.runner.get("type") != "noop"


def _fresh(node: PlanNode, claim: Claim) -> NodeRecord:
    return NodeRecord(node.id, node.role, NodeState.RUNNING, attempt=claim.attempt, fence=claim.fence)


def work(attempt: Attempt) -> tuple[Outcome, Delivery]:
    """From the base to a commit that has passed acceptance (or, for a report, to its text)."""
    pending = optimistic.pending(attempt)
    if pending:
        return pending
    with contextlib.closing(open_desk(attempt)) as desk:
        again = desk.use_again()
        if again:
            attempt.held.stop.check()
            failpoints.at("reuse.found", attempt.node.id)
            _patiently(attempt, partial(desk.share, again[1]))
            failpoints.at("reuse.shared", attempt.node.id)
            return again
        desk.prepare()
        outcome = desk.run()
        failpoints.at("attempt.worked", attempt.node.id)
        attempt.held.stop.check()
        delivery = desk.deliver(outcome)
        failpoints.at("attempt.delivered", attempt.node.id)
        desk.judge(delivery)
        attempt.held.stop.check()
        failpoints.at("attempt.judged", attempt.node.id)
        _patiently(attempt, partial(desk.share, delivery))
        return outcome, delivery


def settle(attempt: Attempt, outcome: Outcome, delivery: Delivery) -> dict[str, Any]:
    """Record success, once, and send what follows. An optimistic node merges until it fits."""
    # What it was given while it worked may have been written since its base was made.
    is_optimistic = bool(delivery.paths) and (not attempt.node.declared or attempt.artifacts.widened)
    while True:
        seq = _patiently(attempt, partial(optimistic.check, attempt, delivery)) if is_optimistic else ""
        failpoints.at("settle.before", attempt.node.id)
        answer = _patiently(attempt, partial(_settle_success, attempt, outcome, delivery, seq))
        failpoints.at("settle.recorded", attempt.node.id)
        if answer.head[0] == "locked":
            failpoints.at("optimistic.locked", attempt.node.id)
            parked = _patiently(
                attempt, partial(optimistic.wait_for_lock, attempt, outcome, delivery, answer.head[1])
            )
            failpoints.at("optimistic.parked", attempt.node.id)
            attempt.context.resend(attempt.run.id, parked, generation=attempt.claim.generation)
            raise Ignore
        if answer.head[0] == "settled":
            reuse.remember(attempt, outcome, delivery.commit, delivery.base)
            failpoints.at("settle.remembered", attempt.node.id)
            return proceed(attempt, answer, NodeState.SUCCEEDED, commit=delivery.commit)
        if answer.head[0] == "superseded":
            raise Ignore
        failpoints.at("optimistic.moved", attempt.node.id)


def _settle_success(attempt: Attempt, outcome: Outcome, delivery: Delivery, seq: str) -> Answer:
    return attempt.ledger.settle(
        attempt.run.id,
        attempt.node.id,
        attempt.claim.fence,
        NodeState.SUCCEEDED,
        commit=delivery.commit,
        paths=delivery.paths,
        seq=seq,
        facts=attempt.facts(outcome, base=delivery.base, pending_commit=""),
        text=prompt.text_of(outcome, attempt.node.output),
    )


def proceed(attempt: Attempt, answer: Answer, state: NodeState, *, commit: str = "") -> dict[str, Any]:
    """Continue: the chain carries on by itself; forks, joins and woken nodes are sent."""
    attempt.context.proceed(
        attempt.run.id,
        attempt.node.id,
        answer,
        succeeded=state is NodeState.SUCCEEDED,
        generation=attempt.claim.generation,
    )
    return {
        "run": attempt.run.id,
        "node": attempt.node.id,
        "state": state.value,
        "attempt": attempt.claim.attempt,
        "commit": commit,
        "cost_usd": attempt.meter.usage.cost_usd,
    }


def unsuccessful(attempt: Attempt, error: AgentflowError) -> dict[str, Any]:
    """An attempt that came to nothing: again (now or later), or failed, or cancelled."""
    attempt.log_error(error)
    reason = attempt.held.stop.reason
    if isinstance(error, AttemptCancelled) or reason:
        return _stopped(attempt, reason or error.what)
    if isinstance(error, (ProviderPaused, ArtifactHeld, BudgetReached)):
        return _given_back(attempt, error)
    count_failure(attempt.gate, error)
    if isinstance(error, ConflictError):
        return _again_on_top(attempt, error)
    if isinstance(error, InfraError):
        delay = min(MAX_TROUBLE_DELAY_S, 2.0**attempt.record.troubles)
        return _again(attempt, error, counter="troubles", most=MAX_TROUBLES, delay_s=delay)
    retryable = not isinstance(error, AttemptError) or error.retryable
    most = attempt.node.retries + 1 if retryable else 0
    delay = min(MAX_DELAY_S, attempt.node.retry_delay_s * 2**attempt.record.failures)
    return _again(attempt, error, counter="failures", most=most, delay_s=delay)


def _given_back(attempt: Attempt, error: ProviderPaused | ArtifactHeld | BudgetReached) -> dict[str, Any]:
    """What it needs is not there now: nothing is counted, and the slot is for others."""
    if isinstance(error, ProviderPaused):
        return _later(attempt, error)
    return _behind(attempt, error) if isinstance(error, ArtifactHeld) else _over_budget(attempt, error)


def _later(attempt: Attempt, pause: ProviderPaused) -> dict[str, Any]:
    """A provider that lets nobody in; nothing was lost, for it had not answered yet."""
    delay_ms = max(1, int(pause.seconds * 1000))
    _requeue(attempt, pause.what, delay_ms=delay_ms, facts=attempt.spent())
    raise Ignore


def _behind(attempt: Attempt, error: ArtifactHeld) -> dict[str, Any]:
    """It gives back all that it holds and stands in line for that and what it asked for."""
    _requeue(attempt, error.what, park=True, facts=attempt.spent(), locks=(error.lock,))
    raise Ignore


def _stopped(attempt: Attempt, reason: str) -> dict[str, Any]:
    if reason == "lost":
        raise Ignore
    if reason == "cancelled":
        answer = attempt.ledger.settle(
            attempt.run.id,
            attempt.node.id,
            attempt.claim.fence,
            NodeState.CANCELLED,
            reason="the run was cancelled",
        )
        return proceed(attempt, answer, NodeState.CANCELLED)
    _requeue(attempt, reason)
    raise Ignore


def _over_budget(attempt: Attempt, error: BudgetReached) -> dict[str, Any]:
    """The node's own budget is spent: it fails. Any other: it is given back and waits until there is more."""
    if error.scope == "node":
        return _failed(attempt, error)
    _requeue(attempt, error.what, park=True, facts={"fix": error.fix[:FIX_CAP], **attempt.spent()})
    raise Ignore


def _again_on_top(attempt: Attempt, error: ConflictError) -> dict[str, Any]:
    """What does not merge runs again from a base that holds the other side."""
    others = getattr(error, "nodes", ())
    if attempt.record.conflicts + 1 >= MAX_CONFLICTS or not others:
        return _failed(attempt, error)
    # Work that only waited for a lock is no longer pending: it does not merge, so it is done again.
    facts = {"conflict": error.explain()[:1500], "pending_commit": ""}
    _requeue(attempt, error.what, counter="conflicts", edges=others, facts=facts)
    raise Retry(error.what)


def _again(
    attempt: Attempt, error: AgentflowError, *, counter: str, most: int, delay_s: float
) -> dict[str, Any]:
    if getattr(attempt.record, counter) + 1 >= most:
        return _failed(attempt, error)
    _requeue(attempt, error.what, counter=counter, delay_ms=int(delay_s * 1000), facts=_told(attempt, error))
    raise Retry(error.what)


def _told(attempt: Attempt, error: AgentflowError) -> dict[str, str | int | float]:
    """What the next attempt, and the user, is told of this one; and what it cost."""
    feedback = getattr(error, "feedback", "")
    # What to do about a violation is for the agent; about anything else, for its user.
    fix = error.fix if isinstance(error, PolicyViolation) else ""
    told = "\n".join(filter(None, (error.what, error.why, fix, feedback)))
    return {"feedback": told[-FEEDBACK_CAP:], "fix": error.fix[:FIX_CAP], **attempt.spent()}


def _failed(attempt: Attempt, error: AgentflowError) -> dict[str, Any]:
    kind = getattr(error, "kind", "")
    reason = f"{kind}: {error.what}" if kind in TOLD_KINDS else error.what
    answer = _patiently(
        attempt,
        lambda: attempt.ledger.settle(
            attempt.run.id,
            attempt.node.id,
            attempt.claim.fence,
            NodeState.FAILED,
            reason=reason,
            facts={**_told(attempt, error), "code": error.code},
        ),
    )
    if answer.head[0] == "superseded":
        raise Ignore
    proceed(attempt, answer, NodeState.FAILED)
    raise NodeFailed(reason)


def _requeue(
    attempt: Attempt,
    reason: str,
    *,
    counter: str = "",
    delay_ms: int = 0,
    park: bool = False,
    edges: tuple[str, ...] = (),
    facts: Mapping[str, str | int | float] | None = None,
    locks: tuple[Lock, ...] = (),
) -> None:
    answer = _patiently(
        attempt,
        lambda: attempt.ledger.requeue(
            attempt.run.id,
            attempt.node.id,
            attempt.claim.fence,
            reason=reason,
            counter=counter,
            delay_ms=delay_ms,
            park=park,
            locks=locks,
            given=bool(locks),
            edges=edges,
            facts=facts,
        ),
    )
    if answer.head[0] == "superseded":
        # Settled already, or somebody else's by now: there is nothing to try again.
        raise Ignore
    failpoints.at("again.requeued", attempt.node.id)
    attempt.context.resend(attempt.run.id, answer, generation=attempt.claim.generation)
    failpoints.at("again.sent", attempt.node.id)
    if answer.head[0] == "quarantined":
        raise NodeFailed(reason)


def _patiently(attempt: Attempt, transition: Callable[[], T]) -> T:
    """Finished work outlives an absence of Redis, or its want of room; the fence decides whether it still
    counts.
    """
    until = time.monotonic() + SETTLE_PATIENCE_S
    while True:
        try:
            answer = transition()
        except (FullError, *Unreachable) as error:
            if time.monotonic() > until:
                raise
            where = f"{attempt.node.id} of run {attempt.run.id}"
            log.warning("%s waits to be settled: Redis is away or full (%s)", where, error)
            time.sleep(0.5)
        else:
            return answer
