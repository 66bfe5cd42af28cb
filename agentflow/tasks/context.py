"""What the Celery tasks of one worker process share: configuration, ledger, canvases, directories."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from celery import Celery

from agentflow.app import get_app
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas, parse_plan
from agentflow.canvas.plan import Plan
from agentflow.config import Config, load_config
from agentflow.store import keys
from agentflow.store.client import connect
from agentflow.store.ledger import Ledger
from agentflow.store.records import RunRecord
from agentflow.store.scripts import Answer
from agentflow.workspace import leftovers


@dataclass(slots=True)
class _Known:
    """What does not change while a run exists."""

    plan: Plan
    run: RunRecord
    canvas: Canvas


class Context:
    """One per process. Plans and canvases of the newest runs are kept in memory."""

    #: Nodes of all runs whose plan and canvas are kept (a node takes some kilobytes).
    KNOWN_NODES_MAX = 20_000

    def __init__(self, config: Config, app: Celery) -> None:
        self.config = config
        self.app = app
        self.client = connect(config.client_url())
        self.ledger = Ledger(self.client)
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def known(self, run_id: str, generation: int = 0) -> _Known:
        """Plan, record and canvas of a run; `generation` 0: whichever is current."""
        found = self._known.get(run_id)
        if found and generation in (0, found.canvas.generation):
            return found
        # A layer of messages arrives at once: the plan is read and the canvas cut by one thread, not by each.
        with self._lock:
            found = self._known.get(run_id)
            if found and generation in (0, found.canvas.generation):
                return found
            known = self._known[run_id] = self._read(run_id, generation)
            kept = sum(len(k.plan.nodes) for k in self._known.values())
            while kept > self.KNOWN_NODES_MAX and len(self._known) > 1:
                kept -= len(self._known.pop(next(iter(self._known))).plan.nodes)
        return known

    def _read(self, run_id: str, generation: int) -> _Known:
        text = cast("str | None", self.client.get(keys.part(run_id, "plan")))
        run = self.ledger.run(run_id)
        plan = parse_plan(text or "{}")
        return _Known(plan, run, Canvas(plan, run_id, generation or run.generation, self.app))

    def send_woken(self, run_id: str, answer: Answer) -> None:
        """Send what a transition has woken, in this run and in others."""
        if answer.woken:
            chords.send(self.known(run_id).canvas, answer.woken, woken=True)
        self._send_others(answer)

    def resend(self, run_id: str, answer: Answer, *, generation: int = 0) -> None:
        """Send what a transition made ready or woke, and let what it ended arrive."""
        if answer.ready or answer.woken or answer.ended:
            # Joins count by generation: a canvas remembered from before a resume would count in the old ones.
            canvas = self.known(run_id, generation or self.ledger.generation(run_id)).canvas
            chords.follow_up(canvas, ready=answer.ready, ended=answer.ended, woken=answer.woken)
        self._send_others(answer)

    def proceed(
        self, run_id: str, node: str, answer: Answer, *, succeeded: bool, generation: int = 0
    ) -> None:
        """Send what follows a settlement."""
        canvas = self.known(run_id, generation).canvas
        chords.proceed(
            canvas, node, succeeded=succeeded, ready=answer.ready, ended=answer.ended, woken=answer.woken
        )
        self._send_others(answer)

    def _send_others(self, answer: Answer) -> None:
        if answer.others:
            chords.send_others(answer.others, lambda run_id: self.known(run_id).canvas)

    def run_dir(self, run_id: str) -> Path:
        """Logs, transcripts and workspaces of a run on this machine."""
        path = self.config.data_dir / "runs" / run_id
        (path / "logs").mkdir(parents=True, exist_ok=True)
        leftovers.sign(path, self.config.client_url())
        return path


@functools.cache
def current() -> Context:
    """The context of this worker process."""
    return Context(load_config(Path.cwd()), get_app())
