"""A run on a terminal: pure functions from `RunStatus` to lines, and from transitions to plain lines.

Nothing here reads Redis or the clock. Each node that has ended is one permanent line that scrolls away
above; below it stands a block that is never taller than the terminal: the head, the last failures, what
runs, what waits and for what, the workers' shards, and one line that counts what does not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agentflow.cli import text as words
from agentflow.cli.lines import Line, Look, columns, padded
from agentflow.monitor import INTEGRATE, Event, NodeStatus, RunStatus
from agentflow.raising import change_of, raise_hint
from agentflow.states import CLOSED, TERMINAL, NodeState, RunState

#: Which rows are kept when not all fit, and in what order they stand.
_ORDER = {
    NodeState.RUNNING: 1,
    NodeState.DELAYED: 2,
    NodeState.PARKED: 3,
    NodeState.READY: 4,
    NodeState.PENDING: 5,
}
#: Columns of the progress bar.
BAR = 20
#: Widest column of node ids and of roles.
WIDEST = 28
NARROW = 100
NARROW_WIDEST = 18
#: Failures that stay in sight.
PINNED = 3
#: Rows above the block that are left to what has ended, where the terminal is tall enough.
SCROLLED = 6
#: Rows of waiting nodes in a tall terminal: the rest is counted.
WAITING_SHOWN = 12
#: Nodes that a heartbeat names.
NAMED = 4
_PLAIN_KINDS = {
    "node.started": "running",
    "node.parked": "waits",
    "node.delayed": "comes back later",
    "node.throttled": "waits",
    "node.retry": "retries",
    "node.lost": "worker lost, runs again",
    "node.woken": "ready again",
    "node.reused": "uses a verified commit again",
    "breaker.opened": "fails again and again, is paused",
    "breaker.trial": "is tried",
    "breaker.closed": "goes on",
}
_SIGNS = Look()


def view(status: RunStatus, *, width: int, height: int, notice: str = "", look: Look = _SIGNS) -> list[Line]:
    """The block of a run that goes on: at most `height - 1` lines of at most `width` columns."""
    most = max(1, height - 1)
    top = [_head(status)]
    failed = sorted(
        (n for n in status.nodes if n.state is NodeState.FAILED), key=lambda n: -n.record.ended_ms
    )
    bottom = [line for line in (_shards(status), _fleet(status)) if line]
    if status.run.state is RunState.PAUSED:
        hint = f"{status.run.reason}; {_goes_on(status.run.id, status.run.reason)}"
        bottom.append(Line(words.one_line(hint), "yellow"))
    if notice:
        bottom.append(Line(words.one_line(notice), "yellow"))
    if height <= SCROLLED:
        bottom = bottom[-1:] if notice else []
    wanted = min(most, max(height - SCROLLED, height // 2))
    pinned = [] if status.run.state in CLOSED else failed[: max(0, min(PINNED, wanted - 2 - len(bottom)))]
    room = max(0, wanted - len(top) - len(bottom) - len(pinned))
    shown, hidden = _rows(status, room)
    columns_of = _Widths([*pinned, *shown], width)
    lines = [*top, *(_row(n, status.now_ms, columns_of, look) for n in (*pinned, *shown))]
    if hidden:
        lines.append(Line("  … and " + _tally(hidden), "dim"))
    return [fit(line, width, look) for line in (*lines, *bottom)][:most]


def fit(line: Line, width: int, look: Look) -> Line:
    """A line as this terminal can show it."""
    return line.in_ascii(words.ASCII).cut(width, "~") if look.ascii_only else line.cut(width)


def permanent(node: NodeStatus, now_ms: int, *, width: int, look: Look = _SIGNS) -> Line:
    """What is left of a node that has ended: one line."""
    return fit(_row(node, now_ms, _Widths([node], width, at_least=NARROW_WIDEST), look), width, look)


def _rows(status: RunStatus, room: int) -> tuple[list[NodeStatus], list[NodeStatus]]:
    """Nodes that have not ended: those that are shown, and those that are counted."""
    rows = [
        n
        for n in status.nodes
        if n.state not in TERMINAL and (n.id != INTEGRATE or n.state is not NodeState.PENDING)
    ]
    rows.sort(key=lambda n: (_ORDER[n.state], n.record.started_ms or n.record.ready_ms))
    active = sum(1 for n in rows if n.state is NodeState.RUNNING)
    fitting = min(room, active + WAITING_SHOWN)
    if len(rows) > fitting:
        fitting = max(0, fitting - 1)
    return rows[:fitting], rows[fitting:]


class _Widths:
    """Columns of names and roles, for all rows of one picture."""

    def __init__(self, nodes: Sequence[NodeStatus], width: int, at_least: int = 0) -> None:
        widest = WIDEST if width >= NARROW else NARROW_WIDEST
        self.name = min(widest, max((columns(node_name(n)) for n in nodes), default=0))
        self.name = max(self.name, at_least)
        self.role = min(widest, max((columns(_role(n)) for n in nodes), default=0))
        self.role = max(self.role, min(at_least, 12))


def node_name(node: NodeStatus) -> str:
    """How a node is called in the view: its id; the integration by its plain name."""
    return "integrate" if node.id == INTEGRATE else words.one_line(node.id)


def _role(node: NodeStatus) -> str:
    """The role of a node; the integration is the system's own."""
    return "system" if node.id == INTEGRATE else words.one_line(node.record.role)


