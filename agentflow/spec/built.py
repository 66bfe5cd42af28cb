"""Specs built in Python, as a document's tree: expanded and checked like a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from agentflow.errors import Problem, SpecError
from agentflow.places import Location, Node, Source
from agentflow.spec.models import Spec
from agentflow.spec.repeats import expand


def expanded(spec: Spec) -> Spec:
    """The spec with every repeated task written out; one that repeats nothing comes back as it is.

    Raises `SpecError`.
    """
    repeated = spec.for_each or spec.shards or any(task.for_each or task.shards for task in spec.tasks)
    if not (repeated or spec.chain):
        return spec
    locations: list[Location] = []
    top, problems = expand(tree(data_of(spec), locations), Source("", SpecError.code))
    if problems:
        raise SpecError(by_path(problems, locations))
    return Spec.model_validate(top.plain(), by_alias=True, by_name=False).noting(spec.notes)


def data_of(spec: Spec) -> dict[str, Any]:
    """A spec as a document's data. An empty list of needs is there only where somebody wrote one."""
    data = spec.model_dump(by_alias=True, mode="json", exclude_none=True)
    for key, tasks in (("tasks", spec.tasks), ("chain", spec.chain or ())):
        for task, values in zip(tasks, data.get(key, ()), strict=True):
            if "needs" not in task.model_fields_set:
                del values["needs"]
    return data


def tree(value: Any, locations: list[Location], at: Location = ()) -> Node:
    """Plain data as a tree whose "lines" are indexes into `locations`, which is filled on the way."""
    locations.append(at)
    node = Node(value, len(locations) - 1, 0)
    below: Iterable[Node] = ()
    if isinstance(value, dict):
        node.data = {str(key): tree(item, locations, (*at, str(key))) for key, item in value.items()}
        node.keys = {key: (item.line, 0) for key, item in node.data.items()}
        below = node.data.values()
    elif isinstance(value, (list, tuple)):
        node.data = [tree(item, locations, (*at, number)) for number, item in enumerate(value)]
        below = node.data
    node.size += sum(item.size for item in below)
    return node


def by_path(problems: Iterable[Problem], locations: list[Location]) -> list[Problem]:
    """Problems of such a tree, each once, with a path of fields for their place: `Spec.tasks[2].needs[0]`."""
    return [
        replace(problem, file=_path(locations[problem.line]), line=0, col=0)
        for problem in dict.fromkeys(problems)
    ]


def _path(location: Location) -> str:
    return "Spec" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
