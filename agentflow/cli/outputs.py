"""`proposal`, `out` and `cost`: what a run leaves to be read; and what its command hands over at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, RunArgument, config_of, monitor_of
from agentflow.errors import AgentflowError, Exit, UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.results import Cost, CostReport, RunResult

#: The name of the file that GitHub Actions shows below a step.
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (proposal, out, cost):
        app.command()(command)


def proposal(
    ctx: typer.Context,
    run: RunArgument = None,
    *,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown on stdout.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write there, not to stdout.")
    ] = None,
) -> None:
    """Show what a run proposes: patch, findings, proof and cost of each node.

    A FILE that ends in .json holds JSON, any other Markdown, unless a flag says which.
    """
    from agentflow.proposal import make, render
    from agentflow.proposal.files import write_whole

    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other", fix="take one of them")
    config = config_of(ctx)
    made = make(monitor_of(config).resolve(run), config=config)
    as_json = as_json or (out is not None and out.suffix == ".json" and not markdown)
    content = json.dumps(made.as_dict(), indent=1) + "\n" if as_json else render(made)
    if out is None:
        text.put(content.rstrip("\n"))
        return
    try:
        write_whole(out, content)
    except OSError as error:
        raise UsageError(f"the proposal cannot be written to {out}", why=str(error)) from error
    text.say(f"wrote {out}")


def out(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id or its beginning.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it is not there.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Write a run's results and its proposal as files into a directory."""
    from agentflow.proposal import write_out

    config = config_of(ctx)
    written = write_out(monitor_of(config).resolve(run), config, directory)
    if as_json:
        text.put(json.dumps({"files": [str(path) for path in written]}))
        return
    for path in written:
        text.put(str(path))


def cost(ctx: typer.Context, run: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """Show what a run cost by model, role and node."""
    from agentflow import runs
    from agentflow.results import cost_report

    config = config_of(ctx)
    report = cost_report(runs.result(monitor_of(config).resolve(run), config=config))
    if as_json:
        text.put(json.dumps(report.as_dict(), indent=1))
        return
    for line in cost_lines(report):
        text.put(line)


def cost_lines(report: CostReport) -> list[str]:
    """The report as tables, the dearest first; what an agent pays for itself is not known here."""
    sides = {"model": report.models, "role": report.roles, "node": report.nodes, "total": (report.total,)}
    lines: list[str] = []
    for title, parts in sides.items():
        header = (title, "nodes", "attempts", "time", "calls", "in", "out", "USD")
        lines += ["", *text.table(header, [_row(part) for part in parts])]
    return lines[1:]


def _row(part: Cost) -> tuple[str, ...]:
    return (
        part.name,
        str(part.nodes),
        str(part.attempts),
        text.duration(part.seconds),
        str(part.calls),
        f"{part.input_tokens:,}",
        f"{part.output_tokens:,}",
        f"{part.cost_usd:.4f}",
    )


def hand_over(
    result: RunResult, exit_code: int, *, config: Config, events: bool = False, out: Path | None = None
) -> int:
    """What a command that saw a run to its end leaves besides its summary; returns its exit code.

    The last line of the event stream, the files of `--out`, the step summary of a GitHub workflow, and an
    annotation there for each failed node. What cannot be written is said and makes the command fail: the
    run itself is not touched by it.
    """
    from agentflow.cli.attach import tell_finished
    from agentflow.proposal import write_out

    if events:
        tell_finished(result.run, config, exit_code)
    try:
        if out is not None:
            write_out(result.run, config, out)
            text.say(f"results are in {out}")
        _step_summary(result.run, config)
    except AgentflowError as error:
        text.say(text.clean(error.explain()))
        exit_code = exit_code or int(error.exit_code) or int(Exit.FAILED)
    if text.in_github_actions():
        for name in result.failed_nodes:
            reason = text.one_line(result.nodes[name].reason)
            text.workflow_command("error", reason, title=f"agentflow: node {name} failed")
    return exit_code


def _step_summary(run_id: str, config: Config, environ: Mapping[str, str] = os.environ) -> None:
    """Append the proposal without its patch to $GITHUB_STEP_SUMMARY, when that is set."""
    place = environ.get(STEP_SUMMARY)
    if not place:
        return
    from agentflow.proposal import make
    from agentflow.proposal.markdown import summary

    try:
        with Path(place).open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(summary(make(run_id, config=config)))
    except OSError as error:
        raise UsageError(
            f"the step summary cannot be written to {place}",
            why=str(error),
            fix=f"unset {STEP_SUMMARY}",
            code="AF-OUT-002",
        ) from error