def _head(status: RunStatus) -> Line:
    """What matters most comes first: a narrow terminal cuts the end."""
    filled = BAR * status.done // max(1, status.total)
    bar = "█" * filled + "░" * (BAR - filled)
    line = Line(words.one_line(status.run.feature, 40), "bold")
    line.add(f"  {' · '.join(_counted(status))}  {words.duration(status.seconds)}  {bar}  ")
    line.add(str(status.run.state), words.run_style(status.run.state))
    return line.add(f"  {status.run.id}")


def _counted(status: RunStatus) -> list[str]:
    counts = status.counts
    parts = [f"{status.done}/{status.total} done"]
    parts += [
        f"{counts[state]} {state}" for state in (NodeState.FAILED, NodeState.RUNNING) if counts.get(state)
    ]
    waiting = sum(counts.get(s, 0) for s in (NodeState.READY, NodeState.PARKED, NodeState.DELAYED))
    if waiting:
        parts.append(f"{waiting} waiting")
    if status.rolled_back:
        parts.append(f"{status.rolled_back} rolled back")
    if status.shards:
        parts.append(status.shards_told)
    return parts


def _shards(status: RunStatus) -> Line | None:
    """Which worker is at which shard."""
    at = status.shards_of_workers
    if not at:
        return None
    told = "; ".join(f"{words.one_line(worker)}: {', '.join(shards)}" for worker, shards in at.items())
    return Line("shards  ", "dim").add(words.one_line(told))


def _fleet(status: RunStatus) -> Line | None:
    """How many workers serve, and how many of their slots are taken."""
    if not status.fleet:
        return None
    return Line("workers ", "dim").add(status.fleet)


def _row(node: NodeStatus, now_ms: int, widths: _Widths, look: Look) -> Line:
    style = words.style_of(node.state)
    line = Line(words.symbol(node.state, ascii_only=look.ascii_only) + " ", style)
    line.add(padded(node_name(node), widths.name) + "  ")
    line.add(padded(_role(node), widths.role) + "  ", "dim")
    return line.add(detail(node, now_ms), style)


def detail(node: NodeStatus, now_ms: int) -> str:
    """What there is to say of a node in a few words, its state first."""
    record = node.record
    took = words.duration(node.seconds(now_ms))
    again = f", attempt {record.attempt}" if record.attempt > 1 else ""
    if node.state is NodeState.RUNNING:
        return f"running {took}{again}"
    if node.state is NodeState.SUCCEEDED:
        verdict = f", {words.one_line(record.verdict)}" if record.verdict else ""
        if record.reused:
            return f"succeeded: the verified commit of {words.one_line(record.reused)} is used again"
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
    what = _PLAIN_KINDS.get(event.kind, event.state or event.kind)
    if event.attempt > 1:
        what += f" (attempt {event.attempt})"
    reason = words.one_line(event.reason)
    if event.kind == "run.paused":
        reason += f"; {_goes_on(event.run, event.reason)}"
    return f"{_since(event.at_ms, opened_ms)}  {words.one_line(_whose(event))}  {what}" + (
        f"  {reason}" if reason else ""
    )


