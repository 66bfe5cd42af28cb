"""`agentflow demo`: the packaged example, run by scripted agents, in a repository made for it."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this command."""
    del app
