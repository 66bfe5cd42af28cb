"""Limits and budgets of a feature, by its name: for its open runs at once, and for every further one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from agentflow.canvas import chords
from agentflow.canvas.spending import parse_changes
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.runs.following import canvas_of, grant, open_ledger, send_others
from agentflow.store.budgets import NANO
from agentflow.store.features import BUDGET, LIMIT, read_feature, write_feature
from agentflow.store.ledger import Ledger
from agentflow.store.limits import CLASS, ROLE, check_class
from agentflow.store.scripts import Answer
from agentflow.workspace import inspect


def feature_limits(feature: str, *, config: Config, repo: Path) -> dict[str, int]:
    """How many nodes at once each run of a feature has: `all`, by role, by complexity; 0: no limit."""
    found = read_feature(open_ledger(config).client, inspect.project_of(repo), feature)
    return {name.removeprefix(LIMIT): n for name, n in found.items() if name.startswith(LIMIT)}


def feature_budget(feature: str, *, config: Config, repo: Path) -> dict[str, float]:
    """What each run of a feature may spend, by scope and unit (`run:usd`, in dollars; `role:docs:tokens`)."""
    found = read_feature(open_ledger(config).client, inspect.project_of(repo), feature)
    budgets = {name.removeprefix(BUDGET): n for name, n in found.items() if name.startswith(BUDGET)}
    return {name: n / NANO if name.endswith(":usd") else n for name, n in budgets.items()}


def set_feature_limits(
    feature: str, wanted: Mapping[str, int | None], *, config: Config, repo: Path
) -> dict[str, int]:
    """Set how many nodes at once each run of the feature has: `all`, a role, or `class:high`; 0: no limit.

    None takes a setting away: further runs begin as their spec says, open ones keep what they have. Raises
    `UsageError`.
    """
    named = {_limited(word, config): slots for word, slots in wanted.items()}
    ledger, project = open_ledger(config), inspect.project_of(repo)
    write_feature(ledger.client, project, feature, {LIMIT + name: n for name, n in named.items()})
    for run_id in _open_runs(ledger, project, feature):
        for name, slots in named.items():
            if slots is not None:
                with suppress(UsageError):  # a run need not have each role
                    _send(ledger, run_id, ledger.set_run_limit(run_id, name, slots), config)
    return feature_limits(feature, config=config, repo=repo)


def set_feature_budget(feature: str, words: Iterable[str], *, config: Config, repo: Path) -> dict[str, float]:
    """Set what each run of the feature may spend: `usd=5`, `backend.tokens=9000`; `none` takes it away.

    Open runs have it at once; where it was taken away they keep what they have. Raises `UsageError`.
    """
    changes = parse_changes(words, config)
    for change in changes:
        if change.verb == "add" or not change.field.startswith(("run:", ROLE)):
            raise UsageError(
                f"{change.field} cannot be changed so for a feature",
                why="a feature has an amount for each of its runs, and for each of their roles",
                fix="usd=5, tokens=100000, backend.usd=2; `none` takes one away",
            )
    ledger, project = open_ledger(config), inspect.project_of(repo)
    values = {BUDGET + change.field: None if change.verb == "none" else change.amount for change in changes}
    write_feature(ledger.client, project, feature, values)
    given = [change for change in changes if change.verb == "set"]
    for run_id in _open_runs(ledger, project, feature) if given else ():
        moved = grant(ledger, run_id, project, given, config)
        if moved.woken:
            chords.send(canvas_of(ledger, run_id, config), moved.woken, woken=True)
    return feature_budget(feature, config=config, repo=repo)


def _limited(word: str, config: Config) -> str:
    if word == "all":
        return word
    if word.startswith(CLASS):
        check_class(word)
        return word
    role = config.role_name(word.removeprefix(ROLE))
    if role is None:
        raise UsageError(f"{word!r} is no limit of a feature", fix="all, a role, or class:high")
    return role


def _open_runs(ledger: Ledger, project: str, feature: str) -> list[str]:
    records = (ledger.run(run_id) for run_id in ledger.open_runs())
    return [run.id for run in records if (run.project, run.feature) == (project, feature)]


def _send(ledger: Ledger, run_id: str, answer: Answer, config: Config) -> None:
    if answer.woken:
        chords.send(canvas_of(ledger, run_id, config), answer.woken, woken=True)
    send_others(ledger, answer, config)