def _goes_on(run: str, reason: str) -> str:
    """What a run waits for that is paused for this reason; with a spent budget it would be paused again."""
    return f"`{raise_hint(run, [change_of(reason)])}` goes on"


def _whose(event: Event) -> str:
    return "integrate" if event.node == INTEGRATE else event.node or "run"


def _since(at_ms: int, opened_ms: int) -> str:
    return f"{max(0, at_ms - opened_ms) / 1000:8.1f}s"


def heartbeat(status: RunStatus) -> str:
    """What goes on, in one line, for a log in which nothing has moved."""
    running = [n for n in status.nodes if n.state is NodeState.RUNNING]
    waiting = [n for n in status.nodes if n.state in (NodeState.READY, NodeState.PARKED, NodeState.DELAYED)]
    parts = [" · ".join(_counted(status))]
    if running:
        told = [f"{node_name(n)} ({words.duration(n.seconds(status.now_ms))})" for n in running]
        parts.append("running: " + _some(told))
    if waiting:
        told = [f"{node_name(n)} ({words.one_line(n.waits, 120)})" for n in waiting]
        parts.append("waiting: " + _some(told))
    if status.fleet:
        parts.append(f"workers: {status.fleet}")
    return f"{_since(status.now_ms, status.run.opened_ms)}  run  {'; '.join(parts)}"


def ended_before(status: RunStatus) -> str:
    """What had ended when somebody comes back to a run, in one line; '' for nothing."""
    found = _ended(status)
    told = ", ".join(f"{count} {state}" for state, count in found.items() if count)
    if not told:
        return ""
    failed = [node_name(n) for n in status.nodes if n.state is NodeState.FAILED and n.id != INTEGRATE]
    names = f": {_some(failed)}" if failed else ""
    return f"… {words.count(sum(found.values()), 'node')} ended before ({told}){names}"


def _ended(status: RunStatus) -> dict[str, int]:
    """How many nodes have ended in which way; what was rolled back is a way of its own."""
    states = (NodeState.SUCCEEDED, NodeState.FAILED, NodeState.SKIPPED, NodeState.CANCELLED)
    found = {str(state): status.counts.get(state, 0) for state in states}
    found["cancelled"] -= status.rolled_back
    return {**found, "rolled back": status.rolled_back}


def _some(told: Sequence[str]) -> str:
    more = len(told) - NAMED
    return ", ".join(told[:NAMED]) + (f" and {more} more" if more > 0 else "")


def status_lines(status: RunStatus) -> list[str]:
    """`agentflow status RUN`: the run, then every node with what it does or waits for."""
    run = status.run
    target = f"  target {run.target}" if run.target else ""
    took = words.duration(status.seconds)
    amiss = {word: n for word, n in _ended(status).items() if n and word != NodeState.SUCCEEDED}
    unlike = f" ({', '.join(f'{n} {word}' for word, n in amiss.items())})" if amiss else ""
    head = [
        f"{run.id}  {run.state}  {words.one_line(run.feature)}",
        f"{status.done}/{status.total} nodes done{unlike} in {took}  base {run.base[:12]}{target}",
    ]
    if run.reason:
        head.append(words.one_line(run.reason))
    if status.shards:
        head.append(status.shards_told)
    if run.state is RunState.READY_TO_LAND:
        head.append(f"next: agentflow land {run.id}")
    elif run.state in (RunState.PAUSED, RunState.DRAINING):
        head.append(f"next: {raise_hint(run.id, [change_of(run.reason)])}")
    elif status.rolled_back:
        head.append(f"next: agentflow resume {run.id} (does again what was undone)")
    elif run.state in CLOSED and run.state is not RunState.LANDED:
        spent = (change_of(n.record.reason, n.id) for n in status.nodes if n.state is NodeState.FAILED)
        head.append(f"next: {raise_hint(run.id, spent)}")
    rows = [
        (
            words.symbol(n.state, ascii_only=False) + " " + node_name(n),
            _role(n),
            detail(n, status.now_ms),
        )
        for n in status.nodes
    ]
    return [*head, "", *words.table(("node", "role", "state"), rows)]
