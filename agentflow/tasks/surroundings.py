"""What an attempt's commands are surrounded by: an environment from an allow-list, and things of their own.

Keys, broker addresses and whatever else the worker was started with stay out of reach (ATTACKS A03).
Attempts that run at the same time on one machine have a HOME, a temporary directory, ports and a name for
databases each, so that neither finds what another left or holds.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from agentflow.tasks.ports import PortBlock
from agentflow.workspace.commands import WORKER_HOME

#: What programs need to find themselves, their user's name and their language.
ALLOWED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
#: Downloads that tools keep below HOME and would fetch again in each new one.
CACHES = {"XDG_CACHE_HOME": ".cache", "npm_config_cache": ".npm"}
#: Programs and packages that a user has installed below HOME; told to their tools when they are there.
INSTALLED = {
    "CARGO_HOME": ".cargo", "RUSTUP_HOME": ".rustup", "GOPATH": "go", "GRADLE_USER_HOME": ".gradle",
    "PYTHONUSERBASE": ".local", "PYENV_ROOT": ".pyenv", "NVM_DIR": ".nvm", "BUN_INSTALL": ".bun",
    "NUGET_PACKAGES": ".nuget/packages",
}  # fmt: skip
#: PostgreSQL cuts longer names off.
_NAMESPACE_MAX = 63


def surroundings(
    run: str, node: str, attempt: int, own: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of a node's commands without a place; `own` is what the spec gives it."""
    allowed = {name: environ[name] for name in ALLOWED if name in environ}
    return {
        **allowed,
        **own,
        "AGENTFLOW_RUN": run,
        "AGENTFLOW_NODE": node,
        "AGENTFLOW_ATTEMPT": str(attempt),
    }


class Surroundings:
    """What one attempt has to itself, below its `place`; `close` gives the ports back.

    `own_home` False leaves it the worker's HOME. The directories go with the place.
    """

    def __init__(self, place: Path, *, own_home: bool = True) -> None:
        self._home = place / "home" if own_home else None
        self._tmp = place / "tmp"
        for directory in filter(None, (self._home, self._tmp)):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._block = PortBlock.take()

    def env(
        self,
        run: str,
        node: str,
        attempt: int,
        own: Mapping[str, str],
        environ: Mapping[str, str] = os.environ,
    ) -> dict[str, str]:
        """The whole environment; what the spec says (`own`) goes before HOME, TMPDIR and tools' places."""
        ports = self._block.ports
        private = {"TMPDIR": str(self._tmp)}
        if self._home:
            private |= {"HOME": str(self._home), **_tools(environ)}
            if "HOME" in environ and "HOME" not in own:
                private[WORKER_HOME] = environ["HOME"]
        return {
            **surroundings(run, node, attempt, {**private, **own}, environ),
            "AGENTFLOW_PORT": str(ports[0]),
            "AGENTFLOW_PORTS": f"{ports[0]}-{ports[-1]}",
            "AGENTFLOW_NAMESPACE": namespace(run, node, attempt),
        }

    def close(self) -> None:
        """Give the ports back."""
        self._block.close()


def namespace(run: str, node: str, attempt: int) -> str:
    """A name for a database, schema or key prefix: no other attempt has it, and every server takes it."""
    told = re.sub(r"[^a-z0-9]+", "_", f"af_{node}_{attempt}".lower())
    digest = hashlib.sha256(f"{run}\0{node}\0{attempt}".encode()).hexdigest()[:12]
    return f"{told[: _NAMESPACE_MAX - len(digest) - 1]}_{digest}"


def _tools(environ: Mapping[str, str]) -> dict[str, str]:
    """Where tools find what they keep below the worker's HOME, as far as the worker may write there."""
    home = environ.get("HOME", "")
    if not home or not os.access(home, os.W_OK):
        return {}
    below = {name: f"{home}/{path}" for name, path in CACHES.items()}
    below |= {name: f"{home}/{path}" for name, path in INSTALLED.items() if Path(home, path).is_dir()}
    return {name: environ.get(name) or path for name, path in below.items()}
