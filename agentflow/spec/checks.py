"""What must hold between the fields of a spec: ids, needs, roles, runners, artifacts.

The checks read plain data and pass over what has the wrong type, so that they find their problems in
the same pass as the models find theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from agentflow.config import Config
from agentflow.errors import Problem, SpecError
from agentflow.explain import PROBLEMS_LOOKED_AT, did_you_mean
from agentflow.places import Location, Source, show
from agentflow.spec.artifacts import twin_key
from agentflow.spec.built import by_path, data_of, expanded, tree
from agentflow.spec.findings import Found, TaskRow, items_of
from agentflow.spec.models import Spec
from agentflow.spec.ordering_checks import check_order
from agentflow.spec.repeats import expand

Place = Callable[[Location], tuple[int, int]]


def check_spec(spec: Spec, config: Config) -> list[Problem]:
    """What is wrong between the fields of a spec built in Python; a place is a path of fields."""
    locations: list[Location] = []
    top, problems = expand(tree(data_of(spec), locations), Source("", SpecError.code))
    if not problems:
        problems = check_data(top.plain(), config, top.place, Source("", SpecError.code))
    return by_path(problems, locations)


def check_data(data: Mapping[str, Any], config: Config, place: Place, source: Source) -> list[Problem]:
    """The same for a document, each problem with its place."""
    return [
        source.problem(found.number, found.reason, place(found.location), value=found.value, fix=found.fix)
        for found in islice(_checks(data, config), PROBLEMS_LOOKED_AT)
    ]


def resolve(spec: Spec, config: Config) -> Spec:
    """The spec with repeated tasks written out, roles by their names, and the policy's defaults in the tasks
    that do not say.
    """
    spec = expanded(spec)
    policy = spec.policy
    tasks = tuple(
        task.model_copy(
            update={
                "role": config.role_name(task.role) or task.role,
                "retries": policy.retries if task.retries is None else task.retries,
                "retry_delay": policy.retry_delay if task.retry_delay is None else task.retry_delay,
                "timeout": policy.timeout if task.timeout is None else task.timeout,
                "queue_timeout": policy.queue_timeout if task.queue_timeout is None else task.queue_timeout,
            }
        )
        for task in spec.tasks
    )
    return spec.model_copy(update={"tasks": tasks})


# -- the checks ------------------------------------------------------------------------------------


def _checks(data: Mapping[str, Any], config: Config) -> Iterator[Found]:
    rows = [
        TaskRow(i, task) for i, task in enumerate(items_of(data.get("tasks"))) if isinstance(task, Mapping)
    ]
    first: dict[str, TaskRow] = {}
    for row in rows:
        if row.text("id"):
            first.setdefault(row.text("id"), row)
    yield from _runner(data, ("runner",), config)
    yield from _budget(data, config)
    for row in rows:
        yield from _identity(row, first)
        yield from _role(row, config)
        yield from _runner(row.task, row.at("runner"), config)
        yield from _kind(row)
        yield from _prompt(row, data, config)
        for key in ("needs", "inputs"):
            yield from _unknown(row, key, first)
    yield from check_order(first, data, config)
    yield from _twins(rows)
    policy = data.get("policy")
    if isinstance(policy, Mapping) and policy.get("strict_artifacts") is True:
        yield from _undeclared(rows, config)


def _identity(row: TaskRow, first: Mapping[str, TaskRow]) -> Iterator[Found]:
    name = row.text("id")
    if name and first[name].number != row.number:
        reason = f"the id is that of task {first[name].number + 1} too"
        yield Found(row.at("id"), "023", reason, show(name), "rename one of them")


def _role(row: TaskRow, config: Config) -> Iterator[Found]:
    yield from _named_role(row.text("role"), row.at("role"), config)


def _named_role(role: str, location: tuple[int | str, ...], config: Config) -> Iterator[Found]:
    if role and config.role_name(role) is None:
        words = [*config.roles, *(alias for known in config.roles.values() for alias in known.aliases)]
        fix = did_you_mean(role, words) or (
            f"roles are: {', '.join(sorted(config.roles))}; add one below roles: in agentflow.yaml"
        )
        yield Found(location, "020", "there is no such role", show(role), fix)


def _budget(data: Mapping[str, Any], config: Config) -> Iterator[Found]:
    """Roles that have a budget."""
    budget = data.get("budget")
    roles = budget.get("roles") if isinstance(budget, Mapping) else None
    for role in roles if isinstance(roles, Mapping) else ():
        yield from _named_role(str(role), ("budget", "roles", str(role)), config)


def _runner(data: Mapping[str, Any], location: tuple[int | str, ...], config: Config) -> Iterator[Found]:
    runner = data.get("runner")
    if isinstance(runner, str) and runner not in config.runners:
        fix = did_you_mean(runner, config.runners) or (
            f"runners are: {', '.join(sorted(config.runners))}; add one below runners: in agentflow.yaml"
        )
        yield Found(location, "025", "there is no such runner", show(runner), fix)


def _kind(row: TaskRow) -> Iterator[Found]:
    """What a report cannot have, and what `expect` needs."""
    if row.text("output") == "report":
        if row.task.get("acceptance"):
            reason = "a report changes no file, so it has no acceptance"
            yield Found(row.at("acceptance"), "050", reason, fix="leave acceptance out, or make it a change")
        if row.artifacts("write", "append"):
            reason = "a report changes no file, so it has no artifacts but such as it reads"
            fix = "give them mode: read, or make it a change"
            yield Found(row.at("artifacts"), "050", reason, fix=fix)
    if row.text("expect") == "red_then_green" and not row.task.get("acceptance"):
        reason = "red_then_green needs acceptance commands that are red before"
        yield Found(row.at("expect"), "051", reason, fix="add acceptance:, or leave expect out")


def _prompt(row: TaskRow, data: Mapping[str, Any], config: Config) -> Iterator[Found]:
    """An agent behind a model must be asked for something; a command may know by itself."""
    if any(row.task.get(key) for key in ("prompt", "description", "title")):
        return
    role = config.roles.get(config.role_name(row.text("role")) or "")
    chosen = row.task.get("runner") or data.get("runner") or (role and role.runner) or config.default_runner
    if isinstance(chosen, str):
        known = config.runners.get(chosen)
        kind = known.type if known else ""
    else:
        kind = chosen.get("type", "") if isinstance(chosen, Mapping) else ""
    if kind in ("openai", "planner"):
        yield Found(row.at(), "011", "the key 'prompt' is missing", fix="say what the agent is asked to do")


def _unknown(row: TaskRow, key: str, ids: Mapping[str, TaskRow]) -> Iterator[Found]:
    for position, name in enumerate(items_of(row.task.get(key))):
        if isinstance(name, str) and name and name not in ids:
            fix = did_you_mean(name, ids) or f"tasks are: {', '.join(list(ids)[:20])}"
            yield Found(row.at(key, position), "021", "there is no such task", show(name), fix)


def _twins(rows: list[TaskRow]) -> Iterator[Found]:
    """No two artifacts that are one file where case or Unicode form does not count."""
    seen: dict[str, str] = {}
    for row in rows:
        for position, item in enumerate(items_of(row.task.get("artifacts"))):
            path = item.get("path") if isinstance(item, Mapping) else item
            if isinstance(path, str) and (first := seen.setdefault(twin_key(path), path)) != path:
                reason = f"where case does not count this is the same file as {show(first)}"
                yield Found(row.at("artifacts", position), "032", reason, show(path), "write both alike")


def _undeclared(rows: list[TaskRow], config: Config) -> Iterator[Found]:
    for row in rows:
        role = config.roles.get(config.role_name(row.text("role")) or "")
        has_default = role is not None and role.artifacts
        if not row.artifacts("write", "append") and row.text("output") != "report" and not has_default:
            reason = "strict_artifacts wants the artifacts of every change"
            yield Found(row.at(), "052", reason, fix="add artifacts:, or leave policy.strict_artifacts out")
