"""The plan of a run: the spec with every default and role filled in, as it travels to the workers.

A plan is plain JSON. It holds what a worker needs (role configuration included), so that a worker
never reads a file of the submitter's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentflow import graph
from agentflow.agents import RoleConfig
from agentflow.canvas.routing import decide_queue, priority_of
from agentflow.canvas.spending import Spending, spending_of
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.spec.artifacts import Lock, locks_of, of_mode
from agentflow.spec.built import expanded
from agentflow.spec.models import Setup, Spec, Task
from agentflow.spec.ordering import Order, order_of

Command = tuple[str, ...]
DEFAULT_TIMEOUT_S = 1800.0
PRIORITY_ORDER = {"critical": 0, "high": 1, "medium": 2, "low": 3}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetupPlan(_Frozen):
    """Commands that a workspace needs first, what keys their cache, and what is kept of them."""

    commands: tuple[Command, ...]
    key: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


def _lock(value: Any) -> Any:
    """A path alone is one to write."""
    return Lock(value) if isinstance(value, str) else value


class PlanNode(_Frozen):
    """One node with everything decided. `needs` are the spec's edges, whole.

    `artifacts`: patterns that it may write (none: whatever it needs), `appends`: those of them that it may
    only append to, `kept`: patterns that nobody writes while it runs, nor does it. `declared`: the spec names
    what it writes, so it is locked.
    """

    id: str
    role: str
    queue: str = ""
    stage: str = ""
    shard: str = ""
    prompt: str = ""
    instructions: str = ""
    output: Literal["change", "report"] = "change"
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    appends: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    declared: bool = False
    locks: tuple[Annotated[Lock, BeforeValidator(_lock)], ...] = ()
    acceptance: tuple[Command, ...] = ()
    expect: Literal["green", "red_then_green", "none"] = "green"
    priority: str = "medium"
    message_priority: int = 5
    rank: float = 1.0
    timeout_s: float = DEFAULT_TIMEOUT_S
    queue_timeout_s: float = 0.0
    retries: int = 2
    retry_delay_s: float = 0.0
    optional: bool = False
    role_limit: int = 0
    complexity: str = ""
    runner: Mapping[str, Any] = Field(default_factory=dict)
    env: Mapping[str, str] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def order(self) -> float:
        """Which parked node wakes first: user priority, then the longest way to the end."""
        return PRIORITY_ORDER[self.priority] * 1e6 - self.rank


class Plan(_Frozen):
    """All nodes of a feature in topological order, and what holds for the whole run."""

    feature: str
    goal: str = ""
    base: str = ""
    target: str = ""
    nodes: tuple[PlanNode, ...]
    setup: SetupPlan | None = None
    validation: tuple[Command, ...] = ()
    on_failure: Literal["continue", "stop", "rollback"] = "continue"
    max_concurrent: int = 0
    exclusive: bool = False
    strict_artifacts: bool = False
    env: Mapping[str, str] = Field(default_factory=dict)
    allow_run: bool = False
    #: Whether a verified commit that was made from the same things is used again.
    reuse: bool = True
    timeout_s: float = 0.0
    max_losses: int = 0
    spending: Spending = Field(default_factory=Spending)

    @functools.cached_property
    def by_id(self) -> dict[str, PlanNode]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    @functools.cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The spec's edges without those that follow from others (transitive reduction)."""
        return {n: tuple(p) for n, p in graph.reduce({x.id: x.needs for x in self.nodes}).items()}

    @functools.cached_property
    def ancestors(self) -> dict[str, frozenset[str]]:
        """All that comes before each node."""
        return graph.ancestors(self.parents)

    @functools.cached_property
    def sinks(self) -> tuple[str, ...]:
        """Nodes that nothing needs; the integration waits for them."""
        needed = {p for parents in self.parents.values() for p in parents}
        return tuple(node.id for node in self.nodes if node.id not in needed)


def make_plan(
    spec: Spec,
    config: Config,
    *,
    only: Iterable[str] = (),
    jobs: int | None = None,
    timeout_s: float | None = None,
    allow_run: bool = False,
) -> Plan:
    """Decide everything that the spec leaves open.

    `only`: these nodes and all that they need. Raises `UsageError` for an id that is not there.
    """
    spec = expanded(spec)
    shaped = order_of(spec, config)
    tasks = _selection(spec, shaped.needs, list(only))
    needs = {t.id: shaped.needs[t.id] for t in tasks}
    by_id = {t.id: t for t in tasks}
    ranks = graph.upward_rank(graph.reduce(needs), dict.fromkeys(by_id, 1.0))
    longest = max(ranks.values(), default=1.0)
    nodes = tuple(
        _node(by_id[i], spec, config, shaped, ranks[i], longest, allow_run=allow_run)
        for i in graph.topological(needs)
    )
    return Plan(
        feature=spec.feature,
        goal=spec.goal or "",
        target=spec.target or "",
        nodes=nodes,
        setup=_setup(spec.setup),
        validation=tuple(spec.validation),
        on_failure=spec.policy.on_failure,
        max_concurrent=jobs or spec.policy.max_concurrent or config.slots,
        exclusive=spec.policy.exclusive,
        strict_artifacts=spec.policy.strict_artifacts,
        env=dict(spec.env),
        allow_run=allow_run,
        timeout_s=timeout_s or 0.0,
        max_losses=config.limits.losses,
        spending=spending_of(spec, config, tasks),
    )


