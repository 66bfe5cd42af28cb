"""Runs, as their user sees them: submit, follow, cancel, resume, land.

    submit    load and check the spec, plan it, publish the base, open the run, send the canvas
    follow    the run's transitions until it closes
    finish    publish what came out into the repository, and land it
    resume    open again what did not succeed, or wake what nobody carries

Only a submitter's repository lands, by compare-and-swap. Everything here goes through the ledger, so
that each of these can be typed in another terminal, or after a crash.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentflow import transport as carrying
from agentflow.app import make_app
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas, parse_plan
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, make_plan
from agentflow.config import Config
from agentflow.errors import ConfigError, ConflictError, RepositoryError, UsageError
from agentflow.homes import NotHereError, home_of
from agentflow.local import service
from agentflow.results import RunResult, build_result
from agentflow.spec.models import Spec
from agentflow.states import CLOSED, RunState
from agentflow.store.client import check, connect
from agentflow.store.events import EventLog
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.orders import configured_limits, refuse_drained, refuse_full
from agentflow.store.packs import check_room
from agentflow.store.records import Event, RunRecord
from agentflow.store.scripts import Answer
from agentflow.workspace import gc as collecting
from agentflow.workspace import ingest, inspect, leftovers
from agentflow.workspace import land as landing
from agentflow.workspace.store import Store

#: Milliseconds that `follow` waits for a transition before it looks at the run itself.
FOLLOW_BLOCK_MS = 2000


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What the command line adds to a spec."""

    only: tuple[str, ...] = ()
    jobs: int | None = None
    timeout_s: float | None = None
    detach: bool = False
    allow_run: bool = False
    distributed: bool = False
    spec_text: str = ""


def open_ledger(config: Config) -> Ledger:
    """The ledger of this configuration; raises `InfraError` when its Redis cannot be used."""
    url = config.client_url()
    client = connect(url)
    check(client, url)
    Fleet(client).require_schema()
    return Ledger(client)


def submit(
    spec: Spec,
    *,
    config: Config,
    repo: Path,
    options: SubmitOptions | None = None,
    tell: Callable[[str], None] | None = None,
) -> str:
    """Start a run and return its id. Nothing is sent before the whole run stands in the ledger.

    `tell` is given what the user should know (uncommitted changes are not part of the run, ...).
    """
    options = options or SubmitOptions()
    transport = transport_for(config, distributed=options.distributed)
    plan = make_plan(
        spec,
        config,
        only=options.only,
        jobs=options.jobs,
        timeout_s=options.timeout_s,
        allow_run=options.allow_run,
    )
    target = plan.target or f"agentflow/{slug(spec.feature)}"
    facts = inspect.check_repository(repo, spec.base or "HEAD", target)
    if tell:
        for note in (*spec.notes, *facts.notes):
            tell(note)
    run_id = new_run_id(spec.feature)
    plan = plan.model_copy(update={"base": facts.base, "target": target})
    ledger = open_ledger(config)
    check_room(ledger.client)
    refuse_drained(ledger.client)
    refuse_full(ledger, config.fleet.queue_cap)
    ledger.default_limits(configured_limits(config))
    if transport == carrying.PACKS:
        carrying.publish_base(config, facts.project, facts.base, facts.git_dir)
    landing.guard_base(facts.git_dir, run_id, facts.base)
    if transport != carrying.PACKS:
        store = Store.open(config.data_dir, facts.project, facts.objects)
        store.keep(f"refs/agentflow/{run_id}/base", facts.base)
    _keep_record(config, run_id, plan, options)
    open_in_ledger(
        ledger,
        run_id,
        plan,
        project=facts.project,
        repo=str(facts.objects),
        root=str(facts.root),
        detached=options.detach,
        transport=transport,
        host=socket.gethostname(),
    )
    if tell and transport == carrying.PACKS:
        queues = ", ".join(ledger.unserved_of(run_id))
        if queues:
            tell(
                f"no worker serves these queues yet: {queues}; their nodes wait until one is started with "
                "`agentflow worker --redis URL`"
            )
    chords.start(_canvas(ledger, plan, run_id, config))
    return run_id


def transport_for(config: Config, *, distributed: bool = False) -> str:
    """How a run's objects reach its workers: a Redis of the team's may have them on any machine.

    Raises `ConfigError` for a distributed run without such a Redis.
    """
    if config.redis_url is not None:
        return carrying.PACKS
    if distributed:
        raise ConfigError(
            "a distributed run needs the Redis that the workers listen to",
            why="none is configured; the private one of this machine cannot be reached from another",
            fix="--redis redis://HOST:6379/0, AGENTFLOW_REDIS_URL, or redis.url in agentflow.yaml",
            code="AF-CONFIG-040",
        )
    return carrying.ALTERNATES


