"""The configuration as the program reads it."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from agentflow.agents import RoleConfig, RunnerConfig, builtin_roles, default_runners, find_role
from agentflow.config.address import for_celery, for_redis
from agentflow.config.sections import Common, RedisUrl, Timing
from agentflow.errors import ConfigError, Problem
from agentflow.places import masked

#: The kernel's limit for the path of a unix socket.
SOCKET_PATH_MAX_BYTES = 107
_SECRET = re.compile(r"(?i)key|token|secret|passw|auth|credential|cookie")


def home_of(environ: Mapping[str, str]) -> Path:
    """The user's home."""
    return Path(environ.get("HOME") or Path.home())


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where agentflow keeps its data unless told otherwise."""
    return Path(environ.get("XDG_DATA_HOME") or home_of(environ) / ".local" / "share") / "agentflow"


def runtime_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where sockets of this user go; made with mode 0700 by whoever binds one."""
    given = environ.get("XDG_RUNTIME_DIR")
    return Path(given) / "agentflow" if given else _temporary_runtime_dir()


def _temporary_runtime_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"agentflow-{os.getuid()}"


class Config(Common, Timing):
    """Everything that is configured."""

    data_dir: Path = Field(default_factory=default_data_dir)
    redis_url: RedisUrl | None = None
    runners: dict[str, RunnerConfig] = Field(default_factory=default_runners)
    roles: dict[str, RoleConfig] = Field(default_factory=builtin_roles)
    runtime_dir: Path = Field(default_factory=runtime_directory)
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
        return for_celery(self.redis_url or f"unix://{self.socket_path()}?db=0")

    def client_url(self) -> str:
        """The server's address as redis-py writes it."""
        return for_redis(self.redis_url or f"unix://{self.socket_path()}?db=0")

    def shown_url(self) -> str:
        """The server's address for people and logs: its password is masked."""
        return masked(self.redis_url or self.client_url())

    def role_name(self, word: str) -> str | None:
        """The role that a name, an alias or `NAME-engineer` stands for, or None."""
        return find_role(word, self.roles)

    def origin(self, key: str) -> str:
        """Where a dotted key comes from: its own origin, or that of the mapping that it stands in."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key.rpartition(".")[0]
        return "default"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `config show` and for reports; passwords and keys are masked."""
        values = self.model_dump(mode="json", exclude={"origins"})
        if self.redis_url:
            values["redis_url"] = masked(self.redis_url)
        for runner in values["runners"].values():
            for name in ("headers", "env"):
                if name in runner:
                    runner[name] = {key: _shown(key, text) for key, text in runner[name].items()}
            if runner.get("base_url"):
                runner["base_url"] = masked(runner["base_url"])
        return values


def _shown(name: str, value: str) -> str:
    """A variable or header, hidden when its name says that it is a secret."""
    return "***" if _SECRET.search(name) else masked(value)


class ConfigFileError(ConfigError):
    """The configuration has problems; all of them are in `problems`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the configuration")

    def explain(self) -> str:
        """Each problem on its own line, then the count."""
        return "\n".join([*map(str, self.problems), f"error[{self.code}]: {self.what}"])
