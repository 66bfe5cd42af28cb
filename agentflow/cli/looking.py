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
    from agentflow.monitor import Monitor, RunRecord

#: Runs that `status` lists beside the open ones.
RECENT = 5


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
        overview = _overview(monitor, config)
        if as_json:
            text.put(json.dumps(overview, indent=2))
        else:
            for line in _overview_lines(monitor, overview):
                text.put(line)
        return
    seen = monitor.status(monitor.resolve(run))
    if as_json:
        text.put(json.dumps(seen.as_dict(), indent=2))
        return
    for line in live.status_lines(seen):
        text.put(line)


def _overview(monitor: Monitor, config: Config) -> dict[str, Any]:
    from dataclasses import asdict

    from agentflow.local import service
    from agentflow.monitor import run_as_dict

    server = service.status(config)
    return {
        "redis": config.redis_url or config.client_url(),
        "local": asdict(server) if server else None,
        "workers": [asdict(worker.record) | {"state": worker.state} for worker in monitor.workers()],
        "queues": monitor.queues(config.roles),
        "runs": [run_as_dict(record) for record in monitor.runs()],
    }


def _overview_lines(monitor: Monitor, overview: dict[str, Any]) -> list[str]:
    local = overview["local"]
    lines = [
        f"redis    {overview['redis']}"
        + (f"  ({local['server_version']}, process {local['server']})" if local else ""),
        *(
            f"worker   {w['name']}  {w['state']}  {w['busy']}/{w['slots']} slots  process {w['pid']}"
            for w in overview["workers"]
        ),
    ]
    if not overview["workers"]:
        lines.append("worker   none (one starts with the next run)" if local else "worker   none")
    lines += [
        f"queue    {name}: {text.count(length, 'message')} waiting"
        for name, length in overview["queues"].items()
    ]
    still_open = monitor.open_runs()
    recent = [run for run in monitor.runs() if run not in still_open][:RECENT]
    return [*lines, "", *_table([*still_open, *recent])]


def _table(found: list[RunRecord]) -> list[str]:
    rows = [
        (
            record.id,
            str(record.state),
            f"{record.nodes_total - record.nodes_left}/{record.nodes_total}",
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
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the run is closed.")] = False,
) -> None:
    """Print the transitions of a run as NDJSON."""
    from agentflow import runs as running
    from agentflow.monitor import event_as_dict, reachable

    config = config_of(ctx)
    monitor = monitor_of(config)
    run_id = monitor.resolve(run)
    with reachable(config.client_url()):
        for event in running.follow(run_id, config=config) if follow else monitor.events(run_id):
            text.put(json.dumps(event_as_dict(event)))


def logs(
    ctx: typer.Context,
    words: WordsArgument = None,
    *,
    paths: Annotated[bool, typer.Option("--paths", help="Only the names of the files.")] = False,
) -> None:
    """Print the logs of a run or of one of its nodes.

    Of each attempt: what the agent printed, its acceptance, its transcript.
    """
    from agentflow import runs as running

    config = config_of(ctx)
    run_id, node = run_and_node(monitor_of(config), words)
    found = running.log_files(run_id, node, config=config)
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
    from agentflow import runs as running

    config = config_of(ctx)
    run_id, node = run_and_node(monitor_of(config), words)
    shown = running.diff(run_id, node, config=config, stat=stat)
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
