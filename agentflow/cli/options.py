"""What commands share: options, the configuration, which run and node are meant."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.monitor import Monitor

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a command was typed and which settings stand on its command line."""

    directory: Path
    flags: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> Config:
        """The configuration that holds here. Raises `ConfigError` with all that is wrong."""
        from agentflow.config import load_config
        from agentflow.config.keys import exported

        config = load_config(self.directory, self.flags)
        os.environ.update(exported(self.flags))
        return config


class Progress(StrEnum):
    """How a run is shown while it goes on."""

    AUTO = "auto"
    TTY = "tty"
    PLAIN = "plain"
    QUIET = "quiet"


ProgressOption = Annotated[
    Progress, typer.Option(help="auto: a live view on a terminal, else one line per transition.")
]
RedisOption = Annotated[
    str | None, typer.Option("--redis", help="The team's Redis. [env: AGENTFLOW_REDIS_URL]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
EventsOption = Annotated[
    bool, typer.Option("--events", help="Print transitions on stdout, a line of JSON each (NDJSON).")
]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A run's id or its beginning; else the newest.")
]
WordsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="RUN] [NODE", help="Without RUN: the newest run.")
]


def config_of(ctx: typer.Context, given: Mapping[str, Any] | None = None) -> Config:
    """The configuration for this command line; `given`: options of the command itself, by dotted key."""
    found: Surroundings = ctx.obj
    own = {key: value for key, value in (given or {}).items() if value is not None}
    return Surroundings(found.directory, {**found.flags, **own}).config()


def pairs(words: list[str] | None) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping; raises `UsageError`."""
    found = {}
    for word in words or []:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise UsageError(f"--set {word} is not KEY=VALUE", fix="for example --set worker.slots=8")
        found[key] = value
    return found


def monitor_of(config: Config) -> Monitor:
    """A look at the ledger; the private server is started when it does not run."""
    from agentflow.local import service
    from agentflow.monitor import Monitor

    service.ensure(config, worker=False)
    monitor = Monitor(config)
    monitor.check()
    return monitor


def run_and_node(monitor: Monitor, words: list[str] | None) -> tuple[str, str | None]:
    """What `[RUN] [NODE]` mean: one word is a run when one is called so, else a node of the newest."""
    given = words or []
    if len(given) > 2:  # noqa: PLR2004 (a run and a node)
        raise UsageError(f"a run and a node are expected, got {len(given)} words: {' '.join(given)}")
    if len(given) == 2:  # noqa: PLR2004
        return monitor.resolve(given[0]), given[1]
    if not given:
        return monitor.resolve(None), None
    if any(run.id.startswith(given[0]) for run in monitor.runs()):
        return monitor.resolve(given[0]), None
    return monitor.resolve(None), given[0]


def seconds(word: str | None) -> float | None:
    """`90`, `90s`, `10m`, `1h30m` as seconds; raises `UsageError`."""
    if word is None:
        return None
    match = _DURATION.fullmatch(word.strip())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))
        if match
        else 0
    )
    if total <= 0:
        raise UsageError(f"{word!r} is not a duration", fix="write 90s, 10m or 1h30m")
    return total
