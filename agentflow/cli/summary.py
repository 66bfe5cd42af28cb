"""How a run ended, for people: pure functions from `RunResult` to lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentflow.cli import text
from agentflow.raising import change_of, raise_hint
from agentflow.states import RunState

if TYPE_CHECKING:
    from agentflow.results import NodeResult, RunResult

#: Failed nodes that are spelled out.
FAILED_SHOWN = 10
#: Further ones that are named.
FAILED_NAMED = 90


def lines(result: RunResult, diffstat: str = "", *, git: str = "git") -> list[str]:
    """Branch, what changed, time and speed-up, cost, failures, and the next command.

    `git` is how git is called for the run's repository from where the user is.
    """
    said = [_outcome(result)]
    said += [f"  {line}" for line in text.clean(diffstat).splitlines()]
    said.append(_figures(result))
    failed = [(name, result.nodes[name]) for name in result.failed_nodes]
    said += [line for name, node in failed[:FAILED_SHOWN] for line in _failure(name, node)]
    if len(failed) > FAILED_SHOWN:
        names = ", ".join(
            text.one_line(name) for name, _ in failed[FAILED_SHOWN : FAILED_SHOWN + FAILED_NAMED]
        )
        more = len(failed) - FAILED_SHOWN - FAILED_NAMED
        said.append(f"  failed too: {names}" + (f" and {more} more" if more > 0 else ""))
    return said + _next(result, git)


def _outcome(result: RunResult) -> str:
    commit = result.commit[:12]
    if _only_reports(result):
        return f"done: {text.one_line(result.feature)} (reports only, so there is nothing to land)"
    if result.state == RunState.LANDED:
        return f"landed on {result.branch or result.target} as {commit}: {text.one_line(result.feature)}"
    if result.state == RunState.READY_TO_LAND:
        return f"ready to land on {result.target} as {commit}: {text.one_line(result.feature)}"
    reason = f" ({text.one_line(result.reason)})" if result.reason else ""
    return f"{result.state.replace('_', ' ')}: {text.one_line(result.feature)}{reason}"


def _only_reports(result: RunResult) -> bool:
    """Whether the run has landed without a commit of its own."""
    return result.state == RunState.LANDED and not result.branch and result.commit == result.base


def _figures(result: RunResult) -> str:
    parts = [
        f"{result.completed}/{result.total} nodes in {text.duration(result.duration_s)}",
        f"{text.duration(result.node_seconds)} of work{_speedup(result)}",
    ]
    if result.skipped or result.cancelled:
        parts.append(f"{result.skipped} skipped, {result.cancelled} cancelled")
    if result.calls:
        tokens = result.input_tokens + result.output_tokens
        parts.append(f"{text.count(result.calls, 'call')}, {tokens:,} tokens, ${result.cost_usd:.2f}")
    return " · ".join(parts)


def _speedup(result: RunResult) -> str:
    """Node time over wall time, where working side by side has gained something."""
    return f" ({result.speedup:.1f} times as fast)" if result.speedup > 1 else ""


def _failure(name: str, node: NodeResult) -> list[str]:
    reason = text.one_line(node.reason) or "no reason was given"
    said = [f"  failed: {name} after {text.count(node.attempts, 'attempt')}: {reason}"]
    return [*said, f"    fix: {text.one_line(node.fix)}"] if node.fix else said


def _next(result: RunResult, git: str) -> list[str]:
    """What can be typed now."""
    if _only_reports(result):
        return [f"next: agentflow logs {result.run}"]
    if result.state == RunState.LANDED:
        return [f"next: {git} diff {result.base[:12]}..{result.branch or result.target}"]
    if result.state == RunState.READY_TO_LAND:
        return [f"next: agentflow diff {result.run}; agentflow land {result.run}"]
    steps = []
    if result.merged_ref and result.completed:
        steps.append(f"the merged tree is kept: {git} worktree add --detach ../merged {result.merged_ref}")
    if result.failed_nodes:
        node = f"{result.run} {result.failed_nodes[0]}"
        steps.append(f"look: agentflow why {node}; agentflow logs {node}")
    elif result.state == RunState.FAILED:
        steps.append(f"look: agentflow logs {result.run} integrate")
    reasons = {"": result.reason} | {name: result.nodes[name].reason for name in result.failed_nodes}
    wanted = [change_of(reason, name) for name, reason in reasons.items()]
    return [*steps, f"next: {raise_hint(result.run, wanted)}"]
