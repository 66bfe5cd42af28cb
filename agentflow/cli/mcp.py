"""`mcp`: the MCP server, and its entry in the configuration of coding agents."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import Surroundings
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.mcp_server.clients import Change

mcp_app = typer.Typer(
    help="Serve MCP on stdin and stdout; `install` tells a coding agent of it.", rich_markup_mode=None
)


class Client(StrEnum):
    """Coding agents whose configuration is known."""

    CLAUDE = "claude"
    CODEX = "codex"


class Scope(StrEnum):
    """Whose configuration: this project's, or the user's own for every project."""

    PROJECT = "project"
    USER = "user"


ClientArgument = Annotated[Client, typer.Argument(metavar="claude|codex", help="The coding agent.")]
ScopeOption = Annotated[
    Scope | None,
    typer.Option(help="project: a file in this directory (claude's default); user: your own (codex's)."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be written.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    mcp_app.callback(invoke_without_command=True)(mcp)
    mcp_app.command()(install)
    mcp_app.command()(uninstall)
    app.add_typer(mcp_app, name="mcp")


def mcp(ctx: typer.Context) -> None:
    """Serve MCP on stdin and stdout, for the directory it is started in.

    A coding agent starts it; `agentflow mcp install claude` or `codex` tells one of it.
    """
    if ctx.invoked_subcommand is not None:
        return
    _check_extra()
    from agentflow.mcp_server.project import Project
    from agentflow.mcp_server.server import serve

    if sys.stdin.isatty():
        text.say("this speaks MCP and waits for a client; `agentflow mcp install claude` tells one of it")
    surroundings: Surroundings = ctx.obj
    serve(Project(surroundings.directory, surroundings.config))


def install(client: ClientArgument, *, scope: ScopeOption = None, dry_run: DryRunOption = False) -> None:
    """Write the server into a coding agent's configuration.

    What is in the file stays; the file as it was is kept beside it. Doing it twice changes nothing.
    """
    from agentflow.mcp_server import clients

    _check_extra()
    _tell(clients.install(client.value, _scope(client, scope), Path.cwd()), dry_run=dry_run)


def uninstall(client: ClientArgument, *, scope: ScopeOption = None, dry_run: DryRunOption = False) -> None:
    """Take the server out of a coding agent's configuration."""
    from agentflow.mcp_server import clients

    _tell(clients.uninstall(client.value, _scope(client, scope), Path.cwd()), dry_run=dry_run)


def _scope(client: Client, scope: Scope | None) -> str:
    """Codex reads a project's file only where the user has said that the project is trusted."""
    return (scope or (Scope.PROJECT if client is Client.CLAUDE else Scope.USER)).value


def _tell(change: Change, *, dry_run: bool) -> None:
    """Do the change, or show it."""
    if not change.needed:
        text.say(f"{change.path}: nothing to change")
        return
    if dry_run:
        text.say(f"{change.path} would " + ("go" if change.new is None else "hold:"))
        if change.new is not None:
            text.put(change.new.rstrip("\n"))
        return
    change.write()
    text.put(f"wrote {change.path}" if change.new is not None else f"removed {change.path}")
    if change.backup:
        text.say(f"as it was: {change.backup}")


def _check_extra() -> None:
    """Raise `UsageError` unless the SDK is there, in the version that is used."""
    try:
        from mcp.server.mcpserver import MCPServer  # noqa: F401 (version 1 has no such thing)
    except ImportError as error:
        raise UsageError(
            "the MCP server needs the Python package mcp, version 2",
            why=f"it is an extra, and {str(error)[:1].lower()}{str(error)[1:]}",
            fix="pip install 'agentflow[mcp]'",
            code="AF-MCP-004",
        ) from None