def _selection(spec: Spec, needs: Mapping[str, Iterable[str]], only: list[str]) -> list[Task]:
    tasks = {t.id: t for t in spec.tasks}
    unknown = [i for i in only if i not in tasks]
    if unknown:
        raise UsageError(f"there is no task {unknown[0]!r}", fix="one of: " + ", ".join(tasks))
    if not only:
        return list(tasks.values())
    kept: set[str] = set()
    open_ids = list(only)
    while open_ids:
        task = tasks[open_ids.pop()]
        if task.id not in kept:
            kept.add(task.id)
            open_ids.extend(needs[task.id])
    return [t for t in tasks.values() if t.id in kept]


def _node(
    task: Task, spec: Spec, config: Config, shaped: Order, rank: float, longest: float, *, allow_run: bool
) -> PlanNode:
    name = config.role_name(task.role) or task.role
    role = config.roles[name]
    priority = task.priority or role.priority or "medium"
    written = of_mode(task.artifacts, "write", "append")
    appends = tuple(p for p in of_mode(task.artifacts, "append") if p not in of_mode(task.artifacts, "write"))
    is_change = task.output == "change"
    artifacts = written or (tuple(role.artifacts) if is_change else ())
    needs = tuple(shaped.needs[task.id])
    runner = _runner(task, role, spec, config, allow_run=allow_run)
    queue = decide_queue(
        name,
        asked=task.queue or spec.queue,
        by=config.routing.by,
        roles=config.routing.roles,
        feature=spec.feature,
    )
    patience = config.limits.queue_timeouts.get(queue or name, 0.0)
    return PlanNode(
        id=task.id,
        role=name,
        queue=queue,
        stage=shaped.stages.get(task.id, ""),
        shard=task.shard or "",
        prompt=task.prompt or "",
        instructions=role.instructions or "",
        output=task.output,
        needs=needs,
        inputs=tuple(task.inputs) or needs,
        reads=tuple(task.reads),
        artifacts=artifacts,
        appends=appends,
        kept=of_mode(task.artifacts, "read"),
        declared=bool(written),
        locks=locks_of(task.artifacts),
        acceptance=tuple(task.acceptance),
        expect=task.expect,
        priority=priority,
        message_priority=priority_of(priority, rank, longest),
        rank=rank,
        timeout_s=task.timeout or spec.policy.timeout or DEFAULT_TIMEOUT_S,
        queue_timeout_s=task.queue_timeout or spec.policy.queue_timeout or patience,
        retries=task.retries if task.retries is not None else spec.policy.retries,
        retry_delay_s=task.retry_delay or spec.policy.retry_delay or 0.0,
        optional=task.optional,
        role_limit=role.max_concurrent,
        complexity=task.complexity or "",
        runner=runner,
        env={**spec.env, **task.env},
        tags=tuple(task.tags),
    )


def _runner(task: Task, role: RoleConfig, spec: Spec, config: Config, *, allow_run: bool) -> dict[str, Any]:
    """The runner's whole configuration: of the task, else the spec, the role, the default."""
    chosen = task.runner or spec.runner or role.runner or config.default_runner
    if isinstance(chosen, str):
        settings = config.runners[chosen].model_dump(mode="json") | {"name": chosen}
    else:
        settings = chosen.model_dump(mode="json")
    for name in ("model", "temperature", "max_tokens", "tools"):
        value = getattr(role, name, None)
        if value is not None and settings["type"] in ("openai", "planner"):
            settings[name] = list(value) if isinstance(value, tuple) else value
    settings["allow_run"] = allow_run
    if config.rate_limits.calls_per_agent and settings["type"] in ("openai", "planner"):
        settings["calls_per_agent"] = config.rate_limits.calls_per_agent
    return settings


def _setup(setup: Setup | None) -> SetupPlan | None:
    if setup is None:
        return None
    return SetupPlan(commands=tuple(setup.commands), key=tuple(setup.key), keep=tuple(setup.keep))
