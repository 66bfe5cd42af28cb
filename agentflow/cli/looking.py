"""`runs`, `status`, `events`, `logs`, `diff` and `why`: commands that only look."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import text
from agentflow.cli.options import (
    JsonOption,
    RunArgument,
    WordsArgument,
    config_of,
    monitor_of,
    run_and_node,
)
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.monitor import Monitor, Overview, RunRecord, WorkerStatus

#: Runs that `status` lists beside the open ones.
RECENT = 5
#: Between two looks at the list of system events.
SYSTEM_LOOK_S = 1.0


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (runs, status, events, logs, diff, why):
        app.command()(command)


def runs(
    ctx: typer.Context,
    *,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="How many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    from agentflow.monitor import run_as_dict

    found = monitor_of(config_of(ctx)).runs()[:limit]
    if as_json:
        text.put(json.dumps([run_as_dict(record) for record in found], indent=2))
        return
    if not found:
        text.say("no run is known here; `agentflow run FILE` starts one")
        return
    for line in _table(found):
        text.put(line)


def status(ctx: typer.Context, run: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """Show a run and its nodes; without RUN all that goes on."""
    from agentflow.cli import live

    config = config_of(ctx)
    monitor = monitor_of(config)
    if run is None:
        _all_that_goes_on(monitor, config, as_json=as_json)
        return
    seen = monitor.status(monitor.resolve(run))
    if as_json:
        text.put(json.dumps(seen.as_dict(), indent=2))
        return
    for line in live.status_lines(seen):
        text.put(line)


def _all_that_goes_on(monitor: Monitor, config: Config, *, as_json: bool) -> None:
    from dataclasses import asdict

    from agentflow import fleet
    from agentflow.cli.fleet import say_what_is_held
    from agentflow.local import service

    overview = monitor.overview({*config.roles, *monitor.known_queues()})
    server = service.status(config)
    local = asdict(server) if server else None
    if as_json:
        told = {"redis": config.shown_url(), "local": local, **overview.as_dict()}
        text.put(json.dumps(told, indent=2))
        return
    where = f"  ({local['server_version']}, process {local['server']})" if local else ""
    text.put(f"redis    {config.shown_url()}{where}")
    for line in overview_lines(overview, is_local=bool(local)):
        text.put(line)
    say_what_is_held(fleet.status(config))


def overview_lines(overview: Overview, *, is_local: bool = False) -> list[str]:
    """Workers (processes), their slots, queues, nodes by state, runs, and what can be landed."""
    from agentflow.monitor import fleet_told
    from agentflow.states import CLOSED, NodeState, RunState

    lines = [f"workers  {fleet_told(overview.workers)}"]
    if not overview.workers and is_local:
        lines[0] += " (one starts with the next run)"
    lines += [_worker_line(worker) for worker in overview.workers]
    lines += [
        f"queue    {text.one_line(name)}: {text.count(length, 'message')} waiting"
        for name, length in overview.queues.items()
    ]
    if overview.tasks:
        told = ", ".join(f"{overview.tasks[s]} {s}" for s in NodeState if overview.tasks.get(s))
        lines.append(f"nodes    {told} (of open runs)")
    still_open = [run for run in overview.runs if run.state not in CLOSED]
    waiting = [run for run in overview.runs if run.state is RunState.READY_TO_LAND]
    recent = [run for run in overview.runs if run not in still_open and run not in waiting][:RECENT]
    lines += ["", *_table([*still_open, *waiting, *recent])]
    if waiting:
        lines += ["", *(f"next: agentflow land {run.id}" for run in waiting)]
    return lines


def _worker_line(worker: WorkerStatus) -> str:
    record = worker.record
    reason = f"  ({text.one_line(record.reason)})" if record.reason else ""
    return (
        f"worker   {text.one_line(record.name)}  {worker.state}{reason}  {record.busy}/{record.slots} slots  "
        f"process {record.pid} on {text.one_line(record.host)}"
    )


def _table(found: list[RunRecord]) -> list[str]:
    rows = [
        (
            record.id,
            f"{record.state}, rolled back" if record.is_rolled_back else str(record.state),
            f"{record.nodes_ended}/{record.nodes_total}",
            _when(record.opened_ms),
            record.feature,
        )
        for record in found
    ]
    return text.table(("run", "state", "ended", "opened", "feature"), rows)


def _when(stamp_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(stamp_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def events(
    ctx: typer.Context,
    run: RunArgument = None,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the run is at rest.")] = False,
    system: Annotated[
        bool,
        typer.Option("--system", help="The list system_events: every run's, and what is done to the fleet."),
    ] = False,
) -> None:
    """Print the transitions of a run as NDJSON.

    The stream of a run that is at rest ends in exactly one line of the kind run.finished.
    """
    from agentflow import runs as running
    from agentflow.cli.attach import tell_finished
    from agentflow.monitor import event_as_dict, reachable

    config = config_of(ctx)
    monitor = monitor_of(config)
    if system:
        _system_events(monitor, follow=follow)
        return
    run_id = monitor.resolve(run)
    with reachable(config.client_url()):
        for event in running.follow(run_id, config=config) if follow else monitor.history(run_id):
            text.put(json.dumps(event_as_dict(event)))
        if follow or monitor.is_closed(run_id):
            tell_finished(run_id, config, running.result(run_id, config=config).exit_code)


def _system_events(monitor: Monitor, *, follow: bool) -> None:
    """The list, oldest first; followed by looking at it: nothing tells that a list has changed."""
    from time import sleep

    known: list[dict[str, Any]] = []
    while True:
        now = monitor.system_events()
        for entry in now[overlap(known, now) :]:
            text.put(json.dumps(entry))
        if not follow:
            return
        known = now
        sleep(SYSTEM_LOOK_S)


def overlap(known: list[dict[str, Any]], now: list[dict[str, Any]]) -> int:
    """How many of the entries at the beginning of `now` were seen before: a capped list loses old ones."""
    most = min(len(known), len(now))
    return next((size for size in range(most, 0, -1) if known[-size:] == now[:size]), 0)


def logs(
    ctx: typer.Context,
    words: WordsArgument = None,
    *,
    paths: Annotated[bool, typer.Option("--paths", help="Only the names of the files.")] = False,
) -> None:
    """Print the logs of a run or of one of its nodes.

    Of each attempt: what the agent printed, its acceptance, its transcript.
    """
    from agentflow.runs import kept

    config = config_of(ctx)
    run_id, node = run_and_node(monitor_of(config), words)
    found = kept.log_files(run_id, node, config=config)
    if not found:
        text.say(f"there is no log of {node or 'any node'} in run {run_id} on this machine")
    for path in found:
        if paths:
            text.put(str(path))
            continue
        text.say(f"==> {path} <==")
        _copy(path)


def _copy(path: Path) -> None:
    """A log to stdout; its control sequences go to a file or pipe only."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            text.put(text.clean(line.rstrip("\n"))) if sys.stdout.isatty() else sys.stdout.write(line)


