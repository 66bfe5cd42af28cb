"""What orders tasks besides their needs: stages, a hybrid's rules, and what roles depend on.

All of it ends as edges of the one DAG. The rules, for a task T of the role R:

- *pipeline*: when R stands in a stage, T needs every task of the nearest earlier stage that has tasks. In
  a stage with `parallel: false` the tasks stand in a line, in the order of their needs, then of the file.
- *hybrid*: the same, for the tasks whose first fitting rule says pipeline; the others follow their needs.
- roles: when T declares no needs and is in no stage, it needs every task of a role that R depends on, or
  that provides what R depends on.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from agentflow import graph
from agentflow.agents import RoleConfig
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.places import Source, read_yaml
from agentflow.spec import conditions
from agentflow.spec.artifacts import of_mode
from agentflow.spec.models import Rule, Spec, Stage, Task
from agentflow.spec.repeats import EDGES_MAX

#: Which tasks stand in the stages when nothing else is said.
CONCURRENT, PIPELINE, HYBRID = "concurrent", "pipeline", "hybrid"


class TooManyEdgesError(UsageError):
    """Every task of a stage needs every task of the one before it, and that came to too many."""

    code = "AF-SPEC-061"

    def __init__(self) -> None:
        super().__init__(
            f"the stages would make more than {EDGES_MAX:,} needs",
            fix="put a stage of one task between two large ones",
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A task as far as its order depends on it. `declares`: its needs are written down, be it as none."""

    id: str
    role: str
    needs: tuple[str, ...] = ()
    declares: bool = False
    tags: tuple[str, ...] = ()
    priority: str = "medium"
    output: str = "change"
    shard: str = ""
    artifacts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """How a spec wants its tasks ordered, with stages and rules by name of role."""

    strategy: str = CONCURRENT
    stages: tuple[Stage, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(slots=True)
class Order:
    """Every edge (`needs`, in the order of the rows), the stage of each staged task, and why an edge is."""

    needs: dict[str, list[str]]
    stages: dict[str, str] = field(default_factory=dict)
    #: (task, need) -> what made it, for edges that nobody wrote.
    because: dict[tuple[str, str], str] = field(default_factory=dict)


@functools.cache
def default_stages() -> tuple[Stage, ...]:
    """The stages of a pipeline that names none, from stages.yaml."""
    source = Source("stages.yaml", "AF-SPEC")
    node, _ = read_yaml(files("agentflow").joinpath("stages.yaml").read_text("utf-8"), source)
    return tuple(Stage.model_validate(stage) for stage in node.plain())


def shape_of(spec: Spec, config: Config) -> Shape:
    """The spec's strategy; stages alone are a pipeline, rules alone a hybrid."""
    return make_shape(spec.strategy, spec.stages, spec.rules, config)


def make_shape(
    strategy: str | None, stages: Sequence[Stage] | None, rules: Sequence[Rule] | None, config: Config
) -> Shape:
    """As `shape_of`, of the parts."""
    strategy = strategy or (HYBRID if rules else PIPELINE if stages else CONCURRENT)
    if strategy == CONCURRENT:
        return Shape()
    known = tuple(
        stage.model_copy(update={"agents": _roles(stage.agents, config)})
        for stage in stages or default_stages()
    )
    ruled = tuple(
        rule.model_copy(update={"agents": _roles(rule.agents, config)})
        for rule in (rules or () if strategy == HYBRID else ())
    )
    return Shape(strategy, known, ruled)


def _roles(words: Iterable[str], config: Config) -> tuple[str, ...]:
    return tuple(config.role_name(word) or word for word in words)


def row_of(task: Task, config: Config) -> Row:
    """A task's row."""
    name = config.role_name(task.role) or task.role
    role = config.roles.get(name)
    return Row(
        task.id,
        name,
        tuple(task.needs),
        declares="needs" in task.model_fields_set,
        tags=tuple(task.tags),
        priority=task.priority or (role and role.priority) or "medium",
        output=task.output,
        shard=task.shard or "",
        artifacts=of_mode(task.artifacts, "write", "append"),
    )


def order_of(spec: Spec, config: Config) -> Order:
    """The order of an expanded spec. Raises `TooManyEdgesError`."""
    return order([row_of(task, config) for task in spec.tasks], shape_of(spec, config), config.roles)


def order(rows: Sequence[Row], shape: Shape, roles: Mapping[str, RoleConfig]) -> Order:
    """Every edge of these tasks. Needs that are no tasks are left out. Circles are not looked for."""
    ids = {row.id for row in rows}
    made = Order({row.id: [need for need in dict.fromkeys(row.needs) if need in ids] for row in rows})
    staged = _staged(rows, shape, roles)
    _add_stages(made, rows, shape.stages, staged)
    _add_roles(made, rows, staged, roles)
    return made


def _staged(rows: Sequence[Row], shape: Shape, roles: Mapping[str, RoleConfig]) -> dict[str, int]:
    """The stage of each task that stands in one, as an index."""
    if shape.strategy == CONCURRENT:
        return {}
    stage_of = {role: number for number, stage in enumerate(shape.stages) for role in stage.agents}
    inside = rows if shape.strategy == PIPELINE else _ruled(rows, shape.rules, roles)
    return {row.id: stage_of[row.role] for row in inside if row.role in stage_of}


def _ruled(rows: Sequence[Row], rules: Sequence[Rule], roles: Mapping[str, RoleConfig]) -> Iterator[Row]:
    """The tasks whose first fitting rule says pipeline."""
    numbers = {
        "tasks": len(rows),
        "roles": len({row.role for row in rows}),
        "files": len({path for row in rows for path in row.artifacts}),
    }
    read = [(conditions.parse(rule.condition or "true"), rule) for rule in rules]
    for row in rows:
        facts = {**numbers, **_facts(row, roles)}
        for fits, rule in read:
            if (not rule.agents or row.role in rule.agents) and fits(facts):
                if rule.strategy == PIPELINE:
                    yield row
                break


def _facts(row: Row, roles: Mapping[str, RoleConfig]) -> dict[str, Any]:
    role = roles.get(row.role)
    return {
        "role": frozenset((row.role, f"{row.role}-engineer", *(role.aliases if role else ()))),
        "id": frozenset((row.id,)),
        "tag": frozenset(row.tags),
        "priority": frozenset((row.priority,)),
        "output": frozenset((row.output,)),
        "shard": frozenset((row.shard,)),
    }


def _add_stages(made: Order, rows: Sequence[Row], stages: Sequence[Stage], staged: Mapping[str, int]) -> None:
    before: list[str] = []
    for number, stage in enumerate(stages):
        members = [row.id for row in rows if staged.get(row.id) == number]
        if not members:
            continue
        made.stages.update(dict.fromkeys(members, stage.stage))
        if before:
            reason = f"the stage {stage.stage} comes after {made.stages[before[0]]}"
            for name in members:
                _add(made, name, before, reason)
        if not stage.parallel:
            line = _in_line(made, members)
            for one, following in itertools.pairwise(line):
                _add(made, following, [one], f"the stage {stage.stage} is not parallel")
        before = members


def _in_line(made: Order, members: list[str]) -> list[str]:
    """Tasks of one stage in the order of what all tasks need, then of the file."""
    if graph.find_cycle(made.needs):
        return members
    inside = set(members)
    return [name for name in graph.topological(made.needs) if name in inside]


def _add_roles(
    made: Order, rows: Sequence[Row], staged: Mapping[str, int], roles: Mapping[str, RoleConfig]
) -> None:
    by_role: dict[str, list[str]] = {}
    for row in rows:
        by_role.setdefault(row.role, []).append(row.id)
    for row in rows:
        role = roles.get(row.role)
        if role is None or row.declares or row.needs or row.id in staged:
            continue
        for other in _depended_on(role, roles):
            if other != row.role:
                _add(made, row.id, by_role.get(other, ()), f"the role {row.role} depends on {other}")


def _depended_on(role: RoleConfig, roles: Mapping[str, RoleConfig]) -> list[str]:
    """Roles that a role depends on, by name or by what they provide."""
    found: dict[str, None] = {}
    for word in role.depends_on:
        found.update({name: None for name, other in roles.items() if word == name or word in other.provides})
        found.update({name: None for name, other in roles.items() if word in other.aliases})
    return list(found)


def _add(made: Order, name: str, needs: Iterable[str], reason: str) -> None:
    mine = made.needs[name]
    known = set(mine)
    for need in needs:
        if need not in known and need != name:
            mine.append(need)
            made.because[name, need] = reason
    if len(made.because) > EDGES_MAX:
        raise TooManyEdgesError
