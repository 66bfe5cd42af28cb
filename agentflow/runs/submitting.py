"""The beginning of a run: its plan is made, its base published, its ledger opened, its canvas sent."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentflow import transport as carrying
from agentflow.canvas import chords
from agentflow.canvas.estimate import estimate
from agentflow.canvas.featured import featured
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, make_plan
from agentflow.canvas.ranks import ranked
from agentflow.canvas.spending import check_nodes
from agentflow.config import Config
from agentflow.errors import ConfigError
from agentflow.recovery.recording import Recorder
from agentflow.runs.following import canvas_of, open_ledger
from agentflow.spec.models import Spec
from agentflow.store.breakers import Breakers
from agentflow.store.budgets import DAY, ORG, Change, limits_of
from agentflow.store.durations import read_durations
from agentflow.store.features import read_feature
from agentflow.store.governor import Governor, configured_rates
from agentflow.store.ledger import Ledger
from agentflow.store.orders import configured_limits, refuse_drained, refuse_full
from agentflow.store.packs import check_room
from agentflow.workspace import inspect, leftovers
from agentflow.workspace import land as landing
from agentflow.workspace.store import Store


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
    tell = tell or (lambda _: None)
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
    target = plan.target or f"agentflow/{slug(spec.feature)}"
    facts = inspect.check_repository(repo, spec.base or "HEAD", target)
    for note in (*spec.notes, *facts.notes):
        tell(note)
    run_id = new_run_id(spec.feature)
    plan = plan.model_copy(update={"base": facts.base, "target": target, "reuse": not options.no_cache})
    ledger = open_ledger(config)
    plan = _as_measured_and_set(ledger, plan, facts.project, options)
    _make_ready(ledger, config, facts.project)
    cost = estimate(plan, ledger.means(facts.project), ledger.day(facts.project), ledger.org())
    for line in cost.lines if cost.says_something else ():
        tell(line)
    _publish(config, facts, run_id, transport)
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
    if transport == carrying.PACKS:
        _tell_unserved(ledger, run_id, tell)
    Recorder(ledger, config, ledger.run(run_id), repo).catch_up()
    chords.start(canvas_of(ledger, run_id, config))
    return run_id


def _as_measured_and_set(ledger: Ledger, plan: Plan, project: str, options: SubmitOptions) -> Plan:
    """The plan with what is set for its feature, what the command line adds, and measured ranks."""
    plan = featured(plan, read_feature(ledger.client, project, plan.feature), jobs=options.jobs)
    plan = plan.model_copy(update={"spending": plan.spending.changed(options.budget)})
    return ranked(plan, read_durations(ledger.client, project))


def _make_ready(ledger: Ledger, config: Config, project: str) -> None:
    """Refuse where nothing may be submitted; write what the configuration says about the whole fleet."""
    check_room(ledger.client)
    refuse_drained(ledger.client)
    refuse_full(ledger, config.fleet.queue_cap)
    ledger.default_limits(configured_limits(config))
    daily = {DAY: config.budget.day.limits, ORG: config.budget.org.limits}
    ledger.default_budget(project, limits_of(daily))
    Governor(ledger.client).configure(configured_rates(config))
    Breakers(ledger.client).configure(config.breaker)


def _publish(config: Config, facts: inspect.RepoFacts, run_id: str, transport: str) -> None:
    """Put the base where workers find it, and where git's own collection leaves it alone."""
    if transport == carrying.PACKS:
        carrying.publish_base(config, facts.project, facts.base, facts.git_dir)
    landing.guard_base(facts.git_dir, run_id, facts.base)
    if transport != carrying.PACKS:
        store = Store.open(config.data_dir, facts.project, facts.objects)
        store.keep(f"refs/agentflow/{run_id}/base", facts.base)


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
