"""`failures` and `retry`: what has failed, and one node done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, RedisOption, WordsArgument, config_of, monitor_of
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.runs.failures import Failure


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (failures, retry):
        app.command()(command)


def failures(
    ctx: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's id or its beginning; else every run.")
    ] = None,
    *,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """List nodes that have failed or were quarantined: why, after what, and how to do them again."""
    from agentflow.runs import failures as failing

    config = config_of(ctx, {"redis.url": redis})
    monitor = monitor_of(config)
    found = failing.failures(config, monitor.resolve(run) if run else None)
    if as_json:
        text.put(json.dumps([failure.as_dict() for failure in found], indent=2))
        return
    if not found:
        text.say("no node has failed")
    for failure in found:
        for line in _failure_lines(failure):
            text.put(line)


def _failure_lines(failure: Failure) -> list[str]:
    counts = {
        "red": failure.failures,
        "worker lost": failure.losses,
        "conflict": failure.conflicts,
        "trouble": failure.troubles,
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    what = "quarantined" if failure.quarantined else "failed"
    code = f" [{failure.code}]" if failure.code else ""
    after = text.count(failure.attempts, "attempt") + (f" ({told})" if told else "")
    lines = [
        f"{failure.run} {failure.node}  ({text.one_line(failure.role)})  {what}{code} after {after}",
        f"  {text.one_line(failure.reason) or 'no reason was given'}",
    ]
    if failure.fix:
        lines.append(f"  fix: {text.one_line(failure.fix)}")
    lines.append(f"  log: {failure.log or f'agentflow logs {failure.run} {failure.node}'}")
    return [*lines, f"  again: {failure.again}"] if failure.again else lines


def retry(
    ctx: typer.Context,
    words: WordsArgument = None,
    *,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do one failed node again, with what was skipped for it; all else stays as it is.

    NODE alone means the newest run in which it failed. A closed run is open again: `watch` it to its end.
    """
    from agentflow.local import service
    from agentflow.runs import failures as failing

    given = words or []
    if not 1 <= len(given) <= 2:  # noqa: PLR2004 (a run and a node)
        raise UsageError("which node?", fix="agentflow retry [RUN] NODE; `agentflow failures` lists them")
    config = config_of(ctx, {"redis.url": redis})
    monitor = monitor_of(config)
    node = given[-1]
    run_id = monitor.resolve(given[0]) if len(given) > 1 else failing.run_of(config, node)
    state = failing.retry(config, run_id, node, repo=Path.cwd())
    service.ensure(config)
    if as_json:
        text.put(json.dumps({"run": run_id, "node": node, "state": state}))
        return
    text.put(f"{run_id} {node}: is done again (the run is {state})")
    text.say(f"next: agentflow {'watch' if state == 'open' else 'resume'} {run_id}")
