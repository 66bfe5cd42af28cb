"""The tools and resources that only look: a run, a node, transitions."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from pydantic import Field

from agentflow.config import Config
from agentflow.errors import AgentflowError, UsageError
from agentflow.mcp_server import shapes, views
from agentflow.mcp_server.calls import Tell, told, with_config
from agentflow.mcp_server.project import Project
from agentflow.mcp_server.running import AnyRun

#: Transitions that one answer holds at most.
EVENTS_MAX = 500


class LookTools:
    """Each tool method's docstring is what a model reads of it."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def run_status(self, context: Context, run: AnyRun = None) -> shapes.RunView:
        """Where a run is: its state, its nodes, what failed and what each waits for."""

        def work(config: Config, _tell: Tell) -> shapes.RunView:
            monitor = self._project.monitor(config)
            return views.run_view(monitor.status(monitor.resolve(run)))

        with told():
            return await with_config(self._project, context, "looking", work)

    async def why(
        self,
        context: Context,
        node: Annotated[str, Field(min_length=1, description="The node's id; @integrate is the merge")],
        run: AnyRun = None,
    ) -> shapes.Reason:
        """Why a node is where it is, what to do about a failure, and what its last attempt left."""

        def work(config: Config, _tell: Tell) -> shapes.Reason:
            monitor = self._project.monitor(config)
            run_id = monitor.resolve(run)
            record = monitor.node(run_id, node)
            return shapes.Reason(
                run=run_id,
                node=node,
                state=record.state.value,
                why=monitor.why(run_id, node),
                fix=record.fix if record.state == "failed" else "",
                feedback=record.feedback,
            )

        with told():
            return await with_config(self._project, context, "looking", work)

    async def events(
        self,
        context: Context,
        run: AnyRun = None,
        after: Annotated[
            str, Field(pattern=r"^\d+(-\d+)?$", description="Only what came after this position")
        ] = "0",
        limit: Annotated[int, Field(ge=1, le=EVENTS_MAX, description="How many at most")] = 100,
    ) -> shapes.Events:
        """The transitions of a run in their order: nodes started, settled, waiting, and why."""

        def work(config: Config, _tell: Tell) -> shapes.Events:
            monitor = self._project.monitor(config)
            run_id = monitor.resolve(run)
            found = monitor.events(run_id, after=after, count=limit + 1)
            shown = found[:limit]
            return shapes.Events(
                run=run_id,
                events=[
                    shapes.EventView(
                        id=e.id, at_ms=e.at_ms, kind=e.kind, node=e.node, state=e.state, attempt=e.attempt,
                        reason=e.reason,
                    )
                    for e in shown
                ],
                last=shown[-1].id if shown else after,
                more=len(found) > limit,
            )  # fmt: skip

        with told():
            return await with_config(self._project, context, "looking", work)

    def list_runs(self) -> str:
        """The runs that are known here, newest first, as JSON."""
        try:
            monitor = self._project.monitor(self._project.config())
            return shapes.Runs(runs=[views.run_line(run) for run in monitor.runs()]).model_dump_json()
        except AgentflowError as error:
            raise ResourceError(error.explain()) from error

    def read_run(self, run: str) -> str:
        """One run and its nodes, as JSON; the same as run_status answers."""
        try:
            monitor = self._project.monitor(self._project.config())
            return views.run_view(monitor.status(monitor.resolve(run))).model_dump_json()
        except UsageError as error:
            raise ResourceNotFoundError(error.explain()) from error
        except AgentflowError as error:
            raise ResourceError(error.explain()) from error
