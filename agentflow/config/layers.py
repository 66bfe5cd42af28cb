"""One tree of values out of several sources, and where each of them comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentflow.agents import RoleSettings, find_role
from agentflow.errors import Problem
from agentflow.places import Node

#: Sections that hold a mapping from roles.
_BY_ROLE = ("limits", "routing", "rate_limits", "budget")


class Layers:
    """Values put on top of one another, key by key, the lowest layer first."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        #: Dotted key -> `user FILE:LINE`, `project FILE:LINE`, `env NAME` or `flag --name`.
        self.origins: dict[str, str] = {}
        self._places: dict[str, tuple[str, int, int]] = {}

    def problem(self, key: str, number: str, reason: str, fix: str = "", value: str = "") -> Problem:
        """A problem with the value of a key, at the place where it was given."""
        below = (place for name, place in self._places.items() if name.startswith(f"{key}."))
        place = self._places.get(key) or next(below, (self.origins.get(key, "the defaults"), 0, 0))
        return Problem(*place, f"AF-CONFIG-{number}", reason, value, fix)

    def complete(self, node: Node) -> None:
        """Give the runners of a file the type and command that a lower layer says, in place.

        So a file may change one key of a runner and leave the rest. What is added has line 0.
        """
        runners = node.data.get("runners") if isinstance(node.data, dict) else None
        if runners is None or not isinstance(runners.data, dict):
            return
        for name, runner in runners.data.items():
            below = self.values["runners"].get(name)
            if below is None or not isinstance(runner.data, dict):
                continue
            kind = _kind(below)
            given = runner.data.get("type")
            if given is None and "command" not in runner.data:
                runner.data["type"] = given = Node(kind, 0, 0)
            if given is not None and given.data == kind == "command" and "command" not in runner.data:
                runner.data["command"] = Node([Node(word, 0, 0) for word in below["command"]], 0, 0)

    def completed(self, path: Sequence[str], value: Any) -> dict[str, Any]:
        """One value as a document of its own; a runner's with the rest of the runner."""
        for step in reversed(path):
            value = {step: value}
        if path[0] == "runners":
            merged = _merged(self.values["runners"][path[1]], value["runners"][path[1]])
            value = {"runners": {path[1]: merged}}
        document: dict[str, Any] = value
        return document

    def put(self, values: dict[str, Any], node: Node, origin: str, file: str) -> None:
        """The checked values of one file; `node` is the file's tree."""
        names = self._role_names(values)
        self._merge(values, names)
        for path, below in _leaves(node, ()):
            if not path:  # the file is an empty mapping
                continue
            key = ".".join(_renamed(path, names))
            self.origins[key] = f"{origin}:{below.line}"
            self._places[key] = (file, below.line, below.col)

    def set(self, path: Sequence[str], values: dict[str, Any], origin: str) -> None:
        """One checked key of the environment or of the command line."""
        names = self._role_names(values)
        self._merge(values, names)
        key = ".".join(_renamed(path, names))
        for known in [known for known in self.origins if known == key or known.startswith(f"{key}.")]:
            del self.origins[known]
            self._places.pop(known, None)
        self.origins[key] = origin

    def _role_names(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The role that each word of a layer stands for: one that is known, else itself."""
        roles = {name: RoleSettings(aliases=role["aliases"]) for name, role in self.values["roles"].items()}
        names = {word: find_role(word, roles) or word for word in values.get("roles", {})}
        roles |= {name: RoleSettings() for name in names.values() if name not in roles}
        for section in _BY_ROLE:
            for word in values.get(section, {}).get("roles", {}):
                names[word] = find_role(word, roles) or word
        return names

    def _merge(self, values: dict[str, Any], names: Mapping[str, str]) -> None:
        for name, runner in values.get("runners", {}).items():
            known = self.values["runners"].get(name)
            if known is not None and _kind(known) != _kind(runner):
                self._forget(name)
        for word, role in values.pop("roles", {}).items():
            below: dict[str, Any] = self.values["roles"].get(names[word], {})
            aliases = (*below.get("aliases", ()), *role.get("aliases", ()))
            # A word may be given again by a higher layer.
            self.values["roles"][names[word]] = {
                **_merged(below, role), "aliases": tuple(dict.fromkeys(aliases)),
            }  # fmt: skip
        for section in _BY_ROLE:
            given = values.get(section, {}).get("roles")
            if given:
                values[section]["roles"] = {names[word]: value for word, value in given.items()}
        self.values = _merged(self.values, values)

    def _forget(self, runner: str) -> None:
        """Remove a runner that a higher layer replaces by one of another type."""
        del self.values["runners"][runner]
        for key in [key for key in self.origins if key.startswith(f"runners.{runner}.")]:
            del self.origins[key]


def _kind(runner: Mapping[str, Any]) -> str:
    return str(runner.get("type", "command"))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings, key by key down to what is no mapping; `above` wins."""
    done = dict(below)
    for key, value in above.items():
        known = done.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            done[key] = _merged(known, value)
        else:
            done[key] = value
    return done


def _leaves(node: Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Node]]:
    """What is no mapping, with its path; what no line of the file says is left out."""
    if isinstance(node.data, dict) and node.data:
        for key, below in node.data.items():
            yield from _leaves(below, (*path, key))
    elif node.line:
        yield path, node


def _renamed(path: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The path with a role's own name in place of the word for it."""
    at = 1 if path[0] == "roles" else 2
    by_role = path[0] == "roles" or (path[0] in _BY_ROLE and path[1:2] == ("roles",))
    return [names.get(step, step) if by_role and i == at else step for i, step in enumerate(path)]
