"""`rates`: what providers allow, how much of it is used, what is closed; changed while everything runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, RedisOption, config_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentflow.config import Config
    from agentflow.fleet import Rate

rates_app = typer.Typer(help="What may be asked of providers, by the whole fleet.", rich_markup_mode=None)
#: Limit -> what is used of it.
_USED = {"rpm": "calls", "tpm": "tokens", "concurrency": "under_way"}


def register(app: typer.Typer) -> None:
    """Add these commands."""
    rates_app.command("set")(change)
    app.add_typer(rates_app, name="rates")


@rates_app.callback(invoke_without_command=True)
def rates(ctx: typer.Context, *, redis: RedisOption = None, as_json: JsonOption = False) -> None:
    """Show what is limited or closed, and how much of it is used."""
    if ctx.invoked_subcommand:
        return
    from agentflow import fleet

    _put(fleet.rates(_reached(ctx, redis)), as_json=as_json)


def change(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE.LIMIT=NUMBER...",
            help="A runner, a host or role:NAME: model.rpm=500 role:tester.tpm=9000; none: as configured.",
        ),
    ],
    *,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change limits at once and for good: rpm, tpm, concurrency, capacity, refill_rate; 0: no limit."""
    from agentflow import fleet

    _put(fleet.change_rates(_reached(ctx, redis), words), as_json=as_json)


def _reached(ctx: typer.Context, redis: str | None) -> Config:
    from agentflow.local import service

    config = config_of(ctx, {"redis.url": redis})
    service.ensure(config, worker=False)
    return config


def _put(found: Sequence[Rate], *, as_json: bool) -> None:
    if as_json:
        text.put(json.dumps([rate.as_dict() for rate in found]))
        return
    for rate in found:
        text.put(line(rate))
    if not found:
        text.say("nothing is limited, and nothing is closed")


def line(rate: Rate) -> str:
    """`runner:model  rpm 12/500  tpm 900/20000  3 wait  closed for 4 s: ...`."""
    parts = [rate.window]
    for name, limit in rate.allowed.items():
        if limit:
            used = f"{getattr(rate.used, _USED[name]):,}/" if name in _USED else ""
            parts.append(f"{name} {used}{limit:,}")
    if rate.used.waiting:
        parts.append(f"{text.count(rate.used.waiting, 'attempt')} in its line")
    if rate.used.closed_s:
        parts.append(f"closed for {rate.used.closed_s:.0f} s: {text.one_line(rate.used.reason)}")
    return "  ".join(parts)
