"""`worker`, `workers`, `spawn`, `scale` and `limits`: the processes that do the work.

In every text a *slot* runs one node at a time, and a *worker* is a process that has slots.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, RedisOption, Surroundings, monitor_of
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.fleet import FleetStatus
    from agentflow.monitor import WorkerStatus

WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when the new workers serve.")]

OfFeatureOption = Annotated[
    str | None,
    typer.Option("--feature", metavar="NAME", help="Of each run of this feature, further ones too."),
]
OfRunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Of this run alone.")]

limits_app = typer.Typer(help="How many slots may be busy at once, over all workers.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (worker, workers, spawn, scale):
        app.command()(command)
    limits_app.command("set")(limits_set)
    app.add_typer(limits_app, name="limits")


def worker(
    ctx: typer.Context,
    *,
    redis: RedisOption = None,
    roles: Annotated[
        str | None, typer.Option(help="Serve these roles only: backend,docs (aliases will do).")
    ] = None,
    queues: Annotated[str | None, typer.Option("-Q", "--queues", help="Serve these queues only.")] = None,
    feature: Annotated[
        str | None, typer.Option(help="Serve this feature (its queue, when routing goes by feature).")
    ] = None,
    name: Annotated[str | None, typer.Option("-n", "--name", help="Its name; two cannot have one.")] = None,
    slots: Annotated[
        str | None, typer.Option(help="Nodes at once: a number, or auto (by processors and memory).")
    ] = None,
    idle_minutes: Annotated[
        float | None, typer.Option(min=0, help="Leave when idle so long; 0: stay.")
    ] = None,
    max_memory_mb: Annotated[
        int | None, typer.Option(min=0, help="Start afresh above this, its children counted; 0: no ceiling.")
    ] = None,
    loglevel: Annotated[
        str, typer.Option("-l", "--loglevel", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Serve runs on this machine until told to leave (SIGTERM).

    Becomes `celery -A agentflow worker` with threads; that command by itself does the same.
    """
    from agentflow.local import launching, service

    given = {"redis.url": redis, "worker.idle_minutes": idle_minutes, "worker.max_memory_mb": max_memory_mb}
    config = _config(ctx, given)
    chosen = launching.WorkerSpec(
        name=launching.full_name(name) if name else launching.new_name(feature or "worker"),
        slots=launching.slots_of(slots, config),
        queues=launching.queues_for(
            config, roles=_words(roles), queues=_words(queues), feature=feature or ""
        ),
    )
    if config.redis_url is None:
        text.say("no Redis is named (--redis URL): this worker serves the private one of this machine")
    service.ensure(config, worker=False)
    argv = [*chosen.argv(), "--loglevel", loglevel]
    environment = launching.environment_for(config, os.environ)
    os.execve(argv[0], argv, environment)  # noqa: S606 (the process becomes the worker)


def say_what_is_held(state: FleetStatus) -> None:
    """Say that the fleet, or a role in every run, starts nothing, and what ends that."""
    if state.drained:
        text.say(f"the fleet is drained: {text.one_line(state.reason)} (agentflow drain --resume ends that)")
    for name, reason in state.paused.items():
        flag = "--fleet" if name == "fleet" else f"--role {name.partition(':')[2]}"
        text.say(f"{name} is paused: {text.one_line(reason)} (agentflow resume {flag} ends that)")


def workers(ctx: typer.Context, *, redis: RedisOption = None, as_json: JsonOption = False) -> None:
    """List the worker processes of the fleet, their slots and what they run; dead ones for a minute."""
    from agentflow import fleet

    config = _reached(ctx, redis)
    found, state = fleet.workers(config), fleet.status(config)
    if as_json:
        shown = [asdict(worker.record) | {"state": worker.state} for worker in found]
        told = {"workers": shown, "slots": state.workers["slots"], "busy": state.workers["busy"]}
        held = {"drained": state.drained, "paused": state.paused}
        text.put(json.dumps(told | {"limits": state.limits} | held, indent=2))
        return
    say_what_is_held(state)
    if not found:
        text.say("no worker; `agentflow spawn 1` starts one here, `agentflow worker` in this terminal")
        return
    for line in text.table(("worker", "state", "slots", "memory", "serves", "runs"), map(_row, found)):
        text.put(line)
    slots = f"{state.workers['busy']}/{state.workers['slots']} slots busy"
    limits = ", ".join(f"{name} {count}" for name, count in state.limits.items())
    text.say(
        f"{processes(state.workers['total'])}, {slots}" + (f"; limits in slots: {limits}" if limits else "")
    )


def _row(worker: WorkerStatus) -> tuple[str, ...]:
    record = worker.record
    serves = "everything" if record.every else ",".join(record.queues)
    runs = " ".join(record.running) or (f"({record.reason})" if record.reason else "")
    memory = f"{record.memory_mb} MB" if record.memory_mb else ""
    return record.name, worker.state, f"{record.busy}/{record.slots}", memory, serves, runs


