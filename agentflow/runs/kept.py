"""What is kept of a run: what it changed, what its attempts said; and removing it all."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from agentflow import transport
from agentflow.config import Config
from agentflow.errors import RepositoryError
from agentflow.homes import home_of
from agentflow.recovery.journal import Journal
from agentflow.runs import open_ledger, send_others
from agentflow.states import CLOSED, RunState
from agentflow.store.records import INTEGRATE, RunRecord
from agentflow.workspace import gc as collecting
from agentflow.workspace import inspect, leftovers
from agentflow.workspace import land as landing
from agentflow.workspace.store import Store

#: What the log of an integration is called; a node has a number behind its name.
VALIDATION = "validation"
_COLLECTED = CLOSED - {RunState.READY_TO_LAND}


def diff(run_id: str, node: str | None, *, config: Config, stat: bool = False) -> str:
    """What the run (or one node) changed, as a patch or as `--stat` lines; '' when nothing came out."""
    ledger = open_ledger(config)
    run = ledger.run(run_id)
    if node is None:
        one, other = run.base, run.result
    else:
        record = ledger.node(run_id, node)
        one, other = record.base or run.base, record.commit
    if not other or not run.repo:
        return ""
    depot = transport.open_depot(config, run)
    depot.bring([run.base, one, other])
    store = depot.store
    show = landing.diffstat if stat else landing.diff
    return show(store.git_dir, one, other)


def lands_in(run_id: str, *, config: Config, repo: Path) -> Path:
    """A directory of the repository that `land` typed in `repo` lands in, as `homes.home_of` finds it."""
    run = open_ledger(config).run(run_id)
    is_clone = run.transport == transport.PACKS and inspect.clone_with(repo, run.base)
    return repo if is_clone else Path(run.root)


def log_files(run_id: str, node: str | None, *, config: Config) -> list[Path]:
    """Logs and transcripts of one node or of all, oldest attempt first; of other machines the logs' ends.

    `integrate` is the validation of the merged tree. Raises `UsageError` for a node that is not there.
    """
    folder = config.data_dir / "runs" / run_id / "logs"
    ledger = open_ledger(config)
    if node in (INTEGRATE, INTEGRATE.removeprefix("@")):
        node = VALIDATION
    elif node is not None:
        ledger.node(run_id, node)
    transport.bring_logs(config, ledger.run(run_id), folder)
    found = [p for p in folder.glob("*") if p.is_file() and (node is None or _is_log_of(p.name, node))]
    return sorted(found, key=lambda p: (p.stat().st_mtime, p.name))


def _is_log_of(name: str, node: str) -> bool:
    """Logs are named `<node>.<attempt>[.acceptance|.transcript].<ending>`; ids may hold dots."""
    attempt = "" if node == VALIDATION else r"\d+\."
    return re.match(re.escape(node) + r"\." + attempt, name) is not None


def gc(*, config: Config, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Remove what closed runs left: refs, packs, logs, workspaces. Landed branches stay.

    A run that is ready to land is kept: its work is nowhere else. Returns what went, by name.
    """
    ledger = open_ledger(config)
    before = ledger.now_ms() - older_than_s * 1000
    known = ledger.runs()
    gone = [r for r in known if r.state in _COLLECTED and r.closed_ms < before]
    strays = _strays(config, {run.id for run in known}, older_than_s)
    if not dry_run:
        for run in gone:
            _forget_here(config, run)
            send_others(ledger, ledger.forget(run.id), config)
        for folder in strays:
            shutil.rmtree(folder, ignore_errors=True)
    return [f"run {run.id} ({run.state})" for run in gone] + [f"files of run {f.name}" for f in strays]


def _strays(config: Config, known: Collection[str], older_than_s: float) -> list[Path]:
    """Directories here of runs that the ledger no longer knows (somebody else of the team has collected)."""
    before = time.time() - older_than_s
    folders = [f for f in (config.data_dir / "runs").glob("*") if f.is_dir() and f.name not in known]
    url = config.client_url()
    return sorted(f for f in folders if f.stat().st_mtime < before and not leftovers.is_foreign(f, url))


def _forget_here(config: Config, run: RunRecord) -> None:
    """What a run left on this machine, in its repository and, as packs, in Redis."""
    git_dir = None
    with contextlib.suppress(RepositoryError):
        git_dir = home_of(run, None) if run.repo else None
    store = None
    if run.transport == transport.PACKS:
        transport.forget_run(config, run.id)
    elif git_dir:
        store = Store.open(config.data_dir, run.project, Path(run.repo))
    collecting.forget_run(store, git_dir, run.id)
    if git_dir:
        Journal(git_dir, run.id).remove()
    if store:
        collecting.prune(store)
    shutil.rmtree(config.data_dir / "runs" / run.id, ignore_errors=True)
