"""The configuration: one value for each key, and where it came from.

Precedence: flag > environment > the project's agentflow.yaml > the user's > default. `${NAME}` and
`${NAME:-default}` in the files are replaced from the environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from agentflow.agents import (
    Closed,
    CommandRunner,
    NoopRunner,
    OpenAIRunner,
    Prices,
    RoleConfig,
    RoleSettings,
    RunnerChoice,
    RunnerConfig,
    builtin_roles,
    default_runners,
    find_role,
)
from agentflow.errors import ConfigError, Problem
from agentflow.explain import did_you_mean, model_problems
from agentflow.fields import AtLeastOne, Name, Number, Text
from agentflow.places import Node, Source, Unreadable, read_text, read_yaml, scalar

__all__ = [
    "CommandRunner", "Config", "ConfigFileError", "NoopRunner", "OpenAIRunner", "Prices", "RoleConfig",
    "RunnerChoice", "RunnerConfig", "load_config",
]  # fmt: skip

FILE_NAME = "agentflow.yaml"
#: The kernel's limit for the path of a unix socket.
SOCKET_PATH_MAX_BYTES = 107
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")


RedisUrl = Annotated[str, Field(strict=True, pattern=r"^(rediss?|redis\+socket|unix)://\S+$")]


class _RedisSettings(Closed):
    url: RedisUrl | None = None


class _File(Closed):
    """What agentflow.yaml may hold."""

    data_dir: Text | None = None
    redis: _RedisSettings | None = None
    slots: AtLeastOne | None = None
    idle_minutes: Number | None = None
    default_runner: Name | None = None
    runners: dict[Name, RunnerConfig] = Field(default_factory=dict)
    roles: dict[Name, RoleSettings] = Field(default_factory=dict)


def _default_data_dir() -> Path:
    return _data_home(os.environ) / "agentflow"


def _data_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_DATA_HOME") or _home(environ) / ".local" / "share")


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def _runtime_dir() -> Path:
    return runtime_directory(os.environ)


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Where sockets of this user go; made with mode 0700 by whoever binds one."""
    given = environ.get("XDG_RUNTIME_DIR")
    return Path(given) / "agentflow" if given else _temporary_runtime_dir()


def _temporary_runtime_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"agentflow-{os.getuid()}"


def _default_slots() -> int:
    return max(4, 2 * (os.cpu_count() or 2))


class Config(Closed):
    """Everything that is configured. Lease, renewal and scan are for tests and read from the environment."""

    data_dir: Path = Field(default_factory=_default_data_dir)
    redis_url: RedisUrl | None = None
    slots: AtLeastOne = Field(default_factory=_default_slots)
    idle_minutes: Number = 10.0
    default_runner: Name = "openai"
    runners: dict[Name, RunnerConfig] = Field(default_factory=default_runners)
    roles: dict[Name, RoleConfig] = Field(default_factory=builtin_roles)
    lease_ttl_ms: AtLeastOne = 3000
    renew_ms: AtLeastOne = 1000
    scan_ms: AtLeastOne = 500
    #: Seconds that a leaving worker lets its attempts go on.
    grace_s: Number = 10.0
    #: Off only to show that the canvas carries a run by itself.
    reconcile: bool = True
    runtime_dir: Path = Field(default_factory=_runtime_dir)
    #: Dotted key -> `default`, `user FILE:LINE`, `project FILE:LINE`, `env NAME` or `flag --name`.
    origins: dict[str, str] = Field(default_factory=dict)

    def socket_path(self) -> Path:
        """The unix socket of this data directory's private server, short enough for the kernel."""
        digest = hashlib.sha256(str(self.data_dir.resolve()).encode()).hexdigest()[:12]
        path = self.runtime_dir / f"{digest}.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX_BYTES:
            return path
        return _temporary_runtime_dir() / path.name

    def broker_url(self) -> str:
        """The server's address as Celery writes it."""
        if not self.redis_url:
            return f"redis+socket://{self.socket_path()}?virtual_host=0"
        if self.redis_url.startswith("unix://"):
            path, _, query = self.redis_url.removeprefix("unix://").partition("?")
            return f"redis+socket://{path}?virtual_host={query.removeprefix('db=') or 0}"
        return self.redis_url

    def client_url(self) -> str:
        """The server's address as redis-py writes it."""
        if not self.redis_url:
            return f"unix://{self.socket_path()}?db=0"
        path, _, query = self.redis_url.removeprefix("redis+socket://").partition("?")
        if path == self.redis_url.partition("?")[0]:
            return self.redis_url
        return f"unix://{path}?db={query.removeprefix('virtual_host=') or 0}"

    def role_name(self, word: str) -> str | None:
        """The role that a name, an alias or `NAME-engineer` stands for, or None."""
        return find_role(word, self.roles)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `config show` and for reports; a password in an address is masked."""
        values = self.model_dump(mode="json", exclude={"origins"})
        if self.redis_url:
            values["redis_url"] = re.sub(r"(//[^/@]*:)[^/@]+@", r"\1***@", self.redis_url)
        return values


class ConfigFileError(ConfigError):
    """The configuration has problems; all of them are in `problems`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the configuration")

    def explain(self) -> str:
        """Each problem on its own line, then the count."""
        return "\n".join([*map(str, self.problems), f"error[{self.code}]: {self.what}"])


