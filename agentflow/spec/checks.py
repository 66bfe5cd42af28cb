"""What must hold between the fields of a spec: ids, needs, roles, runners, artifacts.

The checks read plain data and pass over what has the wrong type, so that they find their problems in
the same pass as the models find theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from agentflow import graph
from agentflow.config import Config
from agentflow.errors import Problem, SpecError
from agentflow.explain import PROBLEMS_LOOKED_AT, did_you_mean
from agentflow.places import Location, Source, show
from agentflow.spec.artifacts import twin_key
from agentflow.spec.models import Spec

CYCLES_MAX = 10
Place = Callable[[Location], tuple[int, int]]


def check_spec(spec: Spec, config: Config) -> list[Problem]:
    """What is wrong between the fields of a spec built in Python; a place is a path of fields."""
    data = spec.model_dump(by_alias=True, mode="json")
    return [
        Source(_path(found.location), SpecError.code).problem(
            found.number, found.reason, (0, 0), value=found.value, fix=found.fix
        )
        for found in _checks(data, config)
    ]


def _path(location: Location) -> str:
    """`Spec.tasks[2].needs[0]`."""
    return "Spec" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)


def check_data(data: Mapping[str, Any], config: Config, place: Place, source: Source) -> list[Problem]:
    """The same for a document, each problem with its place."""
    return [
        source.problem(found.number, found.reason, place(found.location), value=found.value, fix=found.fix)
        for found in islice(_checks(data, config), PROBLEMS_LOOKED_AT)
    ]


def resolve(spec: Spec, config: Config) -> Spec:
    """The spec with roles by their names, and the policy's defaults in the tasks that do not say."""
    policy = spec.policy
    tasks = tuple(
        task.model_copy(
            update={
                "role": config.role_name(task.role) or task.role,
                "retries": policy.retries if task.retries is None else task.retries,
                "retry_delay": policy.retry_delay if task.retry_delay is None else task.retry_delay,
                "timeout": policy.timeout if task.timeout is None else task.timeout,
            }
        )
        for task in spec.tasks
    )
    return spec.model_copy(update={"tasks": tasks})


# -- the checks ------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A problem without its file."""

    location: tuple[int | str, ...]
    number: str
    reason: str
    value: str = ""
    fix: str = ""


class _Row(NamedTuple):
    """A task's mapping and its index in the list."""

    number: int
    task: Mapping[str, Any]

    def at(self, *steps: int | str) -> tuple[int | str, ...]:
        """The location of something in the task."""
        return "tasks", self.number, *steps

    def text(self, key: str) -> str:
        """A string of the task, empty when it has none there."""
        value = self.task.get(key)
        return value if isinstance(value, str) else ""


def _checks(data: Mapping[str, Any], config: Config) -> Iterator[_Found]:
    rows = [_Row(i, task) for i, task in enumerate(_list(data.get("tasks"))) if isinstance(task, Mapping)]
    first: dict[str, _Row] = {}
    for row in rows:
        if row.text("id"):
            first.setdefault(row.text("id"), row)
    yield from _runner(data, ("runner",), config)
    for row in rows:
        yield from _identity(row, first)
        yield from _role(row, config)
        yield from _runner(row.task, row.at("runner"), config)
        yield from _kind(row)
        yield from _prompt(row, data, config)
        for key in ("needs", "inputs"):
            yield from _unknown(row, key, first)
    yield from _order(first)
    yield from _twins(rows)
    policy = data.get("policy")
    if isinstance(policy, Mapping) and policy.get("strict_artifacts") is True:
        yield from _undeclared(rows, config)


def _identity(row: _Row, first: Mapping[str, _Row]) -> Iterator[_Found]:
    name = row.text("id")
    if name and first[name].number != row.number:
        reason = f"the id is that of task {first[name].number + 1} too"
        yield _Found(row.at("id"), "023", reason, show(name), "rename one of them")


def _role(row: _Row, config: Config) -> Iterator[_Found]:
    role = row.text("role")
    if role and config.role_name(role) is None:
        words = [*config.roles, *(alias for known in config.roles.values() for alias in known.aliases)]
        fix = did_you_mean(role, words) or (
            f"roles are: {', '.join(sorted(config.roles))}; add one below roles: in agentflow.yaml"
        )
        yield _Found(row.at("role"), "020", "there is no such role", show(role), fix)


