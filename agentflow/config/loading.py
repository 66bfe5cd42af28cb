"""Puts the layers of the configuration on top of one another.

Precedence, for each key by itself: flag > environment > the project's agentflow.yaml > the user's >
default. `${NAME}` and `${NAME:-default}` in the files are replaced from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentflow.agents import builtin_roles, default_runners
from agentflow.config.checks import cross_problems
from agentflow.config.keys import Key, file_keys, keys_of_role, keys_of_runner, timing_keys
from agentflow.config.layers import Layers
from agentflow.config.model import Config, ConfigFileError, default_data_dir, home_of, runtime_directory
from agentflow.config.sections import Settings, Timing
from agentflow.errors import Problem
from agentflow.explain import did_you_mean, model_problems
from agentflow.places import Node, Source, Unreadable, read_text, read_yaml, scalar

FILE_NAME = "agentflow.yaml"
#: Keys that have an option of their own; any other is given by `--set KEY=VALUE`.
_FLAGS = {"data_dir": "--data-dir", "redis.url": "--redis-url", "default_runner": "--runner"}
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")


def load_config(
    project: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration of a project's directory (its agentflow.yaml may be in a parent).

    `overrides` holds flags by dotted key; None means not given. Raises `ConfigFileError` with all that
    is wrong in all sources.
    """
    loading = _Loading(environ)
    base = Path(environ.get("XDG_CONFIG_HOME") or home_of(environ) / ".config")
    loading.file(base / "agentflow" / FILE_NAME, "user")
    found = project_file(project)
    if found:
        loading.file(found, "project")
    loading.environment()
    loading.flags(overrides or {})
    return loading.config()


def project_file(project: Path | None) -> Path | None:
    """The project's file: in its directory or above it, up to the top of the repository."""
    if project is None or project.is_file():
        return project
    for directory in (project.resolve(), *project.resolve().parents):
        if (directory / FILE_NAME).is_file():
            return directory / FILE_NAME
        if (directory / ".git").exists():
            break
    return None


def check_text(text: str, name: str) -> None:
    """Check the text of an agentflow.yaml as if it were a project's. Raises `ConfigFileError`.

    Variables that are not set here may be where it is used.
    """
    loading = _Loading(os.environ)
    loading.text(text, Source(name, "AF-CONFIG"), "project", Path.cwd())
    unset = {problem.line for problem in loading.problems if problem.code.endswith("-015")}
    loading.problems = [problem for problem in loading.problems if problem.line not in unset]
    if loading.problems or not unset:
        loading.config()


class _Loading:
    """Reads and checks each source, and keeps all that is wrong."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []
        self.layers = Layers(
            {
                "data_dir": str(default_data_dir(environ)),
                "runners": {
                    name: {"type": runner.type} | runner.model_dump(exclude_unset=True)
                    for name, runner in default_runners().items()
                },
                "roles": {name: role.model_dump(exclude={"name"}) for name, role in builtin_roles().items()},
            }
        )

    def file(self, path: Path, kind: str) -> None:
        """One file, when it is there."""
        if not path.is_file():
            return
        source = Source(str(path), "AF-CONFIG")
        try:
            text = read_text(path, source)
        except Unreadable as error:
            self.problems += error.problems
            return
        self.text(text, source, kind, path.parent)

    def text(self, text: str, source: Source, kind: str, directory: Path) -> None:
        """The text of one file."""
        try:
            node, problems = read_yaml(text, source)
        except Unreadable as error:
            # An empty file changes nothing.
            self.problems += [p for p in error.problems if not p.code.endswith("-006")]
            return
        problems += list(_expand(node, self.environ, source))
        self.layers.complete(node)
        try:
            settings = Settings.model_validate(node.plain())
        except ValidationError as error:
            problems += model_problems(error, Settings, node, source)
        if problems:
            self.problems += sorted(problems, key=lambda p: (p.line, p.col))
            return
        values = settings.model_dump(exclude_unset=True, exclude_none=True)
        if settings.data_dir is not None:
            values["data_dir"] = str(directory / Path(settings.data_dir).expanduser())
        self.layers.put(values, node, f"{kind} {source.name}", source.name)

    def environment(self) -> None:
        """All variables that are set to something."""
        for key in self._keys():
            text = self.environ.get(key.variable)
            if text:
                self._one(key, key.read(text), f"env {key.variable}")

    def flags(self, overrides: Mapping[str, Any]) -> None:
        """What stands on the command line."""
        known = {key.name: key for key in self._keys()}
        for name, value in overrides.items():
            if value is None:
                continue
            origin = f"flag {_FLAGS.get(name, f'--set {name}')}"
            if name not in known:
                fix = did_you_mean(name, known)
                self.problems.append(Problem(origin, 0, 0, "AF-CONFIG-010", f"unknown key {name!r}", "", fix))
                continue
            given = str(value) if isinstance(value, Path) else value
            self._one(known[name], known[name].read(given) if isinstance(given, str) else given, origin)

    def _keys(self) -> Iterator[Key]:
        """Every key, with those of the roles and runners that the files left."""
        yield from file_keys()
        yield from timing_keys()
        for name in self.layers.values["roles"]:
            yield from keys_of_role(name)
        for name, runner in self.layers.values["runners"].items():
            yield from keys_of_runner(name, runner.get("type", "command"))

    def _one(self, key: Key, value: Any, origin: str) -> None:
        """One key of the environment or of the command line."""
        model = Timing if key.name in Timing.model_fields else Settings
        given = self.layers.completed(key.path, value)
        try:
            checked = model.model_validate(given)
        except ValidationError as error:
            source = Source(origin, "AF-CONFIG")
            self.problems += model_problems(error, model, Node({}, 0, 0), source)
            return
        self.layers.set(key.path, checked.model_dump(exclude_unset=True), origin)

    def config(self) -> Config:
        """All layers as one value."""
        if not self.problems:
            self.problems += cross_problems(self.layers)
        if self.problems:
            raise ConfigFileError(self.problems)
        values = dict(self.layers.values)
        origins = {key.name: "default" for key in file_keys()} | self.layers.origins
        # Workers and supervisors run elsewhere: a relative directory would be another one for them.
        values["data_dir"] = Path(values["data_dir"]).expanduser().absolute()
        values["redis_url"] = values.pop("redis", {}).get("url")
        values["roles"] = {name: {"name": name, **role} for name, role in values["roles"].items()}
        return Config.model_validate(
            {"runtime_dir": runtime_directory(self.environ), **values, "origins": origins}
        )


def _expand(node: Node, environ: Mapping[str, str], source: Source) -> Iterator[Problem]:
    """Replace `${NAME}`, `${NAME:-default}` and `$$` in all strings below a node, in place."""
    if isinstance(node.data, dict):
        for below in node.data.values():
            yield from _expand(below, environ, source)
    elif isinstance(node.data, list):
        for below in node.data:
            yield from _expand(below, environ, source)
    elif isinstance(node.data, str) and "$" in node.data:
        missing = [
            m[1] for m in _VARIABLE.finditer(node.data) if m[1] and m[2] is None and m[1] not in environ
        ]
        for name in missing:
            yield source.problem(
                "015", f"the environment variable {name} is not set", (node.line, node.col),
                value=node.data, fix=f"set it, or give a default: ${{{name}:-value}}",
            )  # fmt: skip
        if not missing:
            text = _VARIABLE.sub(
                lambda m: "$" if m[1] is None else environ.get(m[1]) or m[2] or "", node.data
            )
            node.data = scalar(text) if text != node.data else text
