"""How a tool's work is done: in a thread, with signs of life, its errors told to the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import ValidationError

from agentflow.config import Config
from agentflow.errors import AgentflowError, ConfigError
from agentflow.mcp_server.project import Project
from agentflow.monitor import reachable

T = TypeVar("T")
#: Tells the client something at once, from the thread that works.
Tell = Callable[[str], None]
#: Seconds between two signs of life of a call that takes long.
BEAT_S = 5.0
#: What a sign of life without progress adds to the progress.
SMALL = 0.001


class Beat:
    """Progress of one call. MCP wants each value greater than the last, so a beat adds a fraction."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last = -1.0

    async def tell(self, done: int, total: int | None, message: str) -> None:
        """Report `done` of `total`; nothing is sent to a client that did not ask for progress."""
        self._last = max(float(done), self._last + SMALL)
        await self._context.report_progress(self._last, total, message)


async def in_thread(context: Context, saying: str, work: Callable[[Tell], T]) -> T:
    """Do blocking work beside the event loop; meanwhile the client hears `saying` every few seconds.

    The work is given a function that tells the client something at once. When the client gives the call
    up, the answer of the work is dropped; the work itself goes on to its end.
    """
    beat = Beat(context)

    def tell(message: str) -> None:
        # Nobody listens any more to a call that was given up; its work must not end for that.
        with contextlib.suppress(CancelledError, RuntimeError):
            anyio.from_thread.run(beat.tell, 0, None, message)

    finished = anyio.Event()

    async def beats() -> None:
        while not finished.is_set():
            with anyio.move_on_after(BEAT_S):
                await finished.wait()
                return
            await beat.tell(0, None, saying)

    caught: list[Exception] = []
    found: list[T] = []
    async with anyio.create_task_group() as group:
        group.start_soon(beats)
        try:
            found.append(await anyio.to_thread.run_sync(lambda: work(tell), abandon_on_cancel=True))
        except Exception as error:  # noqa: BLE001 (raised again outside: a task group would wrap it)
            caught.append(error)
        finished.set()
    if caught:
        raise caught[0]
    return found[0]


async def with_config(
    project: Project, context: Context, saying: str, work: Callable[[Config, Tell], T]
) -> T:
    """Do work that needs the configuration and Redis, in a thread; see `in_thread`."""

    def whole(tell: Tell) -> T:
        config = project.config()
        with reachable(config.client_url()):
            return work(config, tell)

    return await in_thread(context, saying, whole)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn an error of ours into one whose text reaches the model: what, why and fix."""
    try:
        yield
    except AgentflowError as error:
        raise ToolError(error.explain()) from error


class Server(MCPServer[None]):
    """The SDK's server with our errors: arguments that do not fit are told by name, with a way out."""

    def enter(self, tool: Callable[..., Any], title: str, hints: ToolAnnotations) -> None:
        """Add a tool under its method's name; its schema says that it takes no further arguments."""
        self.add_tool(tool, title=title, annotations=hints, structured_output=True)
        entered = self._tool_manager.get_tool(tool.__name__)
        if entered:
            entered.parameters["additionalProperties"] = False

    async def call_tool(
        self, name: str, arguments: dict[str, object], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. Raises `ToolError` with what, why and fix."""
        tool = self._tool_manager.get_tool(name)
        known = sorted(tool.parameters.get("properties", {})) if tool else []
        if tool and (unknown := sorted(set(arguments) - set(known))):
            raise ToolError(
                ConfigError(
                    f"{name} has no argument {', '.join(map(repr, unknown))}",
                    fix=f"it takes: {', '.join(known) or 'nothing'}",
                    code="AF-MCP-003",
                ).explain()
            )
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError as error:
            raise UnexpectedToolError(_defect(name)) from error.__cause__
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(_bad_arguments(name, error.__cause__)) from error.__cause__
            if isinstance(error.__cause__, ToolError):
                # Its own text, without the SDK's "Error executing tool NAME: " before it.
                raise ToolError(str(error.__cause__)) from error.__cause__.__cause__
            raise


def _defect(name: str) -> str:
    return AgentflowError(
        f"{name} met something that agentflow did not expect",
        why="a defect; its traceback is in the log that the client keeps of this server",
        fix="look with run_status and get_status before calling it again",
        code="AF-MCP-005",
    ).explain()


def _bad_arguments(name: str, error: ValidationError) -> str:
    wrong = [
        f"{'.'.join(map(str, found['loc']))}: {_in_words(found['type'], found['msg'], found['input'])}"
        for found in error.errors(include_url=False)
    ]
    return ConfigError(
        f"{name} was not called: {'; '.join(wrong)}",
        fix="the tool's input schema says what each argument may be",
        code="AF-MCP-003",
    ).explain()


def _in_words(kind: str, message: str, given: object) -> str:
    if kind == "missing":
        return "is missing"
    return f"{message[:1].lower()}{message[1:]} (got {given!r})"
