"""`run`, `resume`, `watch` and `land`: commands that move a run."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import asking, budgets, outputs, planning, render_plan, steering, text
from agentflow.cli import run_options as wanted
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
    from agentflow.cli.attach import Before
    from agentflow.config import Config
    from agentflow.results import RunResult
    from agentflow.runs import SubmitOptions
    from agentflow.spec.models import Spec

#: Where the command was typed; commands may work elsewhere (`-C`, `demo`).
_SHELL_DIRECTORY = Path.cwd()
FromStartOption = Annotated[
    bool, typer.Option("--from-start", help="Show what was before too, not only what is new.")
]
LandOption = Annotated[bool, typer.Option("--land/--no-land", help="Move the target branch at the end.")]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a run is shown and ended. `owner`: Ctrl-C is meant for the run, not only for the view.

    `out` is the directory that gets the results as files; what was before `since` is summed up.
    """

    progress: Progress = Progress.AUTO
    events: bool = False
    as_json: bool = False
    land: bool = True
    owner: bool = True
    out: Path | None = None
    since: Before | None = None


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (run, resume, watch, land):
        app.command()(command)


def run(
    ctx: typer.Context,
    asked: planning.AskedArgument = None,
    *,
    files: planning.FilesOption = None,
    only: planning.OnlyOption = None,
    jobs: wanted.JobsOption = None,
    parallel: wanted.ParallelOption = True,
    runner: wanted.RunnerOption = None,
    strategy: planning.StrategyOption = None,
    shards: planning.ShardsOption = None,
    yes: wanted.YesOption = False,
    timeout: wanted.TimeoutOption = None,
    budget: wanted.BudgetOption = None,
    no_cache: wanted.NoCacheOption = False,
    dry_run: wanted.DryRunOption = False,
    detach: wanted.DetachOption = False,
    sandbox: wanted.SandboxOption = "auto",
    distributed: wanted.DistributedOption = False,
    redis: wanted.RedisOption = None,
    workers: wanted.WorkersOption = None,
    out: wanted.OutOption = None,
    progress: ProgressOption = Progress.AUTO,
    land: LandOption = True,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a feature: its tasks in parallel where the DAG allows it.

    Words are taken, in this order, for a file, for a role and what it is to do, for a line such as
    'review auth.py AND test auth.py', or for something to be planned first.
    """
    from agentflow import runs

    if sandbox not in ("auto", "off"):
        raise UsageError(f"--sandbox {sandbox!r} is not known", fix="take auto or off")
    if not parallel and jobs not in (None, 1):
        raise UsageError(f"--no-parallel and -j {jobs} exclude each other", fix="take one of them")
    config = config_of(ctx, {"redis.url": redis})
    options = runs.SubmitOptions(
        distributed=distributed or redis is not None,
        only=tuple(only or ()),
        jobs=jobs if parallel else 1,
        timeout_s=seconds(timeout),
        detach=detach,
        no_cache=no_cache,
        allow_run=sandbox == "off",
        budget=tuple(budgets.changes_of(budget, config)),
    )
    found = asking.understand(
        asked or (), config, asking.Options(tuple(files or ()), strategy, shards, runner)
    )
    if found.saved is not None:
        text.say(found.text.rstrip("\n"))
        text.say(f"saved {found.saved}")
    if dry_run:
        view = planning.view_of(found.spec, config, only=options.only, jobs=options.jobs)
        planning.show(view, render_plan.json_lines if as_json else render_plan.text)
        return
    asking.confirm(found, yes=yes)
    if workers:
        start_workers(config, workers)
    options = replace(options, spec_text=found.text)
    manner = Manner(progress, events=events, as_json=as_json, land=land, out=out)
    carry_out(found.spec, config, options, manner)


def start_workers(config: Config, workers: int) -> None:
    """Start worker processes on this machine that listen to the team's Redis."""
    from agentflow import fleet, runs

    runs.transport_for(config, distributed=True)
    names = fleet.spawn(config, workers, wait=True)
    text.say(f"{len(names)} worker processes started here: {', '.join(names)}")


def execute(file: Path, config: Config, options: SubmitOptions, manner: Manner) -> None:
    """`carry_out` for a feature file."""
    spec = planning.load(file, config)
    carry_out(spec, config, replace(options, spec_text=file.read_text("utf-8")), manner)


def carry_out(spec: Spec, config: Config, options: SubmitOptions, manner: Manner) -> None:
    """Submit a spec for the repository of the current directory; unless detached, see it through."""
    from agentflow import runs
    from agentflow.local import service

    runs.transport_for(config, distributed=options.distributed)  # refused before anything is started
    service.ensure(config, worker=False)
    run_id = runs.submit(
        spec, config=config, repo=Path.cwd(), options=options, tell=lambda note: text.say(text.clean(note))
    )
    service.ensure(config)
    text.say(f"run {run_id}")
    text.say("sandbox: off (not built yet)")
    if options.detach:
        text.put(json.dumps({"run": run_id}) if manner.as_json else run_id)
        text.say(f"next: agentflow watch {run_id}")
        return
    _to_the_end(run_id, config, manner)


def resume(
    ctx: typer.Context,
    run: RunArgument = None,
    *,
    role: Annotated[str | None, typer.Option("--role", help="End the pause of this role instead.")] = None,
    fleet: Annotated[
        bool, typer.Option("--fleet", help="End the pause, or drain, of the fleet instead.")
    ] = False,
    budget: budgets.BudgetOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    progress: ProgressOption = Progress.AUTO,
    from_start: FromStartOption = False,
    land: LandOption = True,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run after anything, the loss of Redis' data too; what succeeded is kept."""
    from agentflow import runs
    from agentflow.local import service

    config = config_of(ctx)
    if role or fleet:
        if budget:
            raise UsageError(
                "--budget is of a run; --role and --fleet end a pause in every run",
                why="nothing was resumed",
                fix=f"of a role in a run: agentflow resume RUN --budget {role or 'backend'}.usd=+5",
            )
        steering.go_on(config, run, role, fleet=fleet, as_json=as_json)
        return
    service.ensure(config)
    run_id = runs.find(run, config=config, repo=Path.cwd())
    since = None if from_start else _before(run_id, config)
    state = runs.resume(
        run_id, config=config, repo=Path.cwd(), tell=text.say, budget=budgets.changes_of(budget, config)
    )
    text.say(f"run {run_id}: {state}" + (" already; nothing is left to do" if state == "landed" else ""))
    if detach:
        text.put(json.dumps({"run": run_id}) if as_json else run_id)
        return
    manner = Manner(progress, events=events, as_json=as_json, land=land, since=since)
    _to_the_end(run_id, config, manner)


def watch(
    ctx: typer.Context,
    run: RunArgument = None,
    *,
    progress: ProgressOption = Progress.AUTO,
    from_start: FromStartOption = False,
    land: LandOption = True,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Follow a run to its end; Ctrl-C leaves it running. What was before is summed up in one line."""
    config = config_of(ctx)
    run_id = monitor_of(config).resolve(run)
    since = None if from_start else _before(run_id, config)
    _to_the_end(run_id, config, Manner(progress, events, as_json, land, owner=False, since=since))


def _before(run_id: str, config: Config) -> Before:
    from agentflow.cli.attach import before

    return before(run_id, config=config)


def land(ctx: typer.Context, run: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """Move the target branch to the result of a finished run."""
    from agentflow import runs

    config = config_of(ctx)
    run_id = monitor_of(config).resolve(run)
    _tell(runs.land(run_id, config=config, repo=Path.cwd()), config, Manner(as_json=as_json))


def _to_the_end(run_id: str, config: Config, manner: Manner) -> None:
    """Follow, publish, land, say how it ended, and leave with the run's exit code."""
    from agentflow import runs
    from agentflow.cli.attach import attach

    if not attach(
        run_id, config=config, progress=manner.progress, events=manner.events, owner=manner.owner,
        since=manner.since,
    ):  # fmt: skip
        text.say(f"still running; agentflow watch {run_id}")
        raise typer.Exit(int(Exit.INTERRUPTED))
    try:
        result = runs.finish(run_id, config=config, take=manner.land, repo=Path.cwd())
    except AgentflowError as error:
        # The work is done and kept; only its landing was refused.
        result = runs.result(run_id, config=config)
        code = _hand_over(result, int(error.exit_code), config, manner)
        _tell(result, config, manner)
        text.say(text.clean(error.explain()))
        raise typer.Exit(code) from None
    code = _hand_over(result, result.exit_code, config, manner)
    _tell(result, config, manner)
    raise typer.Exit(code)


def _hand_over(result: RunResult, code: int, config: Config, manner: Manner) -> int:
    return outputs.hand_over(result, code, config=config, events=manner.events, out=manner.out)


def _tell(result: RunResult, config: Config, manner: Manner) -> None:
    """The result as JSON or as lines; beside NDJSON events the lines go to stderr."""
    from agentflow.cli import summary

    if manner.as_json:
        text.put(json.dumps(result.as_dict()))
        return
    for line in summary.lines(result, _diffstat(result, config), git=_git(result, config)):
        (text.say if manner.events else text.put)(line)


def _git(result: RunResult, config: Config) -> str:
    """Git as it is typed where the user's shell is (`demo` works in a directory of its own)."""
    from agentflow.runs import kept

    here = _SHELL_DIRECTORY.resolve()
    root = kept.lands_in(result.run, config=config, repo=Path.cwd()).resolve()
    return "git" if here == root or root in here.parents else f"git -C {shlex.quote(str(root))}"


def _diffstat(result: RunResult, config: Config) -> str:
    from agentflow.runs import kept

    return kept.diff(result.run, None, config=config, stat=True) if result.commit else ""
