"""What must hold between needs, stages, rules and what roles depend on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from agentflow import graph
from agentflow.config import Config
from agentflow.explain import did_you_mean
from agentflow.places import show
from agentflow.spec import conditions
from agentflow.spec.findings import Found, TaskRow, items_of
from agentflow.spec.models import Rule, Stage
from agentflow.spec.ordering import (
    CONCURRENT,
    HYBRID,
    Order,
    Row,
    Shape,
    TooManyEdgesError,
    make_shape,
    order,
)

CYCLES_MAX = 10


def check_order(rows: Mapping[str, TaskRow], data: Mapping[str, Any], config: Config) -> Iterator[Found]:
    """Needs make no circle and do not run against the stages, and inputs come from before."""
    parents = {name: [need for need in row.texts("needs") if need in rows] for name, row in rows.items()}
    cycles = list(_cycles(parents))
    for path in cycles:
        row = rows[path[0]]
        where = row.at("needs", items_of(row.task["needs"]).index(path[1]))
        yield Found(where, "022", f"cycle: {' -> '.join(path)}", fix="remove one of these needs")
    wrong = list(_shape_problems(data, config))
    yield from wrong
    shape = None if wrong else _shape(data, config)
    if cycles or shape is None:
        return
    try:
        made = order([_row(name, row, config) for name, row in rows.items()], shape, config.roles)
    except TooManyEdgesError as error:
        yield Found(("stages",) if data.get("stages") else ("strategy",), "061", error.what, fix=error.fix)
        return
    against = list(_against(rows, parents, made, shape)) or list(_circle(rows, made))
    yield from against
    if not against:
        yield from _inputs(rows, made.needs)


def _row(name: str, row: TaskRow, config: Config) -> Row:
    role = config.role_name(row.text("role")) or row.text("role")
    known = config.roles.get(role)
    return Row(
        name,
        role,
        tuple(row.texts("needs")),
        declares="needs" in row.task,
        tags=tuple(row.texts("tags")),
        priority=row.text("priority") or (known and known.priority) or "medium",
        output=row.text("output") or "change",
        shard=row.text("shard"),
        artifacts=row.artifacts("write", "append"),
    )


def _cycles(parents: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Circles, each without the first edge of those before; at most ten."""
    left = {node: list(needs) for node, needs in parents.items()}
    for _ in range(CYCLES_MAX):
        path = graph.find_cycle(left)
        if not path:
            return
        yield path
        left[path[0]] = [need for need in left[path[0]] if need != path[1]]


# -- the shape by itself ---------------------------------------------------------------------------


def _shape(data: Mapping[str, Any], config: Config) -> Shape | None:
    """The shape of a document; None when the models find something wrong with it."""
    strategy = data.get("strategy")
    try:
        stages = [Stage.model_validate(stage) for stage in data.get("stages") or ()]
        rules = [Rule.model_validate(rule) for rule in data.get("rules") or ()]
    except (ValidationError, TypeError):
        return None
    if strategy not in (None, CONCURRENT, "pipeline", HYBRID):
        return None
    return make_shape(strategy, stages, rules, config)


def _shape_problems(data: Mapping[str, Any], config: Config) -> Iterator[Found]:
    strategy, stages, rules = (data.get(key) for key in ("strategy", "stages", "rules"))
    if strategy == CONCURRENT and (stages or rules):
        key = "stages" if stages else "rules"
        yield Found(
            (key,), "063", f"{key} have no effect when the strategy is concurrent", fix=f"leave {key} out"
        )
    if strategy == "pipeline" and rules:
        yield Found(
            ("rules",), "063", "rules are for the strategy hybrid", fix="strategy: hybrid, or leave them out"
        )
    if strategy == HYBRID and not rules:
        yield Found(
            ("strategy",), "063", "a hybrid needs rules",
            fix="for example rules: [{condition: tasks > 5, strategy: pipeline}]",
        )  # fmt: skip
    yield from _stages(items_of(stages), config)
    for number, rule in enumerate(items_of(rules)):
        if isinstance(rule, Mapping):
            yield from _agents(("rules", number), rule, config)
            yield from _condition(("rules", number, "condition"), rule.get("condition"))


