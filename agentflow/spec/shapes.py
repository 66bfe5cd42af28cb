"""Other systems' files, read as they are: keys are renamed in the tree, places stay.

Known are lists with `name/agent/task/dependencies` (`*.ax.yaml`, with `policy.constraints`),
`agent_type/task_id/description` and `id/type/acceptance_tests`. A file may mix them with our own keys;
a task that says one thing twice is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePath

from agentflow.errors import Problem
from agentflow.fields import slug
from agentflow.places import Node, Source

#: Other words for our keys, the likelier first.
SPEC_ALIASES = {"name": "feature", "steps": "tasks", "agents": "tasks", "actors": "tasks"}
TASK_ALIASES = {
    "task_id": "id",
    "agent": "role",
    "agent_type": "role",
    "type": "role",
    "task": "prompt",
    "dependencies": "needs",
    "depends_on": "needs",
    "acceptance_tests": "acceptance",
}
#: Keys of other systems that say something about the file, not about the work.
_ABOUT_THE_FILE = ("version", "metadata")
_NOT_ENFORCED = "{}:{}: policy.{} is kept but has no effect: not built yet"


def translate(node: Node, source: Source) -> tuple[Node, list[Problem], tuple[str, ...]]:
    """The document in our own keys, what is said twice in it, and notes about what has no effect."""
    problems: list[Problem] = []
    top = _as_mapping(node)
    if not isinstance(top.data, dict):
        return top, problems, ()
    top = _renamed(top, SPEC_ALIASES, source, problems)
    top = _with_metadata(top)
    if "feature" not in top.data and _is_foreign(top):
        name = PurePath(source.name).name.split(".")[0]
        top = _adding(top, "feature", name or "feature")
    top = _with_tasks(top, source, problems)
    return top, problems, _notes(top, source)


def _as_mapping(node: Node) -> Node:
    """A bare list is the list of tasks."""
    if isinstance(node.data, list):
        return Node({"tasks": node}, node.line, node.col, {"tasks": (node.line, node.col)}, node.size)
    return node


def _is_foreign(top: Node) -> bool:
    """Whether some task is written in other keys than ours."""
    tasks = top.data.get("tasks")
    items: Iterable[Node] = tasks.data if tasks and isinstance(tasks.data, list) else ()
    return any(isinstance(t.data, dict) and (t.data.keys() & {"name", *TASK_ALIASES}) for t in items)


def _with_metadata(top: Node) -> Node:
    """Name and description out of `metadata:`; what only describes the file is dropped."""
    meta = top.data.get("metadata")
    if "tasks" not in top.data or not (meta is None or isinstance(meta.data, dict)):
        return top
    kept = {key: value for key, value in top.data.items() if key not in _ABOUT_THE_FILE}
    for theirs, ours in (("name", "feature"), ("id", "feature"), ("description", "description")):
        if meta is not None and theirs in meta.data:
            kept.setdefault(ours, meta.data[theirs])
    return replace(top, data=kept)


def _with_tasks(top: Node, source: Source, problems: list[Problem]) -> Node:
    lists = {key: top.data[key].data for key in ("chain", "tasks") if key in top.data}
    lists = {key: items for key, items in lists.items() if isinstance(items, list)}
    renamed = {key: [_task(item, source, problems) for item in items] for key, items in lists.items()}
    ids: dict[str, str] = {}
    for key, items in lists.items():
        ids |= _ids_by_name(items, renamed[key])
    taken: set[str] = set()
    done = dict(top.data)
    for key, items in lists.items():
        both = zip(items, renamed[key], strict=True)
        done[key] = replace(top.data[key], data=[_completed(old, new, top, ids, taken) for old, new in both])
    return replace(top, data=done)


def _task(item: Node, source: Source, problems: list[Problem]) -> Node:
    if not isinstance(item.data, dict):
        return item
    task = _renamed(item, TASK_ALIASES, source, problems)
    if "name" in task.data:
        task = _named(task)
    if "prompt" not in task.data and "description" in task.data:
        task = _moved(task, "description", "prompt")
    return task


def _named(task: Node) -> Node:
    """The name is the title and, slugged, the id when there is none."""
    name = task.data["name"]
    task = _moved(task, "name", "title") if "title" not in task.data else task
    if "id" not in task.data and isinstance(name.data, str):
        return _adding(task, "id", slug(name.data), name)
    return task


def _completed(before: Node, task: Node, top: Node, ids: Mapping[str, str], taken: set[str]) -> Node:
    """An id, a prompt and needs by id for a task written in other keys."""
    if not isinstance(task.data, dict) or not isinstance(before.data, dict):
        return task
    role = task.data.get("role")
    if "id" not in task.data and role and "role" not in before.data and isinstance(role.data, str):
        task = _adding(task, "id", _free(slug(role.data), taken), role)
    if "id" in task.data:
        taken.add(str(task.data["id"].data))
    if "prompt" not in task.data and "name" in before.data:
        task = _adding(task, "prompt", _prompt(str(before.data["name"].data), top), before.data["name"])
    needs = task.data.get("needs")
    if needs and isinstance(needs.data, list) and "needs" not in before.data:
        items = [
            replace(n, data=ids.get(n.data, n.data)) if isinstance(n.data, str) else n for n in needs.data
        ]
        task = replace(task, data={**task.data, "needs": replace(needs, data=items)})
    return task


def _prompt(name: str, top: Node) -> str:
    """A task's text out of its name and the workflow's."""
    about = [top.data[key].data for key in ("feature", "description") if key in top.data]
    return f"{name}\n\nThis is one task of: {'. '.join(map(str, about))}"


def _ids_by_name(before: list[Node], after: list[Node]) -> dict[str, str]:
    """The id of each task by the name that dependencies use."""
    return {
        old.data["name"].data: str(new.data["id"].data)
        for old, new in zip(before, after, strict=True)
        if isinstance(old.data, dict) and "name" in old.data and isinstance(old.data["name"].data, str)
        and "id" in new.data
    }  # fmt: skip


def _free(name: str, taken: set[str]) -> str:
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name}-{number}"
    return free


def _renamed(node: Node, aliases: Mapping[str, str], source: Source, problems: list[Problem]) -> Node:
    """The mapping with other words for our keys replaced; one thing said twice is a problem."""
    data: dict[str, Node] = {}
    keys: dict[str, tuple[int, int]] = {}
    said = {key: key for key in node.data if key not in aliases}
    for key, value in node.data.items():
        ours = aliases.get(key, key)
        if said.setdefault(ours, key) != key:
            problems.append(
                source.problem(
                    "016", f"{key!r} says the same as {said[ours]!r}", node.keys[key], fix="keep one of them"
                )
            )
            continue
        data[ours], keys[ours] = value, node.keys[key]
    return replace(node, data=data, keys=keys)


def _moved(node: Node, old: str, new: str) -> Node:
    data = {new if key == old else key: value for key, value in node.data.items()}
    keys = {new if key == old else key: place for key, place in node.keys.items()}
    return replace(node, data=data, keys=keys)


def _adding(node: Node, key: str, value: str, at: Node | None = None) -> Node:
    """The mapping with one more key, placed where the value came from."""
    place = at or node
    return replace(
        node,
        data={**node.data, key: Node(value, place.line, place.col)},
        keys={**node.keys, key: (place.line, place.col)},
    )


def _notes(top: Node, source: Source) -> tuple[str, ...]:
    """What other systems' policies say that nothing here acts on yet."""
    policy = top.data.get("policy")
    if policy is None or not isinstance(policy.data, dict):
        return ()
    notes = []
    constraints = policy.data.get("constraints")
    if constraints is not None and isinstance(constraints.data, dict):
        notes = [
            _NOT_ENFORCED.format(source.name, node.line, f"constraints.{key}")
            for key, node in constraints.data.items()
        ]
    if "goal" in policy.data:
        notes.append(_NOT_ENFORCED.format(source.name, policy.data["goal"].line, "goal"))
    return tuple(notes)
