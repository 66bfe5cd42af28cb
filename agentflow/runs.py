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
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentflow import closing, recovery
from agentflow import transport as carrying
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.estimate import estimate
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, make_plan
from agentflow.canvas.ranks import ranked
from agentflow.canvas.spending import check_nodes
from agentflow.config import Config
from agentflow.errors import ConfigError, RepositoryError, UsageError
from agentflow.finishing import finish, land
from agentflow.following import canvas_of, follow, grant, open_ledger, send_others
from agentflow.homes import home_of
from agentflow.monitor import Monitor
from agentflow.recording import Recorder
from agentflow.recovery import DataLostError
from agentflow.results import RunResult, build_result
from agentflow.spec.models import Spec
from agentflow.states import CLOSED, TERMINAL, RunState
from agentflow.store.breakers import Breakers
from agentflow.store.budgets import DAY, Change, limits_of
from agentflow.store.durations import read_durations
from agentflow.store.governor import Governor, configured_rates
from agentflow.store.ledger import Ledger
from agentflow.store.orders import configured_limits, refuse_drained, refuse_full
from agentflow.store.packs import check_room
from agentflow.store.records import RunRecord
from agentflow.workspace import inspect, leftovers
from agentflow.workspace import land as landing
from agentflow.workspace.store import Store

