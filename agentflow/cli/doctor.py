"""`agentflow doctor`: what a run needs of this machine, each line with what to do when it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, config_of
from agentflow.errors import AgentflowError, Exit

if TYPE_CHECKING:
    from agentflow.config import Config

OLDEST_PYTHON = (3, 11)
#: merge-tree --write-tree came with it.
OLDEST_GIT = (2, 38)
#: Below this much room for workspaces a run is likely to break.
LEAST_FREE_GB = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line: whether it holds, what was found, and how to mend it. A hint does not fail the command."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    hint: bool = False


LedgerOption = Annotated[
    bool, typer.Option("--ledger", help="Look for anything in the ledger that contradicts itself.")
]


def doctor(ctx: typer.Context, *, ledger: LedgerOption = False, as_json: JsonOption = False) -> None:
    """Check that this machine has what a run needs, or that the ledger is whole."""
    checks = list(_ledger(config_of(ctx)) if ledger else _checks(ctx))
    if as_json:
        text.put(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            text.put(f"{_sign(check)}  {check.name:<16}{text.one_line(check.found, 500)}")
            if not check.ok and check.fix:
                text.put(f"      fix: {check.fix}")
    if any(not check.ok and not check.hint for check in checks):
        raise typer.Exit(int(Exit.INFRA))


def _sign(check: Check) -> str:
    return "ok  " if check.ok else "hint" if check.hint else "FAIL"


def _checks(ctx: typer.Context) -> Iterator[Check]:
    yield _python()
    yield _git()
    try:
        config = config_of(ctx)
    except AgentflowError as error:
        yield Check(
            "configuration", ok=False, found=str(error), fix="agentflow config show prints all that is wrong"
        )
        return
    yield Check("configuration", ok=True, found=_files(config))
    yield _guarded("redis", lambda: _redis(config), fix="see `agentflow config show --origin`")
    yield _data_dir(config)
    if config.redis_url is None:
        yield _guarded(
            "socket path", lambda: _socket(config), fix="set XDG_RUNTIME_DIR to a shorter directory"
        )
    yield _disk(config)
    yield _repository()
    yield from _keys(config)


def _ledger(config: Config) -> Iterator[Check]:
    """What is always true of a ledger, asked of the one in use; harmless while workers work."""
    from agentflow.local import service
    from agentflow.monitor import Monitor

    if config.redis_url is None and service.status(config) is None:
        yield Check("ledger", ok=True, found="nothing runs here, so there is none to look at", hint=True)
        return
    monitor = Monitor(config)
    found = monitor.violations()
    if not found:
        known = len(monitor.runs())
        told = f"{text.count(known, 'run')} {'is' if known == 1 else 'are'} known"
        yield Check("ledger", ok=True, found=f"nothing contradicts itself; {told}")
    for violation in found:
        what, _, story = violation.partition("\n")
        fix = "report this with what follows; `agentflow resume RUN` goes on from what was settled\n" + story
        yield Check("ledger", ok=False, found=what, fix=fix)


def _guarded(name: str, check: Callable[[], Check], *, fix: str) -> Check:
    """An error of ours is a failed line with its own fix."""
    try:
        return check()
    except AgentflowError as error:
        found = f"{error.what}: {error.why}" if error.why else error.what
        return Check(name, ok=False, found=found, fix=error.fix or fix)


def _python() -> Check:
    return Check(
        "python",
        ok=sys.version_info[:2] >= OLDEST_PYTHON,
        found=f"{sys.version.split()[0]} ({sys.executable})",
        fix="install Python 3.11 or newer",
    )


def _git() -> Check:
    fix = "install git 2.38 or newer"
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("git", ok=False, found=f"cannot be run: {error}", fix=fix)
    match = re.search(r"(\d+)\.(\d+)", done.stdout)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    return Check("git", ok=version >= OLDEST_GIT, found=done.stdout.strip() or "does not answer", fix=fix)


def _files(config: Config) -> str:
    places = {
        origin.rsplit(":", 1)[0] for origin in config.origins.values() if not origin.startswith("default")
    }
    return ", ".join(sorted(places)) or "defaults"


def _redis(config: Config) -> Check:
    """The one that is named, or the program for a private one."""
    from agentflow.local import server, service

    if config.redis_url is not None:
        from agentflow.monitor import Monitor

        Monitor(config).check()
        return Check("redis", ok=True, found=f"{config.shown_url()} answers")
    running = service.status(config)
    if running:
        return Check(
            "redis", ok=True, found=f"private {running.server_version} runs, process {running.server}"
        )
    found = server.find_binary()
    return Check(
        "redis", ok=True, found=f"{found.path} {found.version} ({found.source}), starts with the next run"
    )


def _data_dir(config: Config) -> Check:
    """Whether something can be made there; asked by doing it, since rights alone do not tell."""
    folder = _nearest(config.data_dir)
    found = str(config.data_dir) + ("" if folder == config.data_dir else " (made by the first run)")
    fix = f"make {folder} writable, or set AGENTFLOW_HOME"
    try:
        with tempfile.TemporaryDirectory(prefix=".agentflow-doctor-", dir=folder):
            return Check("data directory", ok=True, found=found)
    except OSError as error:
        return Check("data directory", ok=False, found=f"{config.data_dir}: {error.strerror}", fix=fix)


def _nearest(folder: Path) -> Path:
    """The directory itself, or the first above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _socket(config: Config) -> Check:
    from agentflow.local import server

    path = config.socket_path()
    server.check_socket_path(path)
    return Check(
        "socket path", ok=True, found=f"{path} ({len(os.fsencode(path))} of {server.SOCKET_PATH_LIMIT} bytes)"
    )


def _disk(config: Config) -> Check:
    folder = _nearest(config.data_dir)
    free = shutil.disk_usage(folder).free / 1e9
    return Check(
        "disk",
        ok=free >= LEAST_FREE_GB,
        found=f"{free:.1f} GB free at {folder}",
        fix="`agentflow gc`, or set AGENTFLOW_HOME to a larger disk",
    )


def _repository() -> Check:
    inside = any((parent / ".git").exists() for parent in (Path.cwd(), *Path.cwd().parents))
    return Check(
        "repository",
        ok=inside,
        found=str(Path.cwd()) if inside else f"{Path.cwd()} is in none",
        fix="run agentflow in the repository that is to be worked on",
        hint=True,
    )


def _keys(config: Config) -> Iterator[Check]:
    """Whether the default runner's key is in this shell."""
    runner = config.runners.get(config.default_runner)
    name = getattr(runner, "api_key_env", None)
    if name:
        is_set = bool(os.environ.get(name))
        yield Check(
            "model key",
            ok=is_set,
            found=f"{name} is {'set' if is_set else 'not set'} (runner {config.default_runner})",
            fix=f"export {name}=…, or configure another runner in agentflow.yaml",
            hint=True,
        )
