"""Named points at which a test ends or stops this very process, as a power cut or a stalled machine would.

`AGENTFLOW_FAILPOINT=settle.recorded` sends SIGKILL to the process that comes to that point,
`settle.recorded@docs` only for the subject `docs` (a node, else a run), `settle.recorded:stop` sends SIGSTOP
instead; several stand between commas. `AGENTFLOW_FAILPOINT_MARK` names a file: the process that makes it is
the one that is hit, whoever comes later goes on. Nothing happens when the variable is not set: a point then
costs one look into an empty dictionary. `tests/integration/test_failpoints.py` and
`test_failpoints_elsewhere.py` try every point that they find in the source.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "AGENTFLOW_FAILPOINT"
MARK_VARIABLE = "AGENTFLOW_FAILPOINT_MARK"


@dataclass(frozen=True, slots=True)
class _Fault:
    """What happens at a point. `subject` '' is anybody; `mark` is the file that says that it has happened."""

    subject: str
    signal: signal.Signals
    mark: Path | None

    def strike(self, subject: str) -> None:
        if self.subject not in ("", subject):
            return
        if self.mark:
            try:
                self.mark.touch(exist_ok=False)
            except FileExistsError:
                return
        # To this very thread: a stop that the process gets may be taken by another one, while this goes on.
        signal.pthread_kill(threading.get_ident(), self.signal)


def parse(environ: Mapping[str, str]) -> dict[str, _Fault]:
    """The faults that the environment asks for, by their points; empty when it asks for none."""
    mark = environ.get(MARK_VARIABLE)
    found = {}
    for text in filter(None, environ.get(VARIABLE, "").split(",")):
        rest, _, action = text.partition(":")
        point, _, subject = rest.partition("@")
        what = signal.SIGSTOP if action == "stop" else signal.SIGKILL
        found[point] = _Fault(subject, what, Path(mark) if mark else None)
    return found


_armed = parse(os.environ)


def arm(environ: Mapping[str, str]) -> None:
    """Take the fault from this environment instead (a process that was forked has another one)."""
    _armed.clear()
    _armed.update(parse(environ))


def at(point: str, subject: str = "") -> None:
    """Come to a point. `subject`: the node, or the run, that the process is busy with."""
    fault = _armed.get(point)
    if fault:
        fault.strike(subject)