def spawn(
    ctx: typer.Context,
    count: Annotated[int, typer.Argument(min=1, metavar="N", help="Worker processes.")],
    *,
    redis: RedisOption = None,
    slots: Annotated[str | None, typer.Option(help="Slots of each: a number, or auto.")] = None,
    roles: Annotated[str | None, typer.Option(help="Serve these roles only.")] = None,
    queues: Annotated[str | None, typer.Option("-Q", "--queues", help="Serve these queues only.")] = None,
    feature: Annotated[str | None, typer.Option(help="Serve this feature.")] = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Start N worker processes on this machine and keep them running."""
    from agentflow import fleet
    from agentflow.local import launching

    config = _config(ctx, {"redis.url": redis})
    names = fleet.spawn(
        config,
        count,
        slots=launching.slots_of(slots, config) if slots else None,
        queues=launching.queues_for(config, roles=_words(roles), queues=_words(queues))
        if roles or queues
        else (),
        feature=feature or "",
        wait=wait,
    )
    if as_json:
        text.put(json.dumps({"spawned": len(names), "workers": names}))
        return
    for name in names:
        text.put(name)
    which = " --redis URL" if redis else ""
    text.say(f"{processes(len(names))} started here; `agentflow down{which}` ends what was started here")


def scale(
    ctx: typer.Context,
    slots: Annotated[int, typer.Argument(min=1, metavar="N", help="Slots: nodes that may run at once.")],
    *,
    role: Annotated[str | None, typer.Option(help="The slots of this role; else of the whole fleet.")] = None,
    redis: RedisOption = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Let N nodes run at once over all workers; start workers here where slots are missing.

    Ends a drain. N counts slots; the processes that are started for them are told apart.
    """
    from agentflow import fleet

    config = _config(ctx, {"redis.url": redis})
    done = fleet.scale(config, slots, role=role, wait=wait)
    if as_json:
        text.put(json.dumps(asdict(done), indent=2))
        return
    of_what = f"of role {role}" if role else "of the fleet"
    text.put(
        f"{text.count(done.target, 'slot')} {of_what} may be busy at once; "
        f"{processes(done.spawned)} started, {done.dismissed} dismissed"
    )
    if done.slots < done.target and not done.spawned:
        text.say(
            f"the workers have {text.count(done.slots, 'slot')} together; no more are started here "
            f"(fleet.max_workers is {config.fleet.max_workers})"
        )


@limits_app.callback(invoke_without_command=True)
def limits(
    ctx: typer.Context,
    *,
    run: OfRunOption = None,
    feature: OfFeatureOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the limits on slots: of the fleet and of roles, of one run, or of a feature."""
    if ctx.invoked_subcommand:
        return
    from agentflow import fleet
    from agentflow.runs import featuring

    _one_of(run, feature)
    config = _reached(ctx, redis)
    if feature:
        found = featuring.feature_limits(feature, config=config, repo=Path.cwd())
        _put_limits(found, as_json=as_json, none=f"nothing is set for {feature}: its spec holds")
        return
    found = fleet.run_limits(config, monitor_of(config).resolve(run)) if run else fleet.limits(config)
    _put_limits(found, as_json=as_json)


def limits_set(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="NAME=SLOTS...", help="fleet=40 backend=8 class:high=2; 0: no limit."),
    ],
    *,
    run: OfRunOption = None,
    feature: OfFeatureOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change limits while everything runs; what waits is woken, what runs is finished.

    With --run those of one run: all, a role, or class:high. One of the fleet stands in its place.
    With --feature the same of its open runs and of each further one; NAME=none takes that away.
    """
    from agentflow import fleet
    from agentflow.runs import featuring

    _one_of(run, feature)
    if feature:
        changes = dict(map(_limit_or_none, words))
        found = featuring.set_feature_limits(feature, changes, config=_reached(ctx, redis), repo=Path.cwd())
        _put_limits(found, as_json=as_json, none=f"nothing is set for {feature}: its spec holds")
        return
    config, wanted = _reached(ctx, redis), dict(map(_limit, words))
    if run:
        found = fleet.set_run_limits(config, monitor_of(config).resolve(run), wanted)
    else:
        found = fleet.set_limits(config, wanted)
    _put_limits(found, as_json=as_json)


def _limit(word: str) -> tuple[str, int]:
    name, _, slots = word.partition("=")
    if not name or not slots.isdecimal():
        raise UsageError(f"{word!r} is no limit", fix="NAME=SLOTS: fleet=40, backend=8, class:high=2")
    return name, int(slots)


def _limit_or_none(word: str) -> tuple[str, int | None]:
    name, _, slots = word.partition("=")
    return (name, None) if name and slots == "none" else _limit(word)


def _one_of(run: str | None, feature: str | None) -> None:
    if run and feature:
        raise UsageError("--run and --feature exclude each other", fix="take one of them")


def _put_limits(
    found: Mapping[str, int], *, as_json: bool, none: str = "no limit but the slots of the workers"
) -> None:
    if as_json:
        text.put(json.dumps(found))
        return
    for name, slots in found.items():
        text.put(f"{name}={slots}")
    if not found:
        text.say(none)


def _reached(ctx: typer.Context, redis: str | None) -> Config:
    """The configuration, with the private server up when it is that one."""
    from agentflow.local import service

    config = _config(ctx, {"redis.url": redis})
    service.ensure(config, worker=False)
    return config


def processes(count: int) -> str:
    """`1 worker process`, `2 worker processes`."""
    return f"{count} worker process{'' if count == 1 else 'es'}"


def _config(ctx: typer.Context, given: Mapping[str, Any]) -> Config:
    """The configuration with options of the command itself on top, by dotted key."""
    found: Surroundings = ctx.obj
    return Surroundings(
        found.directory, {**found.flags, **{k: v for k, v in given.items() if v is not None}}
    ).config()


def _words(text: str | None) -> tuple[str, ...]:
    """`a,b` as words."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
