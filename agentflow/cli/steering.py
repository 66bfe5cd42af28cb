"""`pause`, `cancel`, `drain` and `kill`, of a run, a role or the fleet.

All of it stands in the ledger and holds whatever ends meanwhile; saying it again changes nothing. A run that
has ended before is left as it is, and the command says so (`AF-RUN-006`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import text
from agentflow.cli.options import (
    JsonOption,
    RedisOption,
    config_of,
    monitor_of,
    seconds,
)
from agentflow.errors import Exit, UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.monitor import Monitor
    from agentflow.states import RunState

RoleOption = Annotated[str | None, typer.Option("--role", help="Of this role, in every run.")]
FleetOption = Annotated[bool, typer.Option("--fleet", help="Of the whole fleet.")]
ReasonOption = Annotated[str | None, typer.Option(help="Told to whoever asks why nothing starts.")]
TimeoutOption = Annotated[str, typer.Option(help="How long to wait for what runs: 90s, 10m.")]
OneRunArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A run's id or its beginning; else the only open one.")
]
MaybeRunArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A run's id or its beginning; else the fleet.")
]
BY_OPERATOR = "by its operator"


@dataclass(frozen=True, slots=True)
class Meant:
    """What a command is about: exactly one of a run, a role and (neither of them) the fleet."""

    config: Config
    run: str = ""
    role: str = ""

    @property
    def told(self) -> str:
        """As people say it."""
        return self.run or (f"role {self.role}" if self.role else "the fleet")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (pause, cancel, drain, kill):
        app.command()(command)


def meant(config: Config, run: str | None, role: str | None, *, fleet: bool, run_by_default: bool) -> Meant:
    """Read the three ways to say it; nothing said is the only open run, or the fleet. Raises `UsageError`."""
    from agentflow import control

    said = [word for word, given in (("RUN", run), ("--role", role), ("--fleet", fleet)) if given]
    if len(said) > 1:
        raise UsageError(f"{' and '.join(said)} exclude each other", fix="take one of them")
    monitor = monitor_of(config)
    if role:
        return Meant(config, role=control.role_named(role, config))
    if run or (run_by_default and not fleet):
        return Meant(config, run=monitor.resolve(run or _only_open(monitor)))
    return Meant(config)


def _only_open(monitor: Monitor) -> str:
    found = monitor.open_runs()
    if len(found) != 1:
        ids = ", ".join(record.id for record in found)
        raise UsageError(
            f"{len(found)} runs are open: {ids}" if found else "no run is open", fix="name the run"
        )
    return found[0].id


def pause(
    ctx: typer.Context,
    run: OneRunArgument = None,
    *,
    role: RoleOption = None,
    fleet: FleetOption = False,
    reason: ReasonOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let nothing further start; what runs goes on. `resume` ends it.

    Whoever follows a paused run stays attached. Unlike a drain, a paused fleet keeps its workers and takes
    new runs.
    """
    from agentflow import control, runs

    what = meant(config_of(ctx, {"redis.url": redis}), run, role, fleet=fleet, run_by_default=True)
    if what.run:
        state = str(
            _moved(
                what.run,
                "paused",
                runs.pause(what.run, config=what.config, reason=_by_user("paused", reason)),
            )
        )
    else:
        control.pause(what.config, role=what.role, reason=reason or BY_OPERATOR)
        state = "paused"
    _told(what, state, as_json=as_json)
    flag = f" {what.run}" if what.run else f" --role {what.role}" if what.role else " --fleet"
    text.say(f"what runs goes on; `agentflow resume{flag}` ends the pause")


