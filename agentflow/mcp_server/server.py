"""The server: tools and resources put together, and run over stdin and stdout."""

from __future__ import annotations

import logging
import os
import threading
import time

from mcp_types import ToolAnnotations

from agentflow import __version__
from agentflow.mcp_server.calls import Server
from agentflow.mcp_server.looking import LookTools
from agentflow.mcp_server.project import Project
from agentflow.mcp_server.running import RunTools
from agentflow.mcp_server.steering import FleetTools

log = logging.getLogger(__name__)
#: Seconds that calls get to end in when the client has gone.
GRACE_S = 3.0
INSTRUCTIONS = """\
agentflow runs a feature as a DAG of coding agents over the git repository in the server's directory.
The way: plan (words -> spec), run_start (spec -> run id), run_wait (repeat while finished is false), then
run_land. On a failure: why, then run_resume. run_pause holds a run until run_resume.
drain, kill_all, run_cancel and run_land fail the first time, with an error that says what they would do and
carries a confirm_token; ask the user, then call again with it.
A slot runs one node at a time; a worker is a process with slots."""

_LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
_SETS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_DESTROYS = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)


def build(project: Project) -> Server:
    """The server of a project, not yet running."""
    server = Server(
        "agentflow", title="agentflow", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    running, looking, steering = RunTools(project), LookTools(project), FleetTools(project)
    for tool, title, hints in (
        (steering.spawn_workers, "Start workers", _ADDS),
        (steering.get_status, "Fleet status", _LOOKS),
        (steering.kill_all, "Kill all workers", _DESTROYS),
        (steering.drain, "Drain the fleet", _DESTROYS),
        (steering.scale_workers, "Scale slots", _SETS),
        (running.plan, "Plan a feature", ToolAnnotations(read_only_hint=True, open_world_hint=True)),
        (running.run_start, "Start a run", _ADDS),
        (looking.run_status, "Run status", _LOOKS),
        (running.run_wait, "Wait for a run", _LOOKS),
        (running.run_pause, "Pause a run", _SETS),
        (running.run_resume, "Go on with a run", _ADDS),
        (running.run_cancel, "Cancel a run", _DESTROYS),
        (running.run_land, "Land a run", _DESTROYS),
        (looking.why, "Why is a node there", _LOOKS),
        (looking.events, "Transitions of a run", _LOOKS),
    ):
        server.enter(tool, title, hints)
    json = "application/json"
    server.resource("agentflow://runs", title="Runs", mime_type=json)(looking.list_runs)
    server.resource("agentflow://runs/{run}", title="One run", mime_type=json)(looking.read_run)
    return server


def serve(project: Project) -> None:
    """Speak MCP on stdin and stdout until the client has gone. What anybody prints meanwhile goes to stderr.

    Calls that are still at work then get `GRACE_S`; the process ends without those that only wait.
    """
    try:
        build(project).run("stdio")
    except* BrokenPipeError:
        log.info("the client has gone while it was answered")
    deadline = time.monotonic() + GRACE_S
    busy = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    for thread in busy:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in busy):
        # The interpreter would wait for them: perhaps for ever, when they wait for a worker.
        os._exit(0)
