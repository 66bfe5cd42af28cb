"""From the ledger's values to the answers of tools."""

from __future__ import annotations

from agentflow.mcp_server import shapes
from agentflow.monitor import INTEGRATE, NodeStatus, RunRecord, RunStatus
from agentflow.states import CLOSED, NodeState, RunState

#: Nodes that an answer spells out; a plan may have 10,000, and a model reads all of an answer.
NODES_SHOWN = 100
_FIRST = (NodeState.FAILED, NodeState.RUNNING, NodeState.PARKED, NodeState.DELAYED, NodeState.READY)


def at_rest(run: RunRecord) -> bool:
    """Whether nothing happens to the run any more without a further call."""
    return run.is_at_rest


def run_view(status: RunStatus) -> shapes.RunView:
    """A run with its nodes: those that need a look first, at most `NODES_SHOWN`."""
    run = status.run
    nodes = [node for node in status.nodes if node.id != INTEGRATE]
    usage = [node.record.usage for node in nodes]
    landable = run.state in (RunState.READY_TO_LAND, RunState.LANDED)
    shown = sorted(status.nodes, key=_urgency)[:NODES_SHOWN]
    return shapes.RunView(
        run=run.id,
        state=run.state.value,
        feature=run.feature,
        finished=at_rest(run),
        total=status.total,
        done=status.done,
        succeeded=status.counts.get(NodeState.SUCCEEDED, 0),
        failed_nodes=[node.id for node in nodes if node.state is NodeState.FAILED],
        seconds=round(status.seconds, 3),
        target=run.target,
        branch=run.branch,
        commit=run.result if landable else "",
        reason=run.reason,
        calls=sum(int(u.get("calls", 0)) for u in usage),
        tokens=sum(int(u.get("input_tokens", 0)) + int(u.get("output_tokens", 0)) for u in usage),
        cost_usd=round(sum(float(u.get("cost_usd", 0.0)) for u in usage), 6),
        nodes=[_node_view(node, status.now_ms) for node in shown],
        nodes_left_out=len(status.nodes) - len(shown),
        next=what_next(run),
    )


def _urgency(node: NodeStatus) -> int:
    return _FIRST.index(node.state) if node.state in _FIRST else len(_FIRST)


def _node_view(node: NodeStatus, now_ms: int) -> shapes.NodeView:
    return shapes.NodeView(
        id=node.id,
        role=node.record.role,
        state=node.state.value,
        attempt=node.record.attempt,
        waits=node.waits,
        reason=node.record.reason,
        summary=node.record.summary,
        seconds=round(node.seconds(now_ms), 3),
    )


def run_line(run: RunRecord) -> shapes.RunLine:
    """A run as one line of a list."""
    return shapes.RunLine(
        run=run.id,
        state=run.state.value,
        feature=run.feature,
        done=run.nodes_ended,
        total=run.nodes_total,
        opened_ms=run.opened_ms,
    )


def what_next(run: RunRecord) -> str:
    """The call that makes sense now."""
    if run.state is RunState.READY_TO_LAND:
        return f"run_land moves {run.target} to the tested result"
    if run.state is RunState.LANDED:
        return f"nothing: {run.branch or run.target} holds the result"
    if run.state is RunState.OPEN:
        return "run_wait waits for its end and reports progress"
    if run.state is RunState.PAUSED:
        more = ", with more budget" if run.is_out_of_budget else ""
        return f"nothing starts ({run.reason}) until run_resume{more}"
    if run.state in CLOSED or at_rest(run):
        return "`why` tells of a node; run_resume goes on with what is left"
    return "run_wait waits until it has come to rest"


def progress_line(status: RunStatus) -> str:
    """How far a run is, in one line."""
    busy = [node.id for node in status.nodes if node.state is NodeState.RUNNING]
    named = ", ".join(busy[:4]) + (f" and {len(busy) - 4} more" if len(busy) > 4 else "")  # noqa: PLR2004
    failed = status.counts.get(NodeState.FAILED, 0)
    return (
        f"{status.done}/{status.total} nodes"
        + (f", {failed} failed" if failed else "")
        + (f"; running: {named}" if named else f"; {status.run.state.value.replace('_', ' ')}")
    )