# -- loading ---------------------------------------------------------------------------------------

#: Environment variable -> key. Those without a key in the files are for tests.
_ENVIRONMENT = {
    "AGENTFLOW_HOME": "data_dir",
    "AGENTFLOW_REDIS_URL": "redis.url",
    "AGENTFLOW_SLOTS": "slots",
    "AGENTFLOW_IDLE_MINUTES": "idle_minutes",
    "AGENTFLOW_RUNNER": "default_runner",
    "AGENTFLOW_LEASE_TTL_MS": "lease_ttl_ms",
    "AGENTFLOW_RENEW_MS": "renew_ms",
    "AGENTFLOW_SCAN_MS": "scan_ms",
    "AGENTFLOW_GRACE_S": "grace_s",
    "AGENTFLOW_RECONCILE": "reconcile",
}
_SCALARS = ("data_dir", "redis.url", "slots", "idle_minutes", "default_runner")


def load_config(
    project: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration of a project's directory (its agentflow.yaml may be in a parent).

    `overrides` holds flags by dotted key; None means not given. Raises `ConfigFileError` with all that
    is wrong in one source.
    """
    loading = _Loading(environ)
    loading.user_file(_home(environ))
    loading.project_file(project)
    for variable, key in _ENVIRONMENT.items():
        if environ.get(variable):
            text = environ[variable]
            loading.set(key, text if key in {"data_dir", "redis.url"} else scalar(text), f"env {variable}")
    for key, value in (overrides or {}).items():
        if value is not None:
            loading.set(key, value, "flag --" + re.sub(r"[._]", "-", key))
    return loading.config()


class _Loading:
    """Layers of configuration put on top of one another, lowest first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.values: dict[str, Any] = {"data_dir": _data_home(environ) / "agentflow"}
        self.roles = {name: role.model_dump() for name, role in builtin_roles().items()}
        self.runners: dict[str, Any] = default_runners()
        self.origins: dict[str, str] = {}

    def set(self, key: str, value: Any, origin: str) -> None:
        """One scalar by its dotted key, on top of what is there."""
        self.values[key] = value
        self.origins[key] = origin

    def user_file(self, home: Path) -> None:
        """The user's own file, when there is one."""
        base = Path(self.environ.get("XDG_CONFIG_HOME") or home / ".config")
        self._file(base / "agentflow" / FILE_NAME, "user")

    def project_file(self, project: Path | None) -> None:
        """The project's file: in its directory or above it, up to the top of the repository."""
        if project is None:
            return
        if project.is_file():
            self._file(project, "project")
            return
        for directory in (project.resolve(), *project.resolve().parents):
            if (directory / FILE_NAME).is_file():
                self._file(directory / FILE_NAME, "project")
                return
            if (directory / ".git").exists():
                return

    def _file(self, path: Path, kind: str) -> None:
        if not path.is_file():
            return
        node, given = self._read(path)
        source = f"{kind} {path}"
        for key in _SCALARS:
            name, _, below = key.partition(".")
            value = getattr(given, name)
            value = getattr(value, below, None) if below else value
            if value is not None:
                if key == "data_dir":
                    value = path.parent / Path(value).expanduser()
                self.set(key, value, f"{source}:{node.place(key.split('.'))[0]}")
        for name, runner in given.runners.items():
            self.runners[name] = runner
            self.origins[f"runners.{name}"] = f"{source}:{node.place(['runners', name], of_key=True)[0]}"
        for word, settings in given.roles.items():
            self._role(word, settings, node, source)

    def _role(self, word: str, settings: RoleSettings, node: Node, source: str) -> None:
        """Changes to a role, found by name or alias, or a new role."""
        known = {name: RoleConfig(**role) for name, role in self.roles.items()}
        name = find_role(word, known) or word
        changes = settings.model_dump(exclude_unset=True)
        changes["aliases"] = (*known[name].aliases, *settings.aliases) if name in known else settings.aliases
        self.roles[name] = {**self.roles.get(name, {"name": name}), **changes}
        for key in settings.model_fields_set:
            self.origins[f"roles.{name}.{key}"] = f"{source}:{node.place(['roles', word, key])[0]}"

    def _read(self, path: Path) -> tuple[Node, _File]:
        source = Source(str(path), "AF-CONFIG")
        try:
            node, problems = read_yaml(read_text(path, source), source)
        except Unreadable as error:
            if error.problems[0].code.endswith("-006"):  # an empty file changes nothing
                return Node({}, 1, 1), _File()
            raise ConfigFileError(error.problems) from None
        problems += list(_expand(node, self.environ, source))
        try:
            given = _File.model_validate(node.plain())
        except ValidationError as error:
            problems += model_problems(error, _File, node, source)
        if problems:
            raise ConfigFileError(sorted(problems, key=lambda p: (p.line, p.col)))
        return node, given

    def config(self) -> Config:
        """All layers as one value. Raises `ConfigError` naming where a bad value came from."""
        values = {key.replace("redis.url", "redis_url"): value for key, value in self.values.items()}
        origins = {**dict.fromkeys(("redis.url", *_SCALARS), "default"), **self.origins}
        layers = {
            "runtime_dir": runtime_directory(self.environ), **values,
            "runners": self.runners, "roles": self.roles, "origins": origins,
        }  # fmt: skip
        # Workers and supervisors run elsewhere: a relative directory would be another one for them.
        layers["data_dir"] = Path(str(layers["data_dir"])).expanduser().absolute()
        try:
            config = Config.model_validate(layers)
        except ValidationError as error:
            found = model_problems(error, Config, Node({}, 0, 0), Source("", "AF-CONFIG"))
            keys = [
                ".".join(map(str, detail["loc"])).replace("redis_url", "redis.url")
                for detail in error.errors()
            ]
            lines = [
                f"{key} ({origins.get(key, 'default')}): {problem.reason}, got {problem.value}"
                for key, problem in zip(keys, found, strict=True)
            ]
            raise ConfigError("; ".join(lines), code=found[0].code) from None
        _check_names(config)
        return config


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


def _check_names(config: Config) -> None:
    """Raise `ConfigError` for a runner that is not there and for words that mean two roles."""
    named = {"default_runner": config.default_runner}
    named |= {f"roles.{role.name}.runner": role.runner for role in config.roles.values() if role.runner}
    for key, runner in named.items():
        if runner not in config.runners:
            raise ConfigError(
                f"{key} names the runner {runner!r}, which is not configured",
                why=f"it comes from: {config.origins.get(key, 'default')}",
                fix=did_you_mean(runner, config.runners)
                or f"runners are: {', '.join(sorted(config.runners))}",
                code="AF-CONFIG-025",
            )
    owners = {name: name for name in config.roles}
    for role in config.roles.values():
        for alias in role.aliases:
            if owners.setdefault(alias, role.name) != role.name:
                raise ConfigError(
                    f"the alias {alias!r} of the role {role.name} already stands for {owners[alias]}",
                    fix="choose another word",
                    code="AF-CONFIG-020",
                )
