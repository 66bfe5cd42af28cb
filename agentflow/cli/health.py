"""`agentflow health`: whether the worker of this host makes progress, for whoever would restart it.

Exit 0 or 1. A Redis that is away says nothing about the worker, which keeps its attempts meanwhile;
a restart would throw them away. So that is exit 0 too.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, config_of
from agentflow.errors import AgentflowError, Exit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(health)


def health(
    ctx: typer.Context,
    worker: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A worker's name, or its part before the @; else all here."),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say whether the worker on this host makes progress (exit 0 or 1), for health checks."""
    workers, wrong, unknown = _look(ctx, worker)
    if as_json:
        told = {"ok": not wrong, "workers": workers, "wrong": wrong, "unknown": unknown}
        text.put(json.dumps(told, indent=2))
    elif unknown:
        text.say(f"the worker cannot be judged: {text.clean(unknown)}")
    else:
        for line in wrong or [f"{name} makes progress" for name in workers]:
            text.put(text.clean(line))
    if wrong:
        raise typer.Exit(int(Exit.FAILED))


def _look(ctx: typer.Context, worker: str | None) -> tuple[list[str], list[str], str]:
    """Names of the workers that were looked at, what is wrong, and what could not be asked."""
    from agentflow.monitor.progress import NO_ANSWER, Progress

    try:
        found = Progress(config_of(ctx)).judge(worker)
    except AgentflowError as error:
        if error.code == NO_ANSWER:
            return [], [], error.what
        # The worker has the same configuration: it cannot work with it either.
        return [], [f"{error.what} [{error.code}]"], ""
    return list(found.workers), list(found.wrong), ""
