"""The place that the server works for: its configuration, its ledger, and what confirms a deed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.local import service
from agentflow.monitor import Monitor
from agentflow.store.client import connect
from agentflow.store.tokens import TOKEN_TTL_S, Tokens


class Project:
    """A directory and the settings that hold there, read anew for every call."""

    def __init__(self, directory: Path, config: Callable[[], Config]) -> None:
        self.directory = directory
        self.config = config

    def monitor(self, config: Config) -> Monitor:
        """A look at the ledger; the private server is started when it does not run."""
        service.ensure(config, worker=False)
        monitor = Monitor(config)
        monitor.check()
        return monitor

    def confirm(
        self, config: Config, tool: str, arguments: Mapping[str, str], *, token: str | None, what: str
    ) -> None:
        """Return when `token` confirms this call; else raise `UsageError` with a token that would.

        A token is an error's text and not an answer, so that a program which takes every answer for the
        deed done is not told that it was. It is good once, for minutes, and for these arguments; it lives
        in Redis, so another process of the same client may redeem it.
        """
        tokens = Tokens(connect(config.client_url()))
        deed = json.dumps([tool, dict(arguments)], sort_keys=True)
        if token and tokens.redeem(token, deed):
            return
        fresh = tokens.issue(deed)
        again = f'call {tool} again with the same arguments and confirm_token="{fresh}"'
        minutes = f"within {TOKEN_TTL_S // 60} minutes, once"
        if token:
            raise UsageError(
                f"{tool} was not done: this token does not confirm this call",
                why="it was used, is too old, or was given for other arguments",
                fix=f"if it is still wanted, {again}, {minutes}",
                code="AF-MCP-002",
            )
        raise UsageError(
            f"{tool} was not done yet: it needs a confirmation",
            why=what,
            fix=f"if this is what the user wants, {again}, {minutes}",
            code="AF-MCP-001",
        )
