"""A plan as text, Mermaid, DOT and JSON: pure functions from `PlanView`, which is plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from agentflow.cli import text as words

#: Pairs of overlapping nodes that are spelled out.
OVERLAPS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node. `needs` are its edges without those that follow from others; `queue` is '' for its role's."""

    id: str
    role: str
    output: str
    needs: tuple[str, ...]
    artifacts: tuple[str, ...]
    priority: str
    optional: bool
    acceptance: tuple[tuple[str, ...], ...]
    stage: str = ""
    shard: str = ""
    queue: str = ""
    appends: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class Overlap(NamedTuple):
    """Two unordered nodes that use one path and do not go together there: `modes` says what each does.

    `waits`: both lock it, so the later one waits and starts from the earlier one's commit. Else they work at
    the same time, and what does not merge then is done again on top.
    """

    first: str
    second: str
    path: str
    modes: tuple[str, str] = ("write", "write")
    waits: bool = True


@dataclass(frozen=True, slots=True)
class PlanView:
    """Everything that can be shown of a plan before it runs.

    `unbound` are change nodes of which nothing says where they will write; `canvas` is the Celery canvas, one
    line per message or chord.
    """

    feature: str
    target: str
    jobs: int
    nodes: tuple[PlannedNode, ...]
    waves: tuple[tuple[str, ...], ...]
    critical_path: tuple[str, ...]
    overlaps: tuple[Overlap, ...]
    canvas: tuple[str, ...]
    unbound: tuple[str, ...] = ()
    #: What it will cost, about, and its ceiling; and the same in words.
    estimate: Mapping[str, Any] = field(default_factory=dict)
    cost: tuple[str, ...] = ()
    #: Seconds of the critical path by what was measured in this project; 0 when nothing was.
    critical_s: float = 0.0


def as_dict(view: PlanView) -> dict[str, Any]:
    """JSON values; `nodes` stand in an order in which they could run one by one."""
    return asdict(view)


def json_lines(view: PlanView) -> list[str]:
    """The same as text."""
    return json.dumps(as_dict(view), indent=2).splitlines()


def text(view: PlanView) -> list[str]:
    """Waves, critical path, overlaps and canvas for people."""
    by_id = {node.id: node for node in view.nodes}
    edges = sum(len(node.needs) for node in view.nodes)
    sizes = (
        words.count(len(view.nodes), "node"),
        words.count(edges, "edge"),
        words.count(len(view.waves), "wave"),
    )
    lines = [f"{words.one_line(view.feature)}: {', '.join(sizes)}, at most {view.jobs} at once", ""]
    for number, wave in enumerate(view.waves, 1):
        lines += [f"wave {number}", *(_node_line(by_id[name]) for name in wave)]
    lines += ["", "order", "  " + ", ".join(node.id for node in view.nodes)]
    long = f", {words.duration(view.critical_s)} as measured here" if view.critical_s else ""
    lines += ["", f"critical path ({words.count(len(view.critical_path), 'node')}{long})"]
    lines.append("  " + " → ".join(view.critical_path))
    waiting = [overlap for overlap in view.overlaps if overlap.waits]
    lines += _overlaps("one after the other, though nothing orders them (locks)", waiting)
    clashing = [overlap for overlap in view.overlaps if not overlap.waits]
    lines += _overlaps("may collide (not declared): merged, or done again on top of the other", clashing)
    if len(view.unbound) > 1:
        lines += ["", "declare nothing and may collide with each other", "  " + ", ".join(view.unbound)]
    return [*lines, *(["", *view.cost] if view.cost else []), "", *canvas(view)]


def _overlaps(title: str, pairs: Sequence[Overlap]) -> list[str]:
    if not pairs:
        return []
    lines = ["", title]
    for a, b, path, (does, did), _ in pairs[:OVERLAPS_SHOWN]:
        how = "" if does == did == "write" else f" ({a} {does}s, {b} {did}s)"
        lines.append(f"  {a}, {b}: {path or 'everything'}{how}")
    if len(pairs) > OVERLAPS_SHOWN:
        lines.append(f"  … and {len(pairs) - OVERLAPS_SHOWN} more")
    return lines


def canvas(view: PlanView) -> list[str]:
    """The Celery canvas for people."""
    return ["canvas (a|b: chain)", *(f"  {line}" for line in view.canvas)]


def _node_line(node: PlannedNode) -> str:
    marks = [node.role]
    if node.output != "change":
        marks.append(node.output)
    if node.priority != "medium":
        marks.append(node.priority)
    if node.optional:
        marks.append("optional")
    also = {"stage": node.stage, "shard": node.shard, "queue": node.queue}
    marks.extend(f"{word} {words.one_line(value)}" for word, value in also.items() if value)
    line = f"  {node.id}  ({', '.join(marks)})"
    if node.needs:
        line += f"  needs {', '.join(node.needs)}"
    written = [path for path in node.artifacts if path not in node.appends]
    for does, paths in (("writes", written), ("appends to", node.appends), ("keeps", node.kept)):
        if paths:
            line += f"  {does} {', '.join(map(words.one_line, paths))}"
    return line


def mermaid(view: PlanView) -> list[str]:
    """A Mermaid flowchart. Ids are of `[a-z0-9_.-]` only, so no label can break out."""
    names = _short_names(view.nodes)
    lines = ["flowchart TD"]
    for node in view.nodes:
        label = f'"{node.id}<br/>{node.role}"'
        shape = f"([{label}])" if node.output == "report" else f"[{label}]"
        lines.append(f"  {names[node.id]}{shape}")
    lines += [f"  {names[parent]} --> {names[node.id]}" for node in view.nodes for parent in node.needs]
    critical = ",".join(names[name] for name in view.critical_path)
    return [*lines, "  classDef critical stroke-width:3px", f"  class {critical} critical"]


def dot(view: PlanView) -> list[str]:
    """A Graphviz digraph."""
    critical = set(view.critical_path)
    lines = ["digraph feature {", "  rankdir=TB;", "  node [shape=box, style=rounded];"]
    for node in view.nodes:
        shape = ", shape=ellipse" if node.output == "report" else ""
        width = ", penwidth=3" if node.id in critical else ""
        lines.append(f'  "{node.id}" [label="{node.id}\\n{node.role}"{shape}{width}];')
    lines += [f'  "{parent}" -> "{node.id}";' for node in view.nodes for parent in node.needs]
    return [*lines, "}"]


def _short_names(nodes: Sequence[PlannedNode]) -> Mapping[str, str]:
    """Mermaid reads `end`, dots and dashes in its own way, so nodes are called n0, n1 and so on."""
    return {node.id: f"n{index}" for index, node in enumerate(nodes)}
