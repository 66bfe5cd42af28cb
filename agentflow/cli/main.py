"""The command line: one function per command, each in the module of its kind.

Nothing heavy is imported before a command runs, so that `agentflow --help` answers at once. Errors end
here: an `AgentflowError` is printed on stderr and decides the exit code.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agentflow.cli import demo, house, looking, planning, running, text
from agentflow.cli.options import Surroundings
from agentflow.errors import AgentflowError, Exit


class _Commands(TyperGroup):
    """Turns our errors and Ctrl-C into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except AgentflowError as error:
            text.say(text.clean(error.explain()))
            raise typer.Exit(int(error.exit_code)) from None
        except KeyboardInterrupt:
            raise typer.Exit(int(Exit.INTERRUPTED)) from None


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
    version: Annotated[  # noqa: ARG001, FBT002 (read by its callback)
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that come before the command."""
    # The worker's side of the code reads the configuration from the process' own surroundings.
    flags = {"data_dir": data_dir.resolve() if data_dir else None, "redis.url": redis_url}
    os.chdir(directory)
    ctx.obj = Surroundings(Path.cwd(), flags)


for module in (running, looking, planning, house, demo):
    module.register(app)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
