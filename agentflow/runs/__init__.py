"""Runs, as their user sees them: submit, follow, cancel, resume, land.

    submit    load and check the spec, plan it, publish the base, open the run, send the canvas
    follow    the run's transitions until it closes
    finish    publish what came out into the repository, and land it
    resume    open again what did not succeed, or wake what nobody carries

Only a submitter's repository lands, by compare-and-swap. Everything here goes through the ledger, so
that each of these can be typed in another terminal, or after a crash.
"""

from __future__ import annotations

from agentflow.recovery.rebuilding import DataLostError
from agentflow.results import RunResult
from agentflow.runs.finishing import finish, land
from agentflow.runs.following import canvas_of, follow, open_ledger, send_others
from agentflow.runs.steering import cancel, drain, find, pause, result, resume, retry
from agentflow.runs.submitting import SubmitOptions, files_of, submit, transport_for

__all__ = [
    "DataLostError",
    "RunResult",
    "SubmitOptions",
    "cancel",
    "canvas_of",
    "drain",
    "files_of",
    "find",
    "finish",
    "follow",
    "land",
    "open_ledger",
    "pause",
    "result",
    "resume",
    "retry",
    "send_others",
    "submit",
    "transport_for",
]
