"""A run on a terminal: pure functions from `RunStatus` to lines, and from transitions to plain lines.

Nothing here reads Redis or the clock. The live view is never taller than the terminal; failures are
pinned to its top; each node that waits says for what; what does not fit is counted in one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentflow.cli import text as words
from agentflow.monitor import INTEGRATE, Event, NodeStatus, RunStatus
from agentflow.states import NodeState

if TYPE_CHECKING:
    from rich.text import Text

#: Which rows are kept when not all fit, and in what order they stand.
_ORDER = {
    NodeState.FAILED: 0,
    NodeState.RUNNING: 1,
    NodeState.DELAYED: 2,
    NodeState.PARKED: 3,
    NodeState.READY: 4,
    NodeState.PENDING: 5,
    NodeState.SUCCEEDED: 6,
    NodeState.CANCELLED: 7,
    NodeState.SKIPPED: 8,
}
#: Columns of the progress bar.
BAR = 20
#: Widest column of node ids and of roles.
WIDEST = 28
#: Rows beside the nodes: the head, the count of what is hidden, the notice, the cursor's line.
FRAME = 4
_PLAIN_KINDS = {
    "node.started": "running",
    "node.parked": "waits",
    "node.delayed": "retries later",
    "node.retry": "retries",
    "node.lost": "worker lost, runs again",
    "node.woken": "ready again",
}


def view(
    status: RunStatus, *, width: int, height: int, notice: str = "", ascii_only: bool = False
) -> list[Text]:
    """The live view: at most `height - 1` lines of at most `width` columns."""
    from rich.text import Text

    rows = sorted(status.nodes, key=lambda n: (_ORDER[n.state], -n.record.ended_ms))
    rows = [n for n in rows if n.id != INTEGRATE or n.state is not NodeState.PENDING]
    room = max(1, height - FRAME)
    shown, hidden = rows[:room], rows[room:]
    id_width = min(WIDEST, max((len(node_name(n)) for n in shown), default=0))
    role_width = min(WIDEST, max((len(_role(n)) for n in shown), default=0))
    lines = [_head(status)]
    lines += [_row(n, status.now_ms, id_width, role_width, ascii_only=ascii_only) for n in shown]
    if hidden:
        lines.append(Text("  … and " + _tally(hidden), style="dim"))
    if notice:
        lines.append(Text(words.one_line(notice), style="yellow"))
    for line in lines:
        if ascii_only:
            line.plain = words.plain_ascii(line.plain)
        line.truncate(width, overflow="crop")
    return lines[: max(1, height - 1)]


def node_name(node: NodeStatus) -> str:
    """How a node is called in the view: its id; the integration by its plain name."""
    return "integrate" if node.id == INTEGRATE else node.id


def _role(node: NodeStatus) -> str:
    """The role of a node; the integration is the system's own."""
    return "system" if node.id == INTEGRATE else node.record.role


def _head(status: RunStatus) -> Text:
    """What matters most comes first: a narrow terminal cuts the end."""
    from rich.text import Text

    filled = BAR * status.done // max(1, status.total)
    bar = "█" * filled + "░" * (BAR - filled)
    counts = status.counts
    parts = [f"{status.done}/{status.total} done"]
    parts += [
        f"{counts[state]} {state}" for state in (NodeState.FAILED, NodeState.RUNNING) if counts.get(state)
    ]
    waiting = sum(counts.get(s, 0) for s in (NodeState.READY, NodeState.PARKED, NodeState.DELAYED))
    if waiting:
        parts.append(f"{waiting} waiting")
    line = Text(no_wrap=True)
    line.append(words.one_line(status.run.feature, 40), style="bold")
    line.append(f"  {' · '.join(parts)}  {words.duration(status.seconds)}  {bar}  ")
    line.append(str(status.run.state), style=words.run_style(status.run.state))
    line.append(f"  {status.run.id}")
    return line


def _row(node: NodeStatus, now_ms: int, id_width: int, role_width: int, *, ascii_only: bool) -> Text:
    from rich.text import Text

    style = words.style_of(node.state)
    line = Text(no_wrap=True)
    line.append(words.symbol(node.state, ascii_only=ascii_only) + " ", style=style)
    line.append(node_name(node)[:id_width].ljust(id_width + 2))
    line.append(_role(node)[:role_width].ljust(role_width + 2), style="dim")
    line.append(detail(node, now_ms), style=style)
    return line


def detail(node: NodeStatus, now_ms: int) -> str:
    """What there is to say of a node in a few words, its state first."""
    record = node.record
    took = words.duration(node.seconds(now_ms))
    again = f", attempt {record.attempt}" if record.attempt > 1 else ""
    if node.state is NodeState.RUNNING:
        return f"running {took}{again}"
    if node.state is NodeState.SUCCEEDED:
        verdict = f", {record.verdict}" if record.verdict else ""
        return f"succeeded in {took}{again}{verdict}"
    if node.state is NodeState.FAILED:
        return f"failed after {words.count(record.attempt, 'attempt')}: {words.one_line(record.reason)}"
    if node.state in (NodeState.SKIPPED, NodeState.CANCELLED):
        return words.one_line(f"{node.state}: {record.reason}" if record.reason else str(node.state))
    return words.one_line(node.waits)


def _tally(nodes: Sequence[NodeStatus]) -> str:
    counts = Counter(node.state for node in nodes)
    return ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])


def plain_line(event: Event, opened_ms: int) -> str:
    """One transition as one line, seconds since the run was opened first; '' for one of no interest.

    That a node became ready is left out: it starts at once, or is parked and says why.
    """
    if event.kind == "node.ready":
        return ""
    since = max(0, event.at_ms - opened_ms) / 1000
    name = "integrate" if event.node == INTEGRATE else event.node or "run"
    what = _PLAIN_KINDS.get(event.kind, event.state or event.kind)
    if event.attempt > 1:
        what += f" (attempt {event.attempt})"
    reason = words.one_line(event.reason)
    return f"{since:8.1f}s  {words.one_line(name)}  {what}" + (f"  {reason}" if reason else "")


def status_lines(status: RunStatus) -> list[str]:
    """`agentflow status RUN`: the run, then every node with what it does or waits for."""
    run = status.run
    target = f"  target {run.target}" if run.target else ""
    took = words.duration(status.seconds)
    head = [
        f"{run.id}  {run.state}  {words.one_line(run.feature)}",
        f"{status.done}/{status.total} nodes done in {took}  base {run.base[:12]}{target}",
    ]
    if run.reason:
        head.append(words.one_line(run.reason))
    rows = [
        (
            words.symbol(n.state, ascii_only=False) + " " + node_name(n),
            _role(n),
            detail(n, status.now_ms),
        )
        for n in status.nodes
    ]
    return [*head, "", *words.table(("node", "role", "state"), rows)]
