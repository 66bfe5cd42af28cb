"""`budget`: what may be spent, what is, and what is reserved; changed while everything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, RedisOption, config_of, monitor_of
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.runs.budgeting import BudgetView, Change, Purse

BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="[WHERE.]UNIT=AMOUNT", help="First: +5, tokens=+100000, backend.usd=2."),
]
FeatureOption = Annotated[
    str | None,
    typer.Option("--feature", metavar="NAME", help="Of each run of this feature, further ones too."),
]
#: Nodes that are shown; those with the largest spending come first.
NODES_SHOWN = 20

budget_app = typer.Typer(help="What may be spent, in dollars and tokens.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    budget_app.command("show")(show)
    budget_app.command("set")(change)
    app.add_typer(budget_app, name="budget")


@budget_app.callback(invoke_without_command=True)
def budget(ctx: typer.Context, *, redis: RedisOption = None, as_json: JsonOption = False) -> None:
    """Show the budgets of the newest run and of today; `show RUN` those of another."""
    if not ctx.invoked_subcommand:
        _show(ctx, None, redis, as_json=as_json)


def show(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id or its beginning.")] = None,
    *,
    feature: FeatureOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show limits, what is spent and what calls under way have reserved."""
    if feature:
        from agentflow.runs import featuring

        config = config_of(ctx, {"redis.url": redis})
        found = featuring.feature_budget(feature, config=config, repo=Path.cwd())
        _put_feature(feature, found, as_json=as_json)
        return
    _show(ctx, run, redis, as_json=as_json)


def change(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] [WHERE.]UNIT=AMOUNT...",
            help="usd=5 backend.tokens=+9000 node:ID.usd=none day.usd=20 org.usd=90",
        ),
    ],
    *,
    feature: FeatureOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change budgets of a run, of the project's day, or of all projects' (org), at once and for good.

    + and - change a limit that is there; none takes it away. What it held back goes on. With --feature: of
    its open runs and of each further one.
    """
    from agentflow.runs import budgeting, featuring

    config = config_of(ctx, {"redis.url": redis})
    if feature:
        found = featuring.set_feature_budget(feature, words, config=config, repo=Path.cwd())
        _put_feature(feature, found, as_json=as_json)
        return
    monitor = monitor_of(config)
    named = words[0] if "=" not in words[0] and words[0][:1] not in "+-" else None
    changes = words[1:] if named else words
    if not changes:
        raise UsageError(
            f"what is to be changed of {named}?", fix=f"agentflow budget set {named} usd=5; usd=+5 adds to it"
        )
    only_day = all(word.startswith(("day.", "org.")) for word in changes)
    run_id = "" if only_day and not named else monitor.resolve(named)
    _put(budgeting.change(changes, run_id, config=config, repo=Path.cwd()), as_json=as_json)


def changes_of(words: list[str] | None, config: Config) -> list[Change]:
    """What `resume --budget` is given."""
    from agentflow.canvas.spending import parse_changes

    return parse_changes(words or (), config)


def _show(ctx: typer.Context, run: str | None, redis: str | None, *, as_json: bool) -> None:
    from agentflow.runs import budgeting

    config = config_of(ctx, {"redis.url": redis})
    monitor = monitor_of(config)
    run_id = monitor.resolve(run) if run or monitor.runs() else ""
    _put(budgeting.look(run_id, config=config, repo=Path.cwd()), as_json=as_json)


def _put_feature(feature: str, found: Mapping[str, float], *, as_json: bool) -> None:
    if as_json:
        text.put(json.dumps({"feature": feature, "budgets": found}))
        return
    for name, amount in found.items():
        scope, _, unit = name.rpartition(":")
        text.put(f"{scope}  {_usd(amount) if unit == 'usd' else f'{amount:,.0f} tokens'}")
    if not found:
        text.say(f"nothing is set for {feature}: its spec holds")


def _put(view: BudgetView, *, as_json: bool) -> None:
    if as_json:
        text.put(json.dumps(view.as_dict(), indent=2))
        return
    for line in lines(view):
        text.put(line)
    if view.unbilled:
        calls = text.count(view.unbilled, "call")
        text.say(f"{calls} ended with their worker before the bill came and count with their estimate")


def lines(view: BudgetView) -> list[str]:
    """A table for people: the run, its roles, its dearest nodes, today of the project and of all."""
    nodes = [p for p in view.purses.values() if p.scope.startswith("node:")]
    nodes.sort(key=lambda p: (not p.limited, -p.spent.usd, -p.spent.tokens, p.scope))
    others = [p for p in view.purses.values() if not p.scope.startswith("node:")]
    shown = [*others, *nodes[:NODES_SHOWN], view.day, view.org]
    head = (view.run or "budget", "spent", "of", "reserved", "tokens", "of", "reserved")
    said = list(text.table(head, map(_row, shown)))
    return [*said, f"… and {len(nodes) - NODES_SHOWN} more nodes"] if len(nodes) > NODES_SHOWN else said


def _row(purse: Purse) -> tuple[str, ...]:
    return (
        purse.scope,
        _usd(purse.spent.usd),
        "" if purse.limit_usd is None else _usd(purse.limit_usd),
        _usd(purse.held.usd) if purse.held.usd else "",
        f"{purse.spent.tokens:,}",
        "" if purse.limit_tokens is None else f"{purse.limit_tokens:,}",
        f"{purse.held.tokens:,}" if purse.held.tokens else "",
    )


def _usd(amount: float) -> str:
    return f"${amount:.4f}" if 0 < amount < 0.1 else f"${amount:.2f}"  # noqa: PLR2004 (ten cents)
