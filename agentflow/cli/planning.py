"""`plan` and `schema`: what a feature file means, without running it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import render_plan, text
from agentflow.cli.options import JsonOption, config_of
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.canvas.compile import Canvas
    from agentflow.canvas.plan import Plan, PlanNode
    from agentflow.config import Config
    from agentflow.spec.changes import Changes
    from agentflow.spec.models import Spec


class Strategy(StrEnum):
    """How tasks are ordered besides their needs."""

    CONCURRENT = "concurrent"
    PIPELINE = "pipeline"
    HYBRID = "hybrid"


AskedArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE | ROLE WORDS | LINE | WORDS",
        help="A feature file (feature.yaml); a role and words; 'review a.py AND test a.py'; "
        "or what is to be built, for the planner.",
        show_default=False,
    ),
]
OnlyOption = Annotated[list[str] | None, typer.Option(help="Only this node and what it needs (repeatable).")]
FilesOption = Annotated[
    list[str] | None,
    typer.Option("--files", metavar="FILE,...", help="Files that every task reads; with --shards: its part."),
]
StrategyOption = Annotated[
    Strategy | None, typer.Option(help="Order tasks so, whatever the file says.", show_default=False)
]
ShardsOption = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Every task (or the chain) so many times.")
]
DEFAULT_FILE = Path("feature.yaml")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(plan)
    app.command()(schema)


def plan(
    ctx: typer.Context,
    asked: AskedArgument = None,
    *,
    only: OnlyOption = None,
    template: Annotated[
        str | None,
        typer.Option(help="Start from fullstack, microservices, refactor or bugfix; needs no model."),
    ] = None,
    files: FilesOption = None,
    strategy: StrategyOption = None,
    shards: ShardsOption = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A Mermaid flowchart.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="A Graphviz digraph.")] = False,
    canvas: Annotated[bool, typer.Option("--canvas", help="Only the Celery canvas.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a feature file and show its order; make one of words or of a template."""
    from agentflow.cli import asking

    if sum((mermaid, dot, canvas, as_json)) > 1:
        raise UsageError(
            "more than one form was asked for", fix="take one of --mermaid, --dot, --canvas, --json"
        )
    config = config_of(ctx)
    options = asking.Options(tuple(files or ()), strategy, shards)
    if template is not None:
        found = asking.of_template(template, asked or (), config, options)
    else:
        found = asking.understand(asked or (), config, options)
    if found.saved is not None and not (mermaid or dot or canvas or as_json):
        text.put(found.text.rstrip("\n"))
    else:
        view = view_of(found.spec, config, only=tuple(only or ()))
        form = render_plan.mermaid if mermaid else render_plan.dot if dot else render_plan.text
        show(view, render_plan.json_lines if as_json else render_plan.canvas if canvas else form)
    if found.saved is not None:
        text.say(f"saved {found.saved}")
        text.say(f"next: agentflow run {shlex.quote(str(found.saved))}")


def drafted(words: str, config: Config, files: Sequence[str]) -> tuple[Path, str]:
    """Plan words by the planner's model; where the feature file was saved, and its text."""
    from agentflow import drafting

    draft = drafting.draft(
        words, config=config, repo=Path.cwd(), files=files, tell=lambda note: text.say(text.clean(note))
    )
    return drafting.save(draft, drafting.file_for(draft, Path())), draft.yaml


def schema() -> None:
    """Print the JSON Schema of feature files."""
    from agentflow.spec.schema import json_schema

    text.put(json.dumps(json_schema(), indent=2))


def show(view: render_plan.PlanView, form: Callable[[render_plan.PlanView], list[str]]) -> None:
    """Print a plan in one of its forms."""
    for line in form(view):
        text.put(line)


def load(file: Path, config: Config, changes: Changes | None = None) -> Spec:
    """Read a feature file; raises `SpecError` with all that is wrong, `UsageError` when there is none."""
    from agentflow.spec.reader import NO_CHANGES, load_spec

    if not file.is_file():
        raise UsageError(
            f"there is no file {file}",
            fix="`agentflow init` writes a feature.yaml to start from" if file == DEFAULT_FILE else "",
            code="AF-USAGE-001",
        )
    return load_spec(file, config, changes or NO_CHANGES)