def _moved(run: str, deed: str, state: RunState) -> RunState:
    """Where a run is after the command; raises `UsageError` when it had ended, or is being ended, before.

    What is `cancelled` is what `cancel` and `kill` want: they can be said again.
    """
    from agentflow.states import CLOSED, RunState

    ends = deed in ("cancelled", "killed")
    if ends and state is RunState.CANCELLED:
        return state
    if state in CLOSED:
        then = {RunState.READY_TO_LAND: f"agentflow land {run}", RunState.LANDED: f"agentflow rollback {run}"}
        raise UsageError(
            f"run {run} cannot be {deed}: it has ended already ({state})",
            why="nothing of it runs or waits; nothing was changed",
            fix=f"`{then.get(state, f'agentflow resume {run}')}` is what can follow",
            code="AF-RUN-006",
        )
    if state is RunState.CANCELLING and not ends:
        raise UsageError(
            f"run {run} cannot be {deed}: it is being cancelled",
            why="nothing was changed",
            fix=f"`agentflow resume {run}` goes on once it has ended",
            code="AF-RUN-006",
        )
    return state


def _by_user(deed: str, reason: str | None) -> str:
    return f"{deed} by its user" + (f": {reason}" if reason else "")


def go_on(config: Config, run: str | None, role: str | None, *, fleet: bool, as_json: bool) -> None:
    """End the pause of a role or of the fleet."""
    from agentflow import control

    what = meant(config, run, role, fleet=fleet, run_by_default=False)
    ended = control.resume(config, role=what.role)
    _told(what, "open", as_json=as_json, resumed=ended)
    if not ended:
        text.say(f"{what.told} was not paused")


