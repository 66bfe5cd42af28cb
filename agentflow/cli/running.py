"""`run`, `resume`, `watch`, `cancel` and `land`: commands that move a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import planning, render_plan, text
from agentflow.cli.options import (
    EventsOption,
    JsonOption,
    Progress,
    ProgressOption,
    RunArgument,
    config_of,
    monitor_of,
    seconds,
)
from agentflow.errors import AgentflowError, Exit, UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.results import RunResult

LandOption = Annotated[bool, typer.Option("--land/--no-land", help="Move the target branch at the end.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (run, resume, watch, cancel, land):
        app.command()(command)


def run(
    ctx: typer.Context,
    file: planning.FileArgument = planning.DEFAULT_FILE,
    *,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this node and what it needs (repeatable).")
    ] = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Nodes at once.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Longest time of the whole run: 90s, 10m, 1h.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and return at once.")] = False,
    sandbox: Annotated[
        str, typer.Option(help="auto, or off: agents may then run commands with your rights.")
    ] = "auto",
    progress: ProgressOption = Progress.AUTO,
    land: LandOption = True,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a feature: its tasks in parallel where the DAG allows it."""
    from agentflow import runs
    from agentflow.local import service

    if sandbox not in ("auto", "off"):
        raise UsageError(f"--sandbox {sandbox!r} is not known", fix="take auto or off")
    config = config_of(ctx)
    spec = planning.load(file, config)
    options = runs.SubmitOptions(
        only=tuple(only or ()),
        jobs=jobs,
        timeout_s=seconds(timeout),
        detach=detach,
        allow_run=sandbox == "off",
        spec_text=file.read_text("utf-8"),
    )
    if dry_run:
        planning.show(planning.view_of(spec, config, only=options.only, jobs=jobs), render_plan.text)
        return
    service.ensure(config)
    run_id = runs.submit(spec, config=config, repo=Path.cwd(), options=options)
    text.say("sandbox: off (not built yet)")
    if detach:
        text.put(json.dumps({"run": run_id}) if as_json else run_id)
        text.say(f"next: agentflow watch {run_id}")
        return
    text.say(f"run {run_id}")
    _to_the_end(run_id, config, progress=progress, events=events, land=land, as_json=as_json)


def resume(
    ctx: typer.Context,
    run: RunArgument = None,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    progress: ProgressOption = Progress.AUTO,
    land: LandOption = True,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run after anything; what succeeded is kept."""
    from agentflow import runs
    from agentflow.local import service

    config = config_of(ctx)
    run_id = monitor_of(config).resolve(run)
    service.ensure(config)
    state = runs.resume(run_id, config=config)
    text.say(f"run {run_id}: {state}")
    if detach:
        text.put(json.dumps({"run": run_id}) if as_json else run_id)
        return
    _to_the_end(run_id, config, progress=progress, events=events, land=land, as_json=as_json)


def watch(
    ctx: typer.Context,
    run: RunArgument = None,
    *,
    progress: ProgressOption = Progress.AUTO,
    land: LandOption = True,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Follow a run to its end; Ctrl-C leaves it running."""
    config = config_of(ctx)
    run_id = monitor_of(config).resolve(run)
    _to_the_end(run_id, config, progress=progress, events=events, land=land, as_json=as_json, owner=False)


def cancel(ctx: typer.Context, run: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """End a run now.

    Waiting nodes are cancelled and running ones stopped; `resume` goes on from there.
    """
    from agentflow import runs

    config = config_of(ctx)
    monitor = monitor_of(config)
    if run is None:
        found = monitor.open_runs()
        if len(found) != 1:
            ids = ", ".join(record.id for record in found)
            raise UsageError(
                f"{len(found)} runs are open: {ids}" if found else "no run is open", fix="name the run"
            )
        run = found[0].id
    run_id = monitor.resolve(run)
    state = runs.cancel(run_id, config=config)
    text.put(json.dumps({"run": run_id, "state": state}) if as_json else f"{run_id}: {state}")


def land(ctx: typer.Context, run: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """Move the target branch to the result of a finished run."""
    from agentflow import runs

    config = config_of(ctx)
    run_id = monitor_of(config).resolve(run)
    _tell(runs.land(run_id, config=config), config, as_json=as_json)


def _to_the_end(
    run_id: str,
    config: Config,
    *,
    progress: Progress,
    events: bool,
    land: bool,
    as_json: bool,
    owner: bool = True,
) -> None:
    """Follow, publish, land, say how it ended, and leave with the run's exit code."""
    from agentflow import runs
    from agentflow.cli.attach import attach

    if not attach(run_id, config=config, progress=progress, events=events, owner=owner):
        text.say(f"still running; agentflow watch {run_id}")
        raise typer.Exit(int(Exit.INTERRUPTED))
    try:
        result = runs.finish(run_id, config=config, take=land)
    except AgentflowError as error:
        # The work is done and kept; only its landing was refused.
        _tell(runs.result(run_id, config=config), config, as_json=as_json, to_stderr=events)
        text.say(text.clean(error.explain()))
        raise typer.Exit(int(error.exit_code)) from None
    _tell(result, config, as_json=as_json, to_stderr=events)
    raise typer.Exit(result.exit_code)


def _tell(result: RunResult, config: Config, *, as_json: bool, to_stderr: bool = False) -> None:
    """The result as JSON or as lines; beside NDJSON events the lines go to stderr."""
    from agentflow.cli import summary

    if as_json:
        text.put(json.dumps(result.as_dict()))
        return
    for line in summary.lines(result, _diffstat(result, config)):
        (text.say if to_stderr else text.put)(line)


def _diffstat(result: RunResult, config: Config) -> str:
    from agentflow import runs

    return runs.diff(result.run, None, config=config, stat=True) if result.commit else ""
