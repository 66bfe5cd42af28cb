"""The options of `run`: their names, bounds and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JobsOption = Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Nodes at once.")]
ParallelOption = Annotated[
    bool, typer.Option("--parallel/--no-parallel", help="--no-parallel: one node at a time (-j 1).")
]
RunnerOption = Annotated[str | None, typer.Option(help="The configured runner of tasks that name none.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Run what was planned without asking.")]
TimeoutOption = Annotated[str | None, typer.Option(help="Longest time of the whole run: 90s, 10m, 1h.")]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Do every node anew, also where its verified commit is known.")
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(metavar="[WHERE.]UNIT=AMOUNT", help="What it may spend: 5 (dollars), tokens=100000."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Print the run's id and return at once.")]
SandboxOption = Annotated[
    str, typer.Option(help="auto, or off: agents may then run commands with your rights.")
]
DistributedOption = Annotated[
    bool, typer.Option("--distributed", help="Let the workers of the team's Redis carry it.")
]
RedisOption = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="The team's Redis (as --redis-url).")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Start so many worker processes here first.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Write results and proposal as files there.")
]