def _stages(stages: list[Any], config: Config) -> Iterator[Found]:
    names: dict[str, int] = {}
    homes: dict[str, str] = {}
    for number, stage in enumerate(stages):
        if not isinstance(stage, Mapping):
            continue
        name = str(stage.get("stage"))
        if names.setdefault(name, number) != number:
            yield Found(
                ("stages", number, "stage"), "063", "two stages have this name", show(name), "rename one"
            )
        yield from _agents(("stages", number), stage, config)
        for position, word in enumerate(items_of(stage.get("agents"))):
            role = config.role_name(word) if isinstance(word, str) else None
            if role and homes.setdefault(role, name) != name:
                where = ("stages", number, "agents", position)
                reason = f"the role {role} stands in the stage {homes[role]} already"
                yield Found(where, "063", reason, show(word), "a role stands in one stage")


def _agents(where: tuple[int | str, ...], data: Mapping[str, Any], config: Config) -> Iterator[Found]:
    for position, word in enumerate(items_of(data.get("agents"))):
        if isinstance(word, str) and word and config.role_name(word) is None:
            words = [*config.roles, *(alias for known in config.roles.values() for alias in known.aliases)]
            fix = did_you_mean(word, words) or f"roles are: {', '.join(sorted(config.roles))}"
            yield Found((*where, "agents", position), "020", "there is no such role", show(word), fix)


def _condition(where: tuple[int | str, ...], text: Any) -> Iterator[Found]:
    if not isinstance(text, str) or not text:
        return
    try:
        conditions.parse(text)
    except conditions.ConditionError as error:
        known = ", ".join((*conditions.NUMBERS, *conditions.WORDS))
        reason = f"the condition cannot be read at its character {error.column}: {error.reason}"
        yield Found(where, "064", reason, show(text), f"it may name: {known}; for example tasks > 5")


# -- the shape and the needs -----------------------------------------------------------------------


def _against(
    rows: Mapping[str, TaskRow], parents: Mapping[str, list[str]], made: Order, shape: Shape
) -> Iterator[Found]:
    """Needs of a task that come, through tasks of no stage too, from a later stage."""
    number = {stage.stage: index for index, stage in enumerate(shape.stages)}
    latest: dict[str, tuple[int, str]] = {}
    for name in graph.topological(parents):
        mine = number.get(made.stages.get(name, ""), -1)
        for need in dict.fromkeys(parents[name]):
            stage, culprit = latest[need]
            if 0 <= mine < stage:
                where = rows[name].at("needs", items_of(rows[name].task["needs"]).index(need))
                reason = (
                    f"{name!r} is of the stage {made.stages[name]}, and {culprit!r} of the later stage "
                    f"{made.stages[culprit]}"
                )
                fix = "leave the need out, or put the roles into other stages"
                yield Found(where, "062", reason, show(need), fix)
        above = [latest[need] for need in parents[name]]
        latest[name] = (mine, name) if mine >= 0 else max(above, key=lambda one: one[0], default=(-1, name))


def _circle(rows: Mapping[str, TaskRow], made: Order) -> Iterator[Found]:
    """A circle that needs make together with what stages and roles order."""
    path = graph.find_cycle(made.needs)
    if not path:
        return
    edges = list(itertools.pairwise(path))
    reasons = dict.fromkeys(made.because[edge] for edge in edges if edge in made.because)
    declared = next((edge for edge in edges if edge not in made.because), None)
    row = rows[declared[0] if declared else path[0]]
    where = row.at("needs", items_of(row.task["needs"]).index(declared[1])) if declared else row.at("role")
    reason = f"cycle: {' -> '.join(path)} ({'; '.join(reasons)})"
    yield Found(
        where, "062", reason, fix="remove one of these needs, or write the needs of each of these tasks"
    )


def _inputs(rows: Mapping[str, TaskRow], needs: Mapping[str, list[str]]) -> Iterator[Found]:
    asked = [
        (name, position, other)
        for name, row in rows.items()
        for position, other in enumerate(items_of(row.task.get("inputs")))
        if isinstance(other, str) and other in rows and other not in needs[name]
    ]
    if not asked:
        return
    before = graph.ancestors(needs)
    for name, position, other in asked:
        if other not in before[name]:
            reason = f"{other!r} does not come before {name!r}, so it has nothing to hand over"
            fix = f"add {other} to needs"
            yield Found(rows[name].at("inputs", position), "024", reason, show(other), fix)