def cancel(
    ctx: typer.Context,
    run: OneRunArgument = None,
    *,
    role: RoleOption = None,
    fleet: FleetOption = False,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a run now, every node of a role, or every open run (--fleet).

    Waiting nodes are cancelled and running ones stopped; of a run, `resume` goes on from there.
    """
    from agentflow import control, runs

    what = meant(config_of(ctx, {"redis.url": redis}), run, role, fleet=fleet, run_by_default=True)
    if what.run:
        state = _moved(what.run, "cancelled", runs.cancel(what.run, config=what.config))
        _told(what, str(state), as_json=as_json)
        return
    if what.role:
        done = control.cancel_role(what.config, what.role, reason=f"role {what.role} was cancelled")
    else:
        done = control.cancel_fleet(what.config, reason=f"cancelled {BY_OPERATOR}")
    _told(what, "cancelled", as_json=as_json, runs=list(done.runs), attempts=done.attempts)


def drain(
    ctx: typer.Context,
    run: MaybeRunArgument = None,
    *,
    role: RoleOption = None,
    fleet: FleetOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="End the drain of the fleet.")] = False,
    reason: ReasonOption = None,
    timeout: TimeoutOption = "10m",
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let what runs finish and start nothing more: in a run, of a role, or in the fleet, whose workers leave.

    Waits until nothing runs. Holds until `resume` (of the fleet: `drain --resume` or `scale` too), also for
    workers that start later. Prints how the fleet's runs stand.
    """
    from agentflow import control

    config = config_of(ctx, {"redis.url": redis})
    what = meant(config, run, role, fleet=fleet, run_by_default=False)
    if resume and (what.run or what.role):
        raise UsageError(
            f"--resume ends the drain of the fleet, not of {what.told}",
            fix="agentflow resume " + (what.run or f"--role {what.role}"),
        )
    wait_s = seconds(timeout) or 0.0
    tell = None if as_json else text.say
    if what.run:
        _drain_run(what, reason=_by_user("drained", reason), wait_s=wait_s, as_json=as_json)
        return
    if what.role:
        told = reason or BY_OPERATOR
        left = control.drain_role(config, what.role, reason=told, timeout_s=wait_s, tell=tell)
    else:
        _drain_fleet(config, resume=resume, reason=reason or BY_OPERATOR, wait_s=wait_s, as_json=as_json)
        return
    _told(what, "draining" if left else "drained", as_json=as_json, attempts=left)
    if left:
        raise typer.Exit(int(Exit.FAILED))


def _drain_run(what: Meant, *, reason: str, wait_s: float, as_json: bool) -> None:
    from agentflow import control, runs
    from agentflow.states import CLOSED

    _moved(what.run, "drained", runs.drain(what.run, config=what.config, reason=reason))
    tell = None if as_json else text.say
    done = control.drain_run(what.config, what.run, reason=reason, timeout_s=wait_s, tell=tell)
    left = done.attempts
    # What ran may have been its integration: then the run has come to its end meanwhile.
    state = done.state if done.state in CLOSED else "draining" if left else "drained"
    _told(what, state, as_json=as_json, attempts=left)
    if left:
        raise typer.Exit(int(Exit.FAILED))


def _drain_fleet(config: Config, *, resume: bool, reason: str, wait_s: float, as_json: bool) -> None:
    from agentflow import fleet
    from agentflow.cli.fleet import processes

    if resume:
        ended = fleet.resume(config)
        if as_json:
            text.put(json.dumps({"resumed": ended}))
        text.say("the fleet takes work again" if ended else "the fleet was not drained")
        return
    done = fleet.drain(config, reason=reason, timeout_s=wait_s, tell=None if as_json else text.say)
    if as_json:
        text.put(json.dumps(asdict(done), indent=2))
    else:
        for run in done.snapshot["runs"]:
            text.put(f"run {run['run']}: {run['done']} of {text.count(run['total'], 'node')} done")
        text.put(f"{done.status}: {processes(done.workers_killed)} ended")
    if done.left:
        text.say(
            f"{text.count(len(done.left), 'worker')} still finish what they have: {', '.join(done.left)}"
        )
        raise typer.Exit(int(Exit.FAILED))


def kill(
    ctx: typer.Context,
    run: MaybeRunArgument = None,
    *,
    role: RoleOption = None,
    fleet: FleetOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """End what runs at once: a run (it is cancelled), a role (it is paused), or every worker of the fleet.

    What ran of a role or of the fleet is done again later, and nothing is counted against it.
    """
    from agentflow import control
    from agentflow.states import RunState

    config = config_of(ctx, {"redis.url": redis})
    what = meant(config, run, role, fleet=fleet, run_by_default=False)
    if what.run:
        done = control.kill_run(config, what.run)
        _moved(what.run, "killed", RunState(done.state))
        _told(what, done.state, as_json=as_json, attempts=done.attempts)
        if done.state == "cancelling":
            text.say("its integration is still being ended; say it again, or start a worker")
            raise typer.Exit(int(Exit.INFRA))
        return
    if what.role:
        done = control.kill_role(config, what.role, reason=f"killed {BY_OPERATOR}")
        _told(what, "paused", as_json=as_json, attempts=done.attempts)
        ended = text.count(done.attempts, "attempt")
        text.say(f"{ended} ended; `agentflow resume --role {what.role}` goes on")
        return
    _kill_fleet(config, yes=yes, as_json=as_json)


def _kill_fleet(config: Config, *, yes: bool, as_json: bool) -> None:
    from agentflow import fleet
    from agentflow.cli.fleet import processes

    if not yes and not _agreed(fleet.status(config).workers):
        raise UsageError("nothing was ended", fix="agentflow kill --yes")
    done = fleet.kill(config)
    if as_json:
        text.put(json.dumps(asdict(done), indent=2))
    else:
        text.put(
            f"{done.status}: {processes(done.workers_killed)} and "
            f"{text.count(done.attempts_ended, 'attempt')} ended"
        )
    if done.left:
        text.say(f"these did not obey, on other machines: {', '.join(done.left)}")
        raise typer.Exit(int(Exit.INFRA))


def _agreed(found: Mapping[str, Any]) -> bool:
    import sys

    from agentflow.cli.fleet import processes

    if not sys.stdin.isatty():
        return False
    told = f"{processes(found['total'])} with {text.count(found['busy'], 'busy slot')}"
    return typer.confirm(f"end {told}?", err=True)


def _told(what: Meant, state: str, *, as_json: bool, **more: Any) -> None:
    """Where a run, a role or the fleet is now."""
    if not as_json:
        text.put(f"{what.told}: {state}")
        return
    named = {"run": what.run} if what.run else {"role": what.role} if what.role else {"fleet": True}
    text.put(json.dumps({**named, "state": state, **more}))
