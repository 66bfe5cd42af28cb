"""The tools that move the fleet: look at it, start workers, scale, drain, kill.

Names and fields are those of the older systems' servers, so that what was written for them goes on. A
slot runs one node at a time; a worker is a process that has slots. Each text says which is meant.
"""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from agentflow import fleet
from agentflow.config import Config
from agentflow.local import service
from agentflow.mcp_server import shapes
from agentflow.mcp_server.calls import Tell, told, with_config
from agentflow.mcp_server.project import Project
from agentflow.mcp_server.running import ConfirmToken

#: Most worker processes that one call starts, and most slots that one call asks for.
SPAWN_MAX, SLOTS_MAX = 200, 500


class FleetTools:
    """Each method is a tool; its docstring is what a model reads of it."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def spawn_workers(
        self,
        context: Context,
        feature: Annotated[
            str,
            Field(
                min_length=1,
                description="The feature that they are for: it is part of their names; where routing goes by"
                " feature they serve its queue alone",
            ),
        ],
        workers: Annotated[int, Field(ge=1, le=SPAWN_MAX, description="Worker processes to start here")],
    ) -> shapes.Spawned:
        """Start worker processes on this machine, for a feature."""

        def work(config: Config, _tell: Tell) -> shapes.Spawned:
            service.ensure(config, worker=False)
            names = fleet.spawn(config, workers, feature=feature)
            return shapes.Spawned(status="spawned", spawned=len(names), workers=list(names))

        with told():
            return await with_config(self._project, context, "starting workers", work)

    async def get_status(self, context: Context) -> shapes.FleetState:
        """The fleet at one glance: who leads, nodes by state, workers, queues."""

        def work(config: Config, _tell: Tell) -> shapes.FleetState:
            service.ensure(config, worker=False)
            found = fleet.status(config)
            return shapes.FleetState(
                orchestrator_running=found.orchestrator_running,
                tasks=dict(found.tasks),
                workers=dict(found.workers),
                queues=dict(found.queues),
            )

        with told():
            return await with_config(self._project, context, "looking", work)

    async def scale_workers(
        self,
        context: Context,
        target_workers: Annotated[
            int, Field(ge=1, le=SLOTS_MAX, description="Slots: how many nodes may run at once")
        ],
        task_type: Annotated[
            str | None, Field(description="A role, to scale that role alone; else the whole fleet")
        ] = None,
    ) -> shapes.Scaled:
        """Set how many nodes may run at once: slots over all workers of the fleet, or of one role.

        Ends a drain. Workers are started on this machine where their slots do not suffice.
        """

        def work(config: Config, _tell: Tell) -> shapes.Scaled:
            service.ensure(config, worker=False)
            done = fleet.scale(config, target_workers, role=task_type or None)
            return shapes.Scaled(status=done.status, target=done.target, spawned=done.spawned)

        with told():
            return await with_config(self._project, context, "scaling", work)

    async def drain(self, context: Context, confirm_token: ConfirmToken = None) -> shapes.Drained:
        """Let running nodes finish, start none, end the workers; answers with a snapshot of what is left.

        It holds, for later workers too, until scale_workers or a person ends it. Needs a confirmation: the
        first call fails with a token for the second.
        """

        def work(config: Config, tell: Tell) -> shapes.Drained:
            self._project.confirm(
                config, "drain", {}, token=confirm_token,
                what=self._what(config, "running nodes finish, no further one starts, and then it ends"),
            )  # fmt: skip
            done = fleet.drain(config, tell=tell)
            return shapes.Drained(
                status=done.status, workers_killed=done.workers_killed, snapshot=dict(done.snapshot)
            )

        with told():
            return await with_config(self._project, context, "draining: running nodes finish", work)

    async def kill_all(self, context: Context, confirm_token: ConfirmToken = None) -> shapes.Killed:
        """End all worker processes at once; what they were doing is lost and is done again later.

        Needs a confirmation: the first call fails with a token for the second.
        """

        def work(config: Config, _tell: Tell) -> shapes.Killed:
            self._project.confirm(
                config, "kill_all", {}, token=confirm_token,
                what=self._what(config, "the attempts that run now are lost, and it ends"),
            )  # fmt: skip
            done = fleet.kill(config)
            return shapes.Killed(status=done.status, workers_killed=done.workers_killed)

        with told():
            return await with_config(self._project, context, "ending workers", work)

    def _what(self, config: Config, deed: str) -> str:
        """What a deed on the whole fleet would do now."""
        monitor = self._project.monitor(config)
        alive = [w.record for w in monitor.workers() if w.state != "dead"]
        busy = sum(worker.busy for worker in alive)
        runs = len(monitor.open_runs())
        return (
            f"{deed} {len(alive)} worker processes ({busy} busy slots); {runs} runs are open"
            " and stay open until workers come back"
        )