def view_of(
    spec: Spec, config: Config, *, only: tuple[str, ...] = (), jobs: int | None = None
) -> render_plan.PlanView:
    """Plan and compile a spec for showing."""
    from agentflow import graph
    from agentflow.app import make_app
    from agentflow.canvas.compile import Canvas
    from agentflow.canvas.plan import make_plan
    from agentflow.runs.forecast import Forecast

    here = Forecast.here(config, Path.cwd())
    made = here.settled(make_plan(spec, config, only=only, jobs=jobs), jobs=jobs)
    cost = here.cost(made)
    weight, is_measured = here.weights(made)
    critical = graph.critical_path(made.parents, weight)
    return render_plan.PlanView(
        feature=made.feature,
        target=made.target,
        jobs=made.max_concurrent,
        nodes=tuple(
            render_plan.PlannedNode(
                id=node.id,
                role=node.role,
                output=node.output,
                needs=tuple(made.parents[node.id]),
                artifacts=node.artifacts if node.declared else (),
                priority=node.priority,
                optional=node.optional,
                acceptance=node.acceptance,
                stage=node.stage,
                shard=node.shard,
                queue=node.queue,
                appends=node.appends,
                kept=node.kept,
            )
            for node in made.nodes
        ),
        waves=tuple(tuple(wave) for wave in graph.waves(made.parents)),
        critical_path=tuple(critical),
        critical_s=round(sum(weight[node] for node in critical), 1) if is_measured else 0.0,
        overlaps=tuple(overlaps(made)),
        unbound=tuple(n.id for n in made.nodes if n.output == "change" and not n.artifacts),
        canvas=tuple(canvas_lines(Canvas(made, "RUN", 1, make_app(config)))),
        estimate=cost.as_dict(),
        cost=tuple(cost.lines) if cost.says_something else (),
    )


def overlaps(made: Plan) -> list[render_plan.Overlap]:
    """Pairs of unordered nodes that do not go together at a path, and what each does with it.

    Where both hold locks one waits for the other. Where one declares nothing (its role's patterns tell what
    it may write) they work at the same time, and what does not merge is done again on top.
    """
    users: dict[str, list[tuple[str, str, bool]]] = {}
    for node in made.nodes:
        for lock in node.locks:
            users.setdefault(lock.path, []).append((node.id, lock.mode, True))
        for path in _undeclared(node):
            users.setdefault(path, []).append((node.id, "write", False))
    found: dict[tuple[str, str], render_plan.Overlap] = {}
    order = {node.id: place for place, node in enumerate(made.nodes)}
    for path, here in users.items():
        above = [users.get(other, []) for other in _directories(path)]
        for one in here:
            for other in {user for group in (here, *above) for user in group}:
                (a, does, locks), (b, did, locked) = sorted((one, other), key=lambda user: order[user[0]])
                shared = does == did != "write"
                if a != b and not shared and a not in made.ancestors[b] and b not in made.ancestors[a]:
                    overlap = render_plan.Overlap(a, b, path, (does, did), locks and locked)
                    found.setdefault((a, b), overlap)
    return sorted(found.values(), key=lambda overlap: (order[overlap.first], order[overlap.second]))


def _undeclared(node: PlanNode) -> set[str]:
    """The paths that a node may write without locking them; none when nothing says where it will write."""
    from agentflow.spec.artifacts import lock_path

    return set() if node.declared else {lock_path(pattern) for pattern in node.artifacts}


def _directories(path: str) -> list[str]:
    """Every directory above a lock path; the tree's top is the empty path."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(len(parts))] if path else []


def canvas_lines(canvas: Canvas) -> list[str]:
    """The real Celery objects: what is sent at once, what each fork sends, then every chord."""
    lines = [f"at once: {describe(canvas.tails(canvas.roots()))}"]
    for segment in canvas.segments.values():
        fork = canvas.fork(segment[-1])
        if fork:
            lines.append(f"after {segment[-1]}: {describe(canvas.tails(fork))}")
    return lines + [describe(canvas.chord(join)) for join in canvas.joins.values()]


def describe(signature: Any) -> str:
    """A Celery signature with nodes for tasks: `a|b`, `group(a, b|c)`, `chord([a, b], c)`."""
    kind = signature["task"]
    if kind == "celery.chain":
        return "|".join(map(describe, signature.tasks))
    if kind == "celery.group":
        return f"group({', '.join(map(describe, signature.tasks))})"
    if kind == "celery.chord":
        header = getattr(signature.tasks, "tasks", signature.tasks)
        return f"chord([{', '.join(map(describe, header))}], {describe(signature.body)})"
    return str(signature["args"][1]).removeprefix("@")
