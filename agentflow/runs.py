"""Runs, as their user sees them: submit, follow, cancel, resume, land.

    submit    load and check the spec, plan it, publish the base, open the run, send the canvas
    follow    the run's transitions until it closes
    finish    publish what came out into the repository, and land it
    resume    open again what did not succeed, or wake what nobody carries

Only a submitter's repository lands, by compare-and-swap. Everything here goes through the ledger, so
that each of these can be typed in another terminal, or after a crash.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentflow.app import make_app
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas, parse_plan
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, make_plan
from agentflow.config import Config, load_config
from agentflow.errors import ConflictError, SpecError, UsageError
from agentflow.local import service
from agentflow.results import RunResult, build_result
from agentflow.spec.checks import check_spec, resolve
from agentflow.spec.models import Spec, Task
from agentflow.states import CLOSED, RunState
from agentflow.store.client import check, connect
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.records import Event, RunRecord
from agentflow.workspace import gc as collecting
from agentflow.workspace import inspect
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
    spec_text: str = ""


def open_ledger(config: Config) -> Ledger:
    """The ledger of this configuration; raises `InfraError` when its Redis cannot be used."""
    url = config.client_url()
    client = connect(url)
    check(client, url)
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
    store = Store.open(config.data_dir, facts.project, facts.objects)
    landing.guard_base(facts.git_dir, run_id, facts.base)
    store.keep(f"refs/agentflow/{run_id}/base", facts.base)
    _keep_record(config, run_id, plan, options)
    ledger = open_ledger(config)
    open_in_ledger(
        ledger,
        run_id,
        plan,
        project=facts.project,
        repo=str(facts.objects),
        root=str(facts.root),
        detached=options.detach,
    )
    chords.start(_canvas(ledger, plan, run_id, config))
    return run_id


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
        if any(e.kind == "run.finished" for e in batch) and ledger.is_closed(run_id):
            yield from events.read(run_id, after=after)
            return


def _at_rest(ledger: Ledger, run_id: str) -> bool:
    run = ledger.run(run_id)
    return run.state in CLOSED or (run.state is RunState.DRAINING and run.running <= 0)


def finish(run_id: str, *, config: Config, take: bool = True) -> RunResult:
    """Publish what the run made as hidden refs of the repository and, when `take`, land it."""
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state in CLOSED and run.repo:
        _publish(ledger, config, run)
    if take and run.state is RunState.READY_TO_LAND:
        return land(run_id, config=config)
    return build_result(ledger, run_id)


def land(run_id: str, *, config: Config) -> RunResult:
    """Move the target branch to the run's result, all or nothing. Landing twice is harmless.

    A target that moved meanwhile is never overwritten: the run is integrated (merged and validated) again
    on top of it, once; if it moves again meanwhile, `ConflictError`.
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
        try:
            branch = _move_branch(ledger, config, run)
        except landing.TargetMovedError as moved:
            run = _integrate_on(ledger, config, run, moved)
            branch = _move_branch(ledger, config, run)
        ledger.landed_as(run_id, branch)
    ledger.close(run_id, RunState.LANDED, result=run.result)
    return build_result(ledger, run_id)


def _move_branch(ledger: Ledger, config: Config, run: RunRecord) -> str:
    git_dir = _publish(ledger, config, run)
    landed = landing.land(git_dir, commit=run.result, branch=run.target, run=run.id)
    collecting.release_base(git_dir, run.id)
    return landed.branch


def _integrate_on(
    ledger: Ledger, config: Config, run: RunRecord, moved: landing.TargetMovedError
) -> RunRecord:
    """Merge and validate once more, with what the target holds now; raises when that fails."""
    service.ensure(config)
    answer = ledger.reopen(run.id, onto=moved.current)
    if answer is None:
        raise moved
    canvas = _canvas_of(ledger, run.id, config)
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


def _publish(ledger: Ledger, config: Config, run: RunRecord) -> Path:
    """Bring the run's objects and refs into the user's repository; returns its git directory."""
    git_dir = inspect.git_dir_of(Path(run.root))
    refs = {f"nodes/{n.id}": n.commit for n in ledger.nodes(run.id).values() if n.commit}
    if run.result:
        refs["result" if run.state in (RunState.READY_TO_LAND, RunState.LANDED) else "merged"] = run.result
    store = Store.open(config.data_dir, run.project, Path(run.repo))
    landing.publish(store, git_dir, run.id, refs)
    return git_dir


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
        _canvas_of(ledger, run_id, config), ready=answer.ready, ended=answer.ended, woken=answer.woken
    )
    return RunState(state)