def follow(run_id: str, *, config: Config, after: str = "0") -> Iterator[Event]:
    """Every transition of the run, as it happens, until the run is closed or drained to a stop."""
    ledger = open_ledger(config)
    events = EventLog(ledger.client)
    ledger.run(run_id)
    while True:
        batch = events.read(run_id, after=after, block_ms=FOLLOW_BLOCK_MS)
        yield from batch
        if batch:
            after = batch[-1].id
        elif _at_rest(ledger, run_id):
            return
        if any(e.kind in ("run.finished", "run.landed") for e in batch) and ledger.is_closed(run_id):
            yield from events.read(run_id, after=after)
            return


def _at_rest(ledger: Ledger, run_id: str) -> bool:
    run = ledger.run(run_id)
    return run.state in CLOSED or (run.state is RunState.DRAINING and run.running <= 0)


def finish(run_id: str, *, config: Config, take: bool = True, repo: Path | None = None) -> RunResult:
    """Publish what the run made as hidden refs of the repository and, when `take`, land it.

    `repo`: a clone of the run's repository, for a run that came from another machine or directory.
    Where there is none, what a run came to that cannot land is told all the same.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state in CLOSED and run.repo:
        try:
            _publish(ledger, config, run, home_of(run, repo))
        except NotHereError:
            if run.transport != carrying.PACKS or (take and run.state is RunState.READY_TO_LAND):
                raise
    if take and run.state is RunState.READY_TO_LAND:
        return land(run_id, config=config, repo=repo)
    return build_result(ledger, run_id)


def land(run_id: str, *, config: Config, repo: Path | None = None) -> RunResult:
    """Move the target branch to the run's result, all or nothing. Landing twice is harmless.

    A target that moved meanwhile is never overwritten: the run is integrated (merged and validated) again
    on top of it, once; if it moves again meanwhile, `ConflictError`. `repo` as for `finish`.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state is RunState.LANDED:
        return build_result(ledger, run_id)
    if run.state is not RunState.READY_TO_LAND:
        raise UsageError(
            f"run {run_id} cannot land: it is {run.state}",
            why=run.reason,
            fix=f"`agentflow status {run_id}` says what is missing; `agentflow resume {run_id}` goes on",
        )
    if run.repo:
        git_dir = home_of(run, repo)
        try:
            branch = _move_branch(ledger, config, run, git_dir)
        except landing.TargetMovedError as moved:
            run = _integrate_on(ledger, config, run, git_dir, moved)
            branch = _move_branch(ledger, config, run, git_dir)
        ledger.landed_as(run_id, branch)
    closed = ledger.close(run_id, RunState.LANDED, result=run.result)
    if closed:
        send_others(ledger, closed, config)
    return build_result(ledger, run_id)


def _move_branch(ledger: Ledger, config: Config, run: RunRecord, git_dir: Path) -> str:
    depot = _publish(ledger, config, run, git_dir)
    if run.transport == carrying.PACKS:
        # What others have packed is judged here once more, whoever they say they are.
        plan = parse_plan(json.dumps(ledger.plan(run.id)))
        named = [pattern for node in plan.nodes for pattern in node.artifacts]
        ingest.check_result(depot.store, run.onto or run.base, run.result, named)
    if run.result == run.base:
        # Reports only: there is nothing that a branch could point to.
        collecting.release_base(git_dir, run.id)
        return ""
    landed = landing.land(git_dir, commit=run.result, branch=run.target, run=run.id)
    collecting.release_base(git_dir, run.id)
    return landed.branch


def _integrate_on(
    ledger: Ledger, config: Config, run: RunRecord, git_dir: Path, moved: landing.TargetMovedError
) -> RunRecord:
    """Merge and validate once more, with what the target holds now; raises when that fails."""
    service.ensure(config)
    if run.transport == carrying.PACKS:
        carrying.publish_history(config, run, git_dir, moved.current)
    answer = ledger.reopen(run.id, onto=moved.current)
    if answer is None:
        raise moved
    canvas = canvas_of(ledger, run.id, config)
    chords.send(canvas, answer.ready)
    for _ in follow(run.id, config=config, after=EventLog(ledger.client).last(run.id)):
        pass
    again = ledger.run(run.id)
    if again.state is not RunState.READY_TO_LAND:
        raise ConflictError(
            f"{moved.what}, and the work does not fit on top of it: {again.reason}",
            fix=f"merge {moved.branch} and the run's nodes yourself, or run the feature again",
            code="AF-CONFLICT-004",
        )
    return again


def _publish(ledger: Ledger, config: Config, run: RunRecord, git_dir: Path) -> carrying.Depot:
    """Bring the run's objects and refs into the user's repository."""
    refs = {f"nodes/{n.id}": n.commit for n in ledger.nodes(run.id).values() if n.commit}
    if run.result:
        refs["result" if run.state in (RunState.READY_TO_LAND, RunState.LANDED) else "merged"] = run.result
    depot = carrying.open_depot(config, run)
    depot.bring([run.base, *refs.values()])
    landing.publish(depot.store, git_dir, run.id, refs, base=run.base)
    return depot