def _runner(data: Mapping[str, Any], location: tuple[int | str, ...], config: Config) -> Iterator[_Found]:
    runner = data.get("runner")
    if isinstance(runner, str) and runner not in config.runners:
        fix = did_you_mean(runner, config.runners) or (
            f"runners are: {', '.join(sorted(config.runners))}; add one below runners: in agentflow.yaml"
        )
        yield _Found(location, "025", "there is no such runner", show(runner), fix)


def _kind(row: _Row) -> Iterator[_Found]:
    """What a report cannot have, and what `expect` needs."""
    if row.text("output") == "report":
        for key in ("artifacts", "acceptance"):
            if row.task.get(key):
                reason = f"a report changes no file, so it has no {key}"
                yield _Found(row.at(key), "050", reason, fix=f"leave {key} out, or make it a change")
    if row.text("expect") == "red_then_green" and not row.task.get("acceptance"):
        reason = "red_then_green needs acceptance commands that are red before"
        yield _Found(row.at("expect"), "051", reason, fix="add acceptance:, or leave expect out")


def _prompt(row: _Row, data: Mapping[str, Any], config: Config) -> Iterator[_Found]:
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
    if kind == "openai":
        yield _Found(row.at(), "011", "the key 'prompt' is missing", fix="say what the agent is asked to do")


def _unknown(row: _Row, key: str, ids: Mapping[str, _Row]) -> Iterator[_Found]:
    for position, name in enumerate(_list(row.task.get(key))):
        if isinstance(name, str) and name and name not in ids:
            fix = did_you_mean(name, ids) or f"tasks are: {', '.join(list(ids)[:20])}"
            yield _Found(row.at(key, position), "021", "there is no such task", show(name), fix)


def _order(first: Mapping[str, _Row]) -> Iterator[_Found]:
    """Needs make no circle, and inputs come from before."""
    parents = {
        name: [need for need in _list(row.task.get("needs")) if isinstance(need, str) and need in first]
        for name, row in first.items()
    }
    cycles = list(_cycles(parents))
    for path in cycles:
        row = first[path[0]]
        where = row.at("needs", _list(row.task["needs"]).index(path[1]))
        yield _Found(where, "022", f"cycle: {' -> '.join(path)}", fix="remove one of these needs")
    if cycles:
        return
    before = graph.ancestors(parents)
    for name, row in first.items():
        for position, other in enumerate(_list(row.task.get("inputs"))):
            if isinstance(other, str) and other in first and other not in before[name]:
                reason = f"{other!r} does not come before {name!r}, so it has nothing to hand over"
                yield _Found(row.at("inputs", position), "024", reason, show(other), f"add {other} to needs")


def _cycles(parents: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Circles, each without the first edge of those before; at most ten."""
    left = {node: list(needs) for node, needs in parents.items()}
    for _ in range(CYCLES_MAX):
        path = graph.find_cycle(left)
        if not path:
            return
        yield path
        left[path[0]] = [need for need in left[path[0]] if need != path[1]]


def _twins(rows: list[_Row]) -> Iterator[_Found]:
    """No two artifacts that are one file where case or Unicode form does not count."""
    seen: dict[str, str] = {}
    for row in rows:
        for position, item in enumerate(_list(row.task.get("artifacts"))):
            path = item.get("path") if isinstance(item, Mapping) else item
            if isinstance(path, str) and (first := seen.setdefault(twin_key(path), path)) != path:
                reason = f"where case does not count this is the same file as {show(first)}"
                yield _Found(row.at("artifacts", position), "032", reason, show(path), "write both alike")


def _undeclared(rows: list[_Row], config: Config) -> Iterator[_Found]:
    for row in rows:
        role = config.roles.get(config.role_name(row.text("role")) or "")
        has_default = role is not None and role.artifacts
        if not row.task.get("artifacts") and row.text("output") != "report" and not has_default:
            reason = "strict_artifacts wants the artifacts of every change"
            yield _Found(row.at(), "052", reason, fix="add artifacts:, or leave policy.strict_artifacts out")


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
