"""The command line: one function per command, each in the module of its kind.

Nothing heavy is imported before a command runs, so that `agentflow --help` answers at once. Errors end
here: an `AgentflowError` is printed on stderr and decides the exit code.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agentflow.cli import (
    budgets,
    configuring,
    demo,
    failing,
    fleet,
    health,
    house,
    looking,
    mcp,
    outputs,
    planning,
    rates,
    returning,
    running,
    steering,
    text,
)
from agentflow.cli.options import Surroundings, pairs
from agentflow.errors import AgentflowError, Exit


class _Commands(TyperGroup):
    """Turns our errors and Ctrl-C into messages and exit codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; `--events ndjson` (or `=ndjson`) is `--events`, there is no other kind."""
        return super().parse_args(ctx, _events_as_flag(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except AgentflowError as error:
            text.say(text.clean(error.explain()))
            raise typer.Exit(int(error.exit_code)) from None
        except BrokenPipeError:
            # Whoever read our output has gone (`| head`); nothing is written to it any more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(int(Exit.FAILED)) from None
        except Exception as error:
            told = _explained(ctx, error)
            if told is None:
                raise
            text.say(text.clean(told.explain()))
            raise typer.Exit(int(told.exit_code)) from None
        except KeyboardInterrupt:
            raise typer.Exit(int(Exit.INTERRUPTED)) from None


def _explained(ctx: Any, error: BaseException) -> AgentflowError | None:
    """What a Redis that went away or refuses has done to a command; None for any other error."""
    causes: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in causes:
        causes.append(found)
        found = found.__cause__ or found.__context__
    if not isinstance(ctx.obj, Surroundings) or not any(_is_of_redis(cause) for cause in causes):
        return None
    from agentflow.monitor import redis_trouble

    return redis_trouble(error, ctx.obj.config().client_url())


def _is_of_redis(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "redis"


def _events_as_flag(args: list[str]) -> list[str]:
    taken: list[str] = []
    for word in args:
        if word == "ndjson" and taken and taken[-1] == "--events":
            continue
        taken.append("--events" if word == "--events=ndjson" else word)
    return taken


app = typer.Typer(
    cls=_Commands,
    name="agentflow",
    help="Run a feature as a DAG of coding agents over a git repository; get one tested branch.",
    epilog="Start with `agentflow demo`, or `agentflow init` in a repository of yours.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 (the signature of an option's callback)
    if wanted:
        from agentflow import __version__

        text.put(f"agentflow {__version__}")
        raise typer.Exit


@app.callback()
def surroundings(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Option("-C", "--directory", help="Work in this directory.", file_okay=False, exists=True)
    ] = Path(),
    data_dir: Annotated[
        Path | None, typer.Option(help="Where ledger, logs and workspaces are kept. [env: AGENTFLOW_HOME]")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="Use this Redis, not a private one. [env: AGENTFLOW_REDIS_URL]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other key of agentflow.yaml, for this command."),
    ] = None,
    version: Annotated[  # noqa: ARG001, FBT002 (read by its callback)
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that come before the command."""
    # The worker's side of the code reads the configuration from the process' own surroundings.
    flags = {"data_dir": data_dir.resolve() if data_dir else None, "redis.url": redis_url}
    flags |= pairs(settings)
    os.chdir(directory)
    ctx.obj = Surroundings(Path.cwd(), flags)


_MODULES = (
    running, budgets, returning, looking, steering, failing, outputs, planning,
    house, configuring, demo, mcp, fleet, rates, health,
)  # fmt: skip
for module in _MODULES:
    module.register(app)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
