"""The SDK's own client on `agentflow mcp`, as a real process over stdio, with plain calls."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jsonschema
from anyio.from_thread import BlockingPortal, start_blocking_portal
from helpers.cli import Cli
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent, TextResourceContents, Tool


@dataclass
class Progress:
    """What a call reported: (progress, total, message)."""

    told: list[tuple[float, float | None, str | None]] = field(default_factory=list)

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.told.append((progress, total, message))


class Agent:
    """A coding agent that has the server."""

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self._portal = portal
        self.client = client
        self.tools: dict[str, Tool] = {tool.name: tool for tool in portal.call(client.list_tools).tools}

    def ask(self, tool: str, progress: Progress | None = None, **arguments: Any) -> CallToolResult:
        """Call a tool, whatever comes of it."""
        return self.start(tool, progress, **arguments).result()

    def start(self, tool: str, progress: Progress | None = None, **arguments: Any) -> Future[CallToolResult]:
        """Call a tool and go on; the answer comes later, or never when the future is cancelled."""

        async def call() -> CallToolResult:
            return await self.client.call_tool(tool, arguments, progress_callback=progress)

        return self._portal.start_task_soon(call)

    def call(self, tool: str, progress: Progress | None = None, **arguments: Any) -> dict[str, Any]:
        """The structured answer of a tool, which its published schema allows."""
        result = self.ask(tool, progress, **arguments)
        assert not result.is_error, result.content
        answer = result.structured_content
        assert isinstance(answer, dict)
        schema = self.tools[tool].output_schema
        assert schema
        jsonschema.Draft202012Validator(schema).validate(answer)
        return answer

    def refused(self, tool: str, **arguments: Any) -> str:
        """The text of a tool's error."""
        result = self.ask(tool, **arguments)
        assert result.is_error, result.structured_content
        assert isinstance(result.content[0], TextContent)
        return result.content[0].text

    def confirmed(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a destructive tool twice, the second time with the token that the first error carries."""
        return self.call(tool, **arguments, confirm_token=token_in(self.refused(tool, **arguments)))

    def read(self, uri: str) -> str:
        """The text of a resource."""
        content = self._portal.call(self.client.read_resource, uri).contents[0]
        assert isinstance(content, TextResourceContents)
        return content.text


def token_in(text: str) -> str:
    """The token in the error of a first call."""
    found = re.search(r'confirm_token="([0-9a-f]{12})"', text)
    assert found, text
    return found[1]


@contextmanager
def agent(cli: Cli, era: str = "auto") -> Iterator[Agent]:
    """A server for the command line's directory, and a client of it; `era`: legacy, or auto (the newest)."""
    parameters = StdioServerParameters(
        command=sys.executable, args=cli.argv("mcp")[1:], env=cli.env, cwd=cli.cwd
    )
    log = cli.home.with_name("mcp-server.log")
    with log.open("a") as errors, start_blocking_portal() as portal:
        client = Client(stdio_client(parameters, errlog=errors), mode=era)
        failure: BaseException | None = None
        with portal.wrap_async_context_manager(client):
            try:
                yield Agent(portal, client)
            except BaseException as error:  # noqa: BLE001 (the client's task group would wrap it)
                failure = error
        if failure:
            raise failure
    assert "Traceback" not in log.read_text(), log.read_text()