def cancel(run_id: str, *, config: Config, reason: str = "cancelled by its user") -> RunState:
    """Cancel durably: waiting nodes end now, running ones within a second or two."""
    return _control(run_id, config, "cancel", reason)


def drain(run_id: str, *, config: Config, reason: str = "drained by its user") -> RunState:
    """Let running attempts finish and start no further ones; `resume` goes on."""
    return _control(run_id, config, "drain", reason)


def _control(run_id: str, config: Config, verb: str, reason: str) -> RunState:
    ledger = open_ledger(config)
    ledger.run(run_id)
    state, answer = ledger.control(run_id, verb, reason)
    chords.follow_up(
        canvas_of(ledger, run_id, config), ready=answer.ready, ended=answer.ended, woken=answer.woken
    )
    send_others(ledger, answer, config)
    return RunState(state)


def resume(run_id: str, *, config: Config, repo: Path | None = None) -> RunState:
    """Go on with a run after anything: a drain, a failure, a cancel, or a crash of every process.

    A finished run opens again what did not succeed; an unfinished one is woken, and what is ready is
    sent again (a message that is still somewhere is refused at its claim). A base that Redis no longer
    has is sent again from `repo` or from where the run was submitted.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state in (RunState.READY_TO_LAND, RunState.LANDED):
        return run.state
    if run.transport == carrying.PACKS and run.repo:
        home = None
        with contextlib.suppress(RepositoryError):  # without a clone at hand Redis must still have it
            home = home_of(run, repo)
            carrying.publish_base(config, run.project, run.base, home)
        commits = [n.commit for n in ledger.nodes(run_id).values() if n.commit]
        carrying.keep_work(config, run, commits, home)
    if run.state in CLOSED:
        answer = ledger.reopen(run_id)
        canvas = canvas_of(ledger, run_id, config)
        chords.arm(canvas)
        _arrive_again(ledger, canvas)
        chords.send(canvas, answer.ready if answer else ())
        return RunState.OPEN
    if run.state is RunState.CANCELLING:
        return run.state
    _, continued = ledger.control(run_id, "continue", "resumed")
    send_others(ledger, continued, config)
    canvas = canvas_of(ledger, run_id, config)
    chords.send(canvas, list(ledger.ready(run_id)))
    return RunState.OPEN


def _arrive_again(ledger: Ledger, canvas: Canvas) -> None:
    """In a new generation every chord counts from nought: what has succeeded arrives at once.

    A join whose parents have all succeeded is left out: its body is sent because it is ready.
    """
    nodes = ledger.nodes(canvas.run_id)
    done = {n.id for n in nodes.values() if n.state == "succeeded"}
    for join in canvas.joins.values():
        if not done.issuperset(join.parents):
            for parent in done.intersection(join.parents):
                chords.arrive_at(canvas, join, parent)


def result(run_id: str, *, config: Config) -> RunResult:
    """What the run came to, or has come to so far."""
    return build_result(open_ledger(config), run_id)


def send_others(ledger: Ledger, answer: Answer, config: Config) -> None:
    """Send what a transition woke in other runs: it left room, or what an exclusive run held."""
    chords.send_others(answer.others, lambda run_id: canvas_of(ledger, run_id, config))


def canvas_of(ledger: Ledger, run_id: str, config: Config) -> Canvas:
    """The canvas of a run as it is open now. Raises `RunNotFoundError`."""
    return _canvas(ledger, parse_plan(json.dumps(ledger.plan(run_id))), run_id, config)


def _canvas(ledger: Ledger, plan: Plan, run_id: str, config: Config) -> Canvas:
    return Canvas(plan, run_id, ledger.generation(run_id), make_app(config))


def _keep_record(config: Config, run_id: str, plan: Plan, options: SubmitOptions) -> None:
    """The run's own directory: spec and plan as submitted, later logs and transcripts."""
    folder = config.data_dir / "runs" / run_id
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    leftovers.sign(folder, config.client_url())
    (folder / "plan.json").write_text(plan.model_dump_json(indent=1), "utf-8")
    if options.spec_text:
        (folder / "spec.yaml").write_text(options.spec_text, "utf-8")


def files_of(repo: Path, base: str = "HEAD") -> list[str]:
    """The files that a run from `base` begins with. Raises `RepositoryError`."""
    return inspect.files_at(repo, base)


def slug(text: str) -> str:
    """A branch-safe name of at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "feature"


def new_run_id(feature: str) -> str:
    """The feature's slug and six random hexadecimal digits."""
    return f"{slug(feature)[:24].strip('-')}-{secrets.token_hex(3)}"
