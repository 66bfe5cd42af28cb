"""`checkpoints` and `rollback`: what a run can return to, and returning."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, RunArgument, config_of, monitor_of

if TYPE_CHECKING:
    from agentflow.runs.rollback import RolledBack

#: Nodes that are named in one line.
NAMED = 10
#: Digits of a commit that people are shown.
SHORT = 12


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (checkpoints, rollback):
        app.command()(command)


def checkpoints(ctx: typer.Context, run: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """List what a run can be rolled back to."""
    from agentflow.runs import rollback as back

    config = config_of(ctx)
    run_id = monitor_of(config).resolve(run)
    found = back.list_checkpoints(run_id, config=config)
    if as_json:
        text.put(json.dumps([asdict(point) for point in found]))
        return
    rows = [
        (text.one_line(p.name), p.commit[:SHORT], f"refs/agentflow/runs/{run_id}/{text.one_line(p.ref)}")
        for p in found
    ]
    for line in text.table(("checkpoint", "commit", "ref, once it was published"), rows):
        text.put(line)


def rollback(
    ctx: typer.Context,
    run: RunArgument = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="CHECKPOINT", help="A node, before:NODE, a stage, start (default), or result."
        ),
    ] = "",
    keep_successful: Annotated[
        bool, typer.Option("--keep-successful", help="Keep verified work that depends on nothing undone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Return to a checkpoint of a finished run: its branch, then its work.

    `resume` does again what was undone.
    """
    from agentflow.runs import rollback as back

    config = config_of(ctx)
    run_id = monitor_of(config).resolve(run)
    done = back.roll_back(run_id, config=config, repo=Path.cwd(), to=to, keep_successful=keep_successful)
    if as_json:
        text.put(json.dumps(done.as_dict()))
        return
    for line in _lines(done):
        text.put(line)


def _lines(done: RolledBack) -> list[str]:
    said = [f"rolled back to {text.one_line(done.to)}: {done.run}"]
    if done.branch:
        where = f"at {done.branch_at[:SHORT]} again" if done.branch_at else "gone again: the run had made it"
        said.append(f"  the branch {done.branch} is {where}")
    parts = (("undone", done.undone), ("kept", done.kept))
    said += [f"  {word}: {_named(names)}" for word, names in parts if names]
    if not done.undone:
        said.append("  no work is undone")
    if done.ref:
        said.append(f"  its tree: git worktree add --detach ../before {done.ref}")
    return [*said, f"next: agentflow resume {done.run}"]


def _named(names: tuple[str, ...]) -> str:
    more = len(names) - NAMED
    return text.one_line(", ".join(names[:NAMED])) + (f" and {more} more" if more > 0 else "")