__all__ = [
    "DataLostError",
    "RunResult",
    "SubmitOptions",
    "cancel",
    "canvas_of",
    "drain",
    "files_of",
    "find",
    "finish",
    "follow",
    "land",
    "open_ledger",
    "pause",
    "result",
    "resume",
    "retry",
    "send_others",
    "submit",
    "transport_for",
]


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What the command line adds to a spec. `no_cache`: no verified commit of before is used again."""

    only: tuple[str, ...] = ()
    jobs: int | None = None
    timeout_s: float | None = None
    detach: bool = False
    allow_run: bool = False
    distributed: bool = False
    no_cache: bool = False
    spec_text: str = ""
    #: Changes of what the spec and the configuration let it spend.
    budget: tuple[Change, ...] = ()


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
    check_nodes(options.budget, plan.by_id)
    plan = plan.model_copy(update={"spending": plan.spending.changed(options.budget)})
    target = plan.target or f"agentflow/{slug(spec.feature)}"
    facts = inspect.check_repository(repo, spec.base or "HEAD", target)
    if tell:
        for note in (*spec.notes, *facts.notes):
            tell(note)
    run_id = new_run_id(spec.feature)
    plan = plan.model_copy(update={"base": facts.base, "target": target, "reuse": not options.no_cache})
    ledger = open_ledger(config)
    plan = ranked(plan, read_durations(ledger.client, facts.project))
    check_room(ledger.client)
    refuse_drained(ledger.client)
    refuse_full(ledger, config.fleet.queue_cap)
    ledger.default_limits(configured_limits(config))
    ledger.default_budget(facts.project, limits_of({DAY: config.budget.day.limits}))
    cost = estimate(plan, ledger.means(facts.project), ledger.day(facts.project))
    if tell and cost.says_something:
        for line in cost.lines:
            tell(line)
    Governor(ledger.client).configure(configured_rates(config))
    Breakers(ledger.client).configure(config.breaker)
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
    ledger.note_estimate(run_id, cost.as_dict())
    if tell and transport == carrying.PACKS:
        _tell_unserved(ledger, run_id, tell)
    Recorder(ledger, config, ledger.run(run_id), repo).catch_up()
    chords.start(canvas_of(ledger, run_id, config))
    return run_id


def _tell_unserved(ledger: Ledger, run_id: str, tell: Callable[[str], None]) -> None:
    queues = ", ".join(ledger.unserved_of(run_id))
    if queues:
        tell(
            f"no worker serves these queues yet: {queues}; their nodes wait until one is started with "
            "`agentflow worker --redis URL`"
        )


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


def cancel(run_id: str, *, config: Config, reason: str = "cancelled by its user") -> RunState:
    """Cancel durably: waiting nodes end now, running ones within a second or two.

    Where nothing runs the run is closed here, by whoever cancels it: perhaps there is no worker.
    """
    _control(run_id, config, "cancel", reason)
    ledger = open_ledger(config)
    return closing.conclude(
        ledger, run_id, config=config, canvas_of=lambda run: canvas_of(ledger, run, config)
    )


def pause(run_id: str, *, config: Config, reason: str = "paused by its user") -> RunState:
    """Start nothing further until `resume`; running attempts go on, and whoever follows the run stays."""
    return _control(run_id, config, "pause", reason)


def drain(run_id: str, *, config: Config, reason: str = "drained by its user") -> RunState:
    """Let running attempts finish and start no further ones; `resume` goes on."""
    return _control(run_id, config, "drain", reason)


def _control(run_id: str, config: Config, verb: str, reason: str) -> RunState:
    ledger = open_ledger(config)
    ledger.run(run_id)
    state, answer = ledger.control(run_id, verb, reason)
    closing.pass_on(run_id, answer, lambda run: canvas_of(ledger, run, config))
    return RunState(state)


def find(word: str | None, *, config: Config, repo: Path) -> str:
    """The id of the run meant, by its id, the beginning of one, or none for the newest: as `Monitor.resolve`
    finds it, and also one that Redis has lost and whose journal is in the repository `repo`.
    """
    monitor = Monitor(config)
    known = [run.id for run in monitor.runs()]
    if word is None:
        return (not known and recovery.newest_here(repo)) or monitor.resolve(None)
    if any(run_id.startswith(word) for run_id in known):
        return monitor.resolve(word)
    return recovery.known_here(word, repo) or monitor.resolve(word)


def resume(
    run_id: str,
    *,
    config: Config,
    repo: Path | None = None,
    tell: Callable[[str], None] | None = None,
    budget: Sequence[Change] = (),
) -> RunState:
    """Go on with a run after anything: a drain, a failure, a cancel, a crash of every process, or the loss of
    what Redis had.

    What the run's journal says has settled and the ledger has lost is put back first. A finished run opens
    again what did not succeed; an unfinished one is woken, and what is ready is sent again (a message that is
    still somewhere is refused at its claim). A base that Redis no longer has is sent again from `repo` or
    from where the run was submitted. `budget` is changed first; a run that has no more to spend
    is paused again at once.
    """
    ledger = open_ledger(config)
    moved = recovery.put_right(ledger, run_id, config=config, repo=repo or Path.cwd(), tell=tell)
    if budget:
        grant(ledger, run_id, ledger.run(run_id).project, budget, config)
    run = ledger.run(run_id)
    if run.state in (RunState.READY_TO_LAND, RunState.LANDED):
        return run.state
    _bring_objects(ledger, config, run, repo)
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
    chords.follow_up(canvas, ready=(), ended=moved.ended, woken=())
    chords.send(canvas, list(ledger.ready(run_id)))
    return ledger.run(run_id).state


def _bring_objects(ledger: Ledger, config: Config, run: RunRecord, repo: Path | None) -> None:
    """Let workers have the base and what has settled, where Redis has lost it or will soon."""
    if not run.repo:
        return
    home = None
    with contextlib.suppress(RepositoryError):  # without a clone at hand Redis must still have it
        home = home_of(run, repo)
        landing.guard_base(home, run.id, run.base)
        if run.transport == carrying.PACKS:
            carrying.publish_base(config, run.project, run.base, home)
    commits = [n.commit for n in ledger.nodes(run.id).values() if n.commit]
    carrying.keep_work(config, run, commits, home)


def retry(run_id: str, node: str, *, config: Config, repo: Path | None = None) -> RunState:
    """Do one node again that has failed or was cancelled, and what was skipped or cancelled with it.

    Its counters begin anew, everything else of the run stays as it is; a closed run is open again. Raises
    `UsageError` with what is in the way.
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    ledger.node(run_id, node)
    answer = ledger.retry(run_id, node)
    if answer.head[0] != "again":
        raise UsageError(
            f"{node} of run {run_id} cannot be done again: {answer.head[1]}",
            fix=f"`agentflow failures {run_id}` lists what can; `agentflow why {run_id} {node}` tells more",
            code="AF-RUN-004",
        )
    _bring_objects(ledger, config, run, repo)
    canvas = canvas_of(ledger, run_id, config)
    chords.arm(canvas)
    _arrive_again(ledger, canvas)
    closing.pass_on(run_id, answer, lambda _: canvas)
    return RunState(answer.head[1])


def _arrive_again(ledger: Ledger, canvas: Canvas) -> None:
    """In a new generation every chord counts from nought: what has ended arrives at once.

    A join whose parents have all ended is left out: its body is sent because it is ready, or has been.
    """
    nodes = ledger.nodes(canvas.run_id)
    done = {n.id for n in nodes.values() if n.state in TERMINAL}
    for join in canvas.joins.values():
        if not done.issuperset(join.parents):
            for parent in done.intersection(join.parents):
                chords.arrive_at(canvas, join, parent)


def result(run_id: str, *, config: Config) -> RunResult:
    """What the run came to, or has come to so far."""
    return build_result(open_ledger(config), run_id)


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
