"""A plan as text, Mermaid, DOT and JSON: pure functions from `PlanView`, which is plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class PlanView:
    """Everything that can be shown of a plan before it runs.

    `overlaps` are pairs of unordered nodes that lock the same path (they run one after the other);
    `canvas` is the Celery canvas, one line per message or chord.
    """

    feature: str
    target: str
    jobs: int
    nodes: tuple[PlannedNode, ...]
    waves: tuple[tuple[str, ...], ...]
    critical_path: tuple[str, ...]
    overlaps: tuple[tuple[str, str, str], ...]
    canvas: tuple[str, ...]


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
    lines += ["", f"critical path ({words.count(len(view.critical_path), 'node')})"]
    lines.append("  " + " → ".join(view.critical_path))
    if view.overlaps:
        lines += ["", "one after the other, though nothing orders them (both write the same)"]
        lines += [f"  {a}, {b}: {path or 'everything'}" for a, b, path in view.overlaps[:OVERLAPS_SHOWN]]
        if len(view.overlaps) > OVERLAPS_SHOWN:
            lines.append(f"  … and {len(view.overlaps) - OVERLAPS_SHOWN} more")
    return [*lines, "", *canvas(view)]


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
    if node.artifacts:
        line += f"  writes {', '.join(map(words.one_line, node.artifacts))}"
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
