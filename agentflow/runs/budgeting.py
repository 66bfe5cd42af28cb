"""Budgets as their user sees them: what is set, spent and reserved; changed while everything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.canvas import chords
from agentflow.canvas.spending import parse_changes
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.runs.following import canvas_of, grant, open_ledger
from agentflow.store.budgets import DAILY, DAY, ORG, Change, Purse
from agentflow.workspace import inspect

__all__ = ["BudgetView", "Change", "Purse", "change", "look"]


@dataclass(frozen=True, slots=True)
class BudgetView:
    """The budgets of a run ('' for none) by scope, that of its project's day and that of all projects' day.

    `unbilled`: calls whose attempt ended before their bill came; they count with their estimates.
    """

    run: str
    project: str
    purses: dict[str, Purse]
    day: Purse
    org: Purse
    unbilled: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        purses = {scope: purse.as_dict() for scope, purse in self.purses.items()}
        return {
            "run": self.run,
            "project": self.project,
            "budgets": purses | {DAY: self.day.as_dict(), ORG: self.org.as_dict()},
            "unbilled": self.unbilled,
        }


def look(run_id: str, *, config: Config, repo: Path) -> BudgetView:
    """The budgets of a run, of its project's day and of all projects'; without a run, those of a day."""
    ledger = open_ledger(config)
    if not run_id:
        project = inspect.project_of(repo)
        return BudgetView("", project, {}, ledger.day(project), ledger.org())
    project = ledger.run(run_id).project
    day, org = ledger.day(project), ledger.org()
    return BudgetView(run_id, project, ledger.purses(run_id), day, org, ledger.unbilled(run_id))


def change(words: Iterable[str], run_id: str, *, config: Config, repo: Path) -> BudgetView:
    """Change budgets of a run, and of a day: its project's (`day.usd=20`), all projects' (`org.usd=90`).

    What they held back goes on at once.

    `words` as for `parse_changes`. Raises `UsageError`; then nothing of the run, or of that day, is changed.
    """
    changes = parse_changes(words, config)
    ledger = open_ledger(config)
    if not run_id and any(found.field.partition(":")[0] not in DAILY for found in changes):
        raise UsageError("these budgets are those of a run", fix="name it: `agentflow budget set RUN usd=5`")
    project = ledger.run(run_id).project if run_id else inspect.project_of(repo)
    moved = grant(ledger, run_id, project, changes, config)
    if moved.woken:
        chords.send(canvas_of(ledger, run_id, config), moved.woken, woken=True)
    return look(run_id, config=config, repo=repo)
