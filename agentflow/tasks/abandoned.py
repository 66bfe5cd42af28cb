"""Runs that nobody can go on with, because their record or plan cannot be read: closed, not left open."""

from __future__ import annotations

import logging
import time

from agentflow.states import CLOSED, NodeState, RunState
from agentflow.store.reading import RunNotFoundError
from agentflow.store.records import INTEGRATE
from agentflow.store.scripts import is_defect
from agentflow.tasks.context import Context

log = logging.getLogger("agentflow.reconcile")

#: Seconds that a run must have been unreadable before it is given up (it may be being written just now).
PATIENCE_S = 10.0


class Abandoned:
    """The unreadable runs that one leader knows of, and since when."""

    def __init__(self, context: Context, name: str, *, patience_s: float = PATIENCE_S) -> None:
        self._context = context
        self._name = name
        self._patience_s = patience_s
        self._since: dict[str, float] = {}

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._since

    def note(self, run_id: str, error: Exception) -> None:
        """This run could not be read."""
        if run_id not in self._since:
            log.warning("run %s cannot be read: %s", run_id, error)
        self._since.setdefault(run_id, time.monotonic())

    def end(self) -> None:
        """Look again at each; close what has stayed unreadable."""
        now = time.monotonic()
        for run_id, since in list(self._since.items()):
            try:
                self._context.known(run_id)
            except (RunNotFoundError, ValueError) as error:
                why = f"its plan cannot be read: {error}"
                if now - since >= self._patience_s and self._close(run_id, why):
                    del self._since[run_id]
            else:
                del self._since[run_id]

    def _close(self, run_id: str, reason: str) -> bool:
        """Cancel it, and close it when nothing of it runs any more; whether it is over."""
        ledger = self._context.ledger
        try:
            if ledger.run(run_id).state in CLOSED:
                return True
            _, cancelled = ledger.control(run_id, "cancel", reason)
            self._context.send_woken("", cancelled)
            if ledger.unfinished(run_id) - {INTEGRATE}:
                return False
            ttl_ms = self._context.config.lease_ttl_ms
            claim = ledger.claim(run_id, INTEGRATE, worker=self._name, ttl_ms=ttl_ms)
            if claim.granted:
                ledger.settle(run_id, INTEGRATE, claim.fence, NodeState.FAILED, reason=reason)
            answer = ledger.close(run_id, RunState.FAILED, reason=reason)
            if answer:
                self._context.send_woken("", answer)
        except (RunNotFoundError, ValueError) as error:
            self._drop(run_id, str(error))
        except Exception as error:
            if not is_defect(error):
                raise
            self._drop(run_id, str(error))
        return True

    def _drop(self, run_id: str, reason: str) -> None:
        """Not even its record is whole: nothing of it is kept."""
        log.warning("run %s is given up: %s", run_id, reason)
        self._context.send_woken("", self._context.ledger.abandon(run_id, reason))
