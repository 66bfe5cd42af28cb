"""Makes the proposal of a run: from its result, its plan, its transitions and git.

It can be made at any time; before the run is closed it says what there is so far. Patches are read from
the store repository of this machine: where that lacks a commit, the patch says so and the rest stands.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime

from agentflow import runs
from agentflow.canvas.compile import parse_plan
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.config import Config
from agentflow.errors import AgentflowError
from agentflow.proposal.values import Conflict, Judgement, Patch, Proof, Proposal, Report, Wait
from agentflow.results import NodeResult, RunResult, build_result, cost_report
from agentflow.runs import kept
from agentflow.states import NodeState, RunState
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.reach import reachable
from agentflow.store.records import INTEGRATE, Event, RunRecord

#: Characters of the whole patch, of one node's, and of all nodes' together.
PATCH_CAP = 400_000
NODE_PATCH_CAP = 40_000
NODES_PATCH_CAP = 1_000_000
#: Waits that are listed, the longest first.
WAITS_SHOWN = 100
#: Shorter ones are left out.
WAIT_MS = 100
#: Transitions read at once.
BATCH = 5000
#: What ends a wait: the node may start, or will not any more.
_WAIT_BEGINS = {"node.parked", "node.delayed"}


def make(run_id: str, *, config: Config) -> Proposal:
    """The proposal of a run; raises `UsageError` when there is no such run, `InfraError` without Redis."""
    with reachable(config.client_url()):
        ledger = runs.open_ledger(config)
        result = build_result(ledger, run_id)
        plan = parse_plan(json.dumps(ledger.plan(run_id)))
        record = ledger.run(run_id)
        texts = ledger.texts(run_id)
        waits = tuple(waits_of(_events(ledger, run_id), ledger.now_ms()))
    patches = _Patches(run_id, config)
    return Proposal(
        run=run_id,
        feature=result.feature,
        goal=plan.goal,
        state=result.state,
        exit_code=result.exit_code,
        reason=result.reason,
        base=result.base,
        target=result.target,
        branch=result.branch,
        commit=result.commit,
        merged_ref=result.merged_ref,
        opened=_iso(record.opened_ms),
        closed=_iso(record.closed_ms),
        totals={k: v for k, v in asdict(result).items() if k in _totals()},
        failed_nodes=result.failed_nodes,
        validation=_validation(plan, record),
        patch=patches.whole() if result.commit or result.merged_ref else Patch(why="nothing came out"),
        reports=tuple(_reports(result, texts)),
        nodes=tuple(_proof(name, node, plan, patches) for name, node in result.nodes.items()),
        conflicts=tuple(_conflicts(result)),
        waits=waits,
        costs=cost_report(result),
    )


def _totals() -> tuple[str, ...]:
    return (
        "total", "completed", "failed", "skipped", "cancelled", "duration_s", "node_seconds", "speedup",
        "calls", "input_tokens", "output_tokens", "cost_usd", "estimated", "cpu_s", "peak_memory_mb",
    )  # fmt: skip


def _iso(stamp_ms: int) -> str:
    return datetime.fromtimestamp(stamp_ms / 1000, UTC).isoformat(timespec="seconds") if stamp_ms else ""


def _events(ledger: Ledger, run_id: str) -> Iterator[Event]:
    log, after = EventLog(ledger.client), "0"
    while batch := log.read(run_id, after=after, count=BATCH):
        yield from batch
        after = batch[-1].id


def waits_of(events: Iterable[Event], now_ms: int) -> list[Wait]:
    """How long nodes were parked or delayed, and for what; the longest first, those under 0.1 s left out."""
    since: dict[str, tuple[int, str]] = {}
    found: dict[tuple[str, str], int] = {}

    def end(node: str, at_ms: int) -> None:
        if node in since:
            began, reason = since.pop(node)
            found[node, reason] = found.get((node, reason), 0) + max(0, at_ms - began)

    for event in events:
        if not event.node:
            continue
        end(event.node, event.at_ms)
        if event.kind in _WAIT_BEGINS:
            since[event.node] = (event.at_ms, event.reason)
    for node in list(since):
        end(node, now_ms)
    waits = [Wait(node, reason, round(ms / 1000, 3)) for (node, reason), ms in found.items() if ms >= WAIT_MS]
    return sorted(waits, key=lambda w: (-w.seconds, w.node))[:WAITS_SHOWN]


def _validation(plan: Plan, run: RunRecord) -> Judgement:
    commands = tuple(shlex.join(command) for command in plan.validation)
    if not commands:
        verdict = "not judged"
    elif run.state in (RunState.READY_TO_LAND, RunState.LANDED):
        verdict = "passed"
    else:
        # A result without a branch is the merged tree that the validation refused.
        verdict = "failed" if run.result else "not reached"
    return Judgement(commands, "green", verdict, reason=run.reason)


def _reports(result: RunResult, texts: dict[str, str]) -> Iterator[Report]:
    for name, node in result.nodes.items():
        if node.output == "report" and (node.summary or node.verdict or node.findings or name in texts):
            yield Report(name, node.role, node.verdict, node.summary, texts.get(name, ""), node.findings)


def _conflicts(result: RunResult) -> Iterator[Conflict]:
    for name, node in result.nodes.items():
        if node.edges:
            yield Conflict(name, "edge", node.edges, what="it locks what they wrote")
        if node.conflicts:
            yield Conflict(name, "rerun", times=node.conflicts, what=node.conflict)
    if result.state == RunState.CONFLICT:
        yield Conflict(INTEGRATE, "run", what=result.reason)


def _proof(name: str, node: NodeResult, plan: Plan, patches: _Patches) -> Proof:
    planned = plan.by_id.get(name)
    return Proof(
        node=name,
        role=node.role,
        output=node.output,
        state=node.state,
        attempts=node.attempts,
        seconds=node.seconds,
        worker=node.worker,
        commit=node.commit,
        checkpoint=node.checkpoint,
        summary=node.summary,
        judgement=judgement_of(node, planned),
        patch=patches.of(name) if node.commit else Patch(),
        needs=planned.needs if planned else (),
        shard=str(getattr(planned, "shard", "")),
        code=node.code,
        reason=node.reason,
        fix=node.fix,
        usage=node.usage,
    )


def judgement_of(node: NodeResult, planned: PlanNode | None) -> Judgement:
    """What acceptance says of a node. One that succeeded was judged green: nothing else lets it succeed."""
    commands = tuple(shlex.join(command) for command in planned.acceptance) if planned else ()
    expect = planned.expect if planned else ""
    if node.state == NodeState.SUCCEEDED:
        judged = bool(commands) and expect != "none" and bool(node.commit)
        verdict = "passed" if judged else "not judged"
    elif node.state == NodeState.FAILED and node.reason.startswith("acceptance"):
        verdict = "failed"
    else:
        verdict = "not reached"
    return Judgement(commands, expect, verdict, node.tests, node.reason if verdict == "failed" else "")


class _Patches:
    """Patches of a run within the caps."""

    def __init__(self, run_id: str, config: Config) -> None:
        self._run_id = run_id
        self._config = config
        self._left = NODES_PATCH_CAP

    def whole(self) -> Patch:
        """What the run changed."""
        return self._read(None, PATCH_CAP)

    def of(self, node: str) -> Patch:
        """What one node changed."""
        patch = self._read(node, min(NODE_PATCH_CAP, self._left))
        self._left -= len(patch.text)
        return patch

    def _read(self, node: str | None, cap: int) -> Patch:
        def show(*, stat: bool) -> str:
            return kept.diff(self._run_id, node, config=self._config, stat=stat)

        return _patch(show, cap)


def _patch(show: Callable[..., str], cap: int) -> Patch:
    try:
        stat = show(stat=True)
        text = show(stat=False) if cap > 0 else ""
    except (AgentflowError, OSError) as error:
        return Patch(why=f"not on this machine: {error}")
    kept = text if len(text) <= cap else text[: text.rfind("\n", 0, cap) + 1]
    return Patch(stat=stat.rstrip("\n"), text=kept, cut=len(text) - len(kept))
