"""Every key of agentflow.yaml: its variable, its kind, its default and what it means.

Keys are found in the models, so a new one needs no entry here.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentflow.agents import RoleSettings, RunnerConfig
from agentflow.config.sections import Settings, Timing
from agentflow.fields import Command, NotBuilt
from agentflow.places import Node, Source, Unreadable, read_yaml, scalar

#: The variables that are not `AGENTFLOW_` and the key.
_NAMED = {"data_dir": "AGENTFLOW_HOME", "default_runner": "AGENTFLOW_RUNNER"}
_RUNNERS: dict[str, type[BaseModel]] = {
    model.model_fields["type"].default: model
    for model in (typing.get_args(tagged)[0] for tagged in typing.get_args(typing.get_args(RunnerConfig)[0]))
}
#: A command is split by its own rules, not at commas.
_COMMAND = typing.get_args(Command)[1:]


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `kind` is text, list, mapping or value; `field` is its declaration."""

    path: tuple[str, ...]
    kind: str
    field: FieldInfo

    @property
    def name(self) -> str:
        """The key as it is written: its steps with dots between them."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return variable_of(self.name)

    def read(self, text: str) -> Any:
        """What a variable or a flag means as the value of this key.

        Lists are written `a,b` and mappings `a=1,b=2`, or both as YAML.
        """
        if self.kind == "text":
            return text
        if text.lstrip().startswith(("[", "{")):
            return _flow(text)
        if self.kind == "value":
            return scalar(text)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if self.kind == "list":
            return parts
        pairs = [part.partition("=") for part in parts]
        return {name.strip(): scalar(value.strip()) for name, _, value in pairs}

    def default(self) -> Any:
        """The value when nobody says anything."""
        return self.field.get_default(call_default_factory=True)


def variable_of(name: str) -> str:
    """The environment variable of a dotted key."""
    return _NAMED.get(name) or "AGENTFLOW_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def exported(flags: Mapping[str, Any]) -> dict[str, str]:
    """Flags by dotted key as variables, for processes that are started from here."""
    return {
        variable_of(name): value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
        for name, value in flags.items()
        if value is not None
    }


def file_keys() -> Iterator[Key]:
    """The keys that stand in every agentflow.yaml, without those of single runners and roles."""
    for name, field in Settings.model_fields.items():
        if name not in {"runners", "roles"}:
            yield from _below((name,), field)


def timing_keys() -> Iterator[Key]:
    """Those that only the environment has."""
    for name, field in Timing.model_fields.items():
        yield Key((name,), _kind(field), field)


def keys_of_role(name: str) -> Iterator[Key]:
    """The keys of one role."""
    for below, field in RoleSettings.model_fields.items():
        yield from _below(("roles", name, below), field)


def keys_of_runner(name: str, kind: str) -> Iterator[Key]:
    """The keys of one runner of a type; `type` itself is no setting of its own."""
    for below, field in _RUNNERS[kind].model_fields.items():
        if below != "type":
            yield from _below(("runners", name, below), field)


def runner_types() -> list[str]:
    """What a runner's `type` may be."""
    return sorted(_RUNNERS)


def not_built() -> list[str]:
    """Sections of later versions."""
    return [name for name, field in Settings.model_fields.items() if _is_not_built(field)]


def _below(path: tuple[str, ...], field: FieldInfo) -> Iterator[Key]:
    if _is_not_built(field):
        return
    model = next((part for part in _parts(field.annotation) if _is_model(part)), None)
    if model is None:
        yield Key(path, _kind(field), field)
        return
    for key, inner in model.model_fields.items():
        yield from _below((*path, key), inner)


def _kind(field: FieldInfo) -> str:
    """text, list, mapping or value, by the type of the field."""
    if any(item in _COMMAND for item in field.metadata):
        return "value"
    found = {typing.get_origin(part) or part for part in _parts(field.annotation)} - {types.NoneType}
    if found <= {str, typing.Literal}:
        return "text"
    if found == {tuple}:
        return "list"
    return "mapping" if found == {dict} else "value"


def _is_not_built(field: FieldInfo) -> bool:
    return any(item in field.metadata for item in typing.get_args(NotBuilt)[1:])


def _is_model(part: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _parts(annotation: Any) -> Iterator[Any]:
    """A type, or those of a choice; not what lists and mappings hold."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _parts(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        for part in typing.get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _flow(text: str) -> Any:
    try:
        node: Node = read_yaml(text, Source("", ""))[0]
    except Unreadable:
        return text
    return node.plain()