def resume(run_id: str, *, config: Config) -> RunState:
    """Go on with a run after anything: a drain, a failure, a cancel, or a crash of every process.

    A finished run opens again what did not succeed; an unfinished one is woken, and what is ready is
    sent again (a message that is still somewhere is refused at its claim).
    """
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if run.state in (RunState.READY_TO_LAND, RunState.LANDED):
        return run.state
    if run.state in CLOSED:
        answer = ledger.reopen(run_id)
        canvas = _canvas_of(ledger, run_id, config)
        chords.arm(canvas)
        _arrive_again(ledger, canvas)
        chords.send(canvas, answer.ready if answer else ())
        return RunState.OPEN
    if run.state is RunState.CANCELLING:
        return run.state
    ledger.control(run_id, "continue", "resumed")
    canvas = _canvas_of(ledger, run_id, config)
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


def diff(run_id: str, node: str | None, *, config: Config, stat: bool = False) -> str:
    """What the run (or one node) changed, as a patch or as `--stat` lines; '' when nothing came out."""
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if node is None:
        one, other = run.base, run.result
    else:
        record = ledger.node(run_id, node)
        one, other = record.base or run.base, record.commit
    if not other or not run.repo:
        return ""
    store = Store.open(config.data_dir, run.project, Path(run.repo))
    show = landing.diffstat if stat else landing.diff
    return show(store.git_dir, one, other)


def log_files(run_id: str, node: str | None, *, config: Config) -> list[Path]:
    """The logs and transcripts on this machine, of one node or of all, oldest attempt first."""
    open_ledger(config).run(run_id)
    folder = config.data_dir / "runs" / run_id / "logs"
    found = [p for p in folder.glob("*") if p.is_file() and (node is None or _is_log_of(p.name, node))]
    return sorted(found, key=lambda p: (p.stat().st_mtime, p.name))


def _is_log_of(name: str, node: str) -> bool:
    """Logs are named `<node>.<attempt>[.acceptance|.transcript].<ending>`; ids may hold dots."""
    return re.match(re.escape(node) + r"\.\d+\.", name) is not None


def gc(*, config: Config, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Remove what closed runs left: refs, logs, workspaces. Landed branches stay. What went, by name."""
    ledger = open_ledger(config)
    before = ledger.now_ms() - older_than_s * 1000
    gone = [r for r in ledger.runs() if r.state in CLOSED and r.closed_ms < before]
    for run in gone if not dry_run else ():
        repo = Path(run.repo)
        store = Store.open(config.data_dir, run.project, repo) if run.repo and repo.exists() else None
        git_dir = inspect.git_dir_of(Path(run.root)) if store else None
        collecting.forget_run(store, git_dir, run.id)
        if store:
            collecting.prune(store)
        shutil.rmtree(config.data_dir / "runs" / run.id, ignore_errors=True)
        ledger.forget(run.id)
    return [f"run {run.id} ({run.state})" for run in gone]


def plan(spec: Spec | Sequence[Task], *, config: Config | None = None, feature: str = "feature") -> Plan:
    """The plan of a spec or of tasks made in Python. Raises `SpecError` with everything that is wrong."""
    config = config or load_config(Path.cwd())
    return make_plan(_checked(spec, config, feature), config)


def run(
    spec: Spec | Sequence[Task],
    *,
    repo: Path | str = ".",
    feature: str = "feature",
    config: Config | None = None,
    options: SubmitOptions | None = None,
    take: bool = True,
) -> RunResult:
    """Run a feature to its end and land it (`take`); the same as `agentflow run`, from Python."""
    config = config or load_config(Path(repo))
    checked = _checked(spec, config, feature)
    service.ensure(config)
    run_id = submit(checked, config=config, repo=Path(repo), options=options)
    for _ in follow(run_id, config=config):
        pass
    return finish(run_id, config=config, take=take)


def _checked(spec: Spec | Sequence[Task], config: Config, feature: str) -> Spec:
    whole = spec if isinstance(spec, Spec) else Spec(feature=feature, tasks=tuple(spec))
    problems = check_spec(whole, config)
    if problems:
        raise SpecError(problems)
    return resolve(whole, config)


def _canvas_of(ledger: Ledger, run_id: str, config: Config) -> Canvas:
    return _canvas(ledger, parse_plan(json.dumps(ledger.plan(run_id))), run_id, config)


def _canvas(ledger: Ledger, plan: Plan, run_id: str, config: Config) -> Canvas:
    return Canvas(plan, run_id, ledger.generation(run_id), make_app(config))


def _keep_record(config: Config, run_id: str, plan: Plan, options: SubmitOptions) -> None:
    """The run's own directory: spec and plan as submitted, later logs and transcripts."""
    folder = config.data_dir / "runs" / run_id
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan.model_dump_json(indent=1), "utf-8")
    if options.spec_text:
        (folder / "spec.yaml").write_text(options.spec_text, "utf-8")


def slug(text: str) -> str:
    """A branch-safe name of at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "feature"


def new_run_id(feature: str) -> str:
    """The feature's slug and six random hexadecimal digits."""
    return f"{slug(feature)[:24].strip('-')}-{secrets.token_hex(3)}"