def diff(
    ctx: typer.Context,
    words: WordsArgument = None,
    *,
    stat: Annotated[bool, typer.Option("--stat", help="Files and line counts only.")] = False,
) -> None:
    """Show what a run or one of its nodes changed."""
    from agentflow.runs import kept

    config = config_of(ctx)
    run_id, node = run_and_node(monitor_of(config), words)
    shown = kept.diff(run_id, node, config=config, stat=stat)
    if shown.strip():
        text.put(text.clean(shown.rstrip("\n")) if sys.stdout.isatty() else shown.rstrip("\n"))
    else:
        text.say(f"nothing was changed by {node or run_id}")


def why(ctx: typer.Context, words: WordsArgument = None, *, as_json: JsonOption = False) -> None:
    """Say why a node is where it is."""
    monitor = monitor_of(config_of(ctx))
    run_id, node = run_and_node(monitor, words)
    if node is None:
        raise UsageError("which node?", fix=f"agentflow why {run_id} NODE")
    reason = monitor.why(run_id, node)
    record = monitor.node(run_id, node)
    fix = record.fix if record.state == "failed" else ""
    if as_json:
        text.put(
            json.dumps({"run": run_id, "node": node, "why": reason, "fix": fix, "feedback": record.feedback})
        )
        return
    text.put(f"{node} {text.clean(reason)}")
    if fix:
        text.put(f"  fix: {text.one_line(fix)}")
    if record.feedback:
        text.put("its last red attempt left this for the next one:")
        for line in text.clean(record.feedback).splitlines():
            text.put(f"  {line}")
