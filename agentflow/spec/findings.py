"""What the checks of a spec work on and what they find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Found(NamedTuple):
    """A problem without its file."""

    location: tuple[int | str, ...]
    number: str
    reason: str
    value: str = ""
    fix: str = ""


class TaskRow(NamedTuple):
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

    def artifacts(self, *modes: str) -> tuple[str, ...]:
        """The patterns of its artifacts that are used so; a pattern alone is written."""
        found = []
        for item in items_of(self.task.get("artifacts")):
            is_mapping = isinstance(item, Mapping)
            path, mode = (item.get("path"), item.get("mode", "write")) if is_mapping else (item, "write")
            if isinstance(path, str) and mode in modes:
                found.append(path)
        return tuple(found)

    def texts(self, key: str) -> list[str]:
        """The strings of a list of the task."""
        return [item for item in items_of(self.task.get(key)) if isinstance(item, str)]


def items_of(value: Any) -> list[Any]:
    """The items of a list; none of anything else."""
    return list(value) if isinstance(value, (list, tuple)) else []
