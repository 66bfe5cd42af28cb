"""What runs leave on a machine that has done its part: which ledger they belong to, and removing it.

A worker tidies up by itself: nobody types `agentflow gc` on its machine.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from agentflow.places import masked
from agentflow.workspace import clone
from agentflow.workspace.store import locked, write_atomically

#: Seconds after which the objects of a closed run are removed from a worker's machine.
TIDY_AFTER_S = 24 * 3600.0
_LEDGER = "ledger"


def sign(folder: Path, url: str) -> None:
    """Note in a run's directory which Redis its ledger is on: one data directory may serve several."""
    if not (folder / _LEDGER).exists():
        write_atomically(folder / _LEDGER, f"{masked(url)}\n")


def is_foreign(folder: Path, url: str) -> bool:
    """Whether a run's directory belongs to a ledger on another Redis."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / _LEDGER).read_text().strip() != masked(url)
    return False


def tidy(data_dir: Path, url: str, open_runs: Collection[str], older_than_s: float) -> list[str]:
    """Remove stores and workspaces of runs that are not open and were not used for that long, and what
    killed processes left in the pools. Returns the ids of the runs.
    """
    before = time.time() - older_than_s
    closed = (
        folder
        for folder in sorted((data_dir / "runs").glob("*/"))
        if folder.name not in open_runs and not is_foreign(folder, url)
    )
    gone = [folder.name for folder in closed if _forget(folder, before)]
    for pool in (data_dir / "pools").glob("*.git"):
        for path in [*pool.glob("parcel-*"), *pool.glob("quarantine/*")]:
            if _is_older(path, before):
                shutil.rmtree(path, ignore_errors=True)
    return gone


def sweep(data_dir: Path, url: str, open_runs: Callable[[], Collection[str]]) -> list[str]:
    """Remove the workspaces of runs that are not open: killed workers left them, and no attempt of such a run
    counts any more. Returns the ids of the runs; `open_runs` is asked when there is anything to look at.
    """
    works = [place for place in (data_dir / "runs").glob("*/work") if not is_foreign(place.parent, url)]
    kept = open_runs() if works else ()
    gone = [place for place in works if place.parent.name not in kept]
    for place in gone:
        clone.remove_tree(place)
    return [place.parent.name for place in gone]


def _forget(folder: Path, before: float) -> bool:
    """A run's store and workspaces; False when it has neither, or they were used lately."""
    found = [path for path in _places(folder) if path.exists()]
    if not found or not all(_is_older(path, before) for path in found):
        return False
    with locked(folder / "store.lock"):
        for path in found:
            # Moved away first: whoever looks sees the whole of it or nothing.
            aside = path.with_name(f"gone-{secrets.token_hex(4)}")
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
    for path in folder.glob("gone-*"):
        clone.remove_tree(path)
    return True


def _places(folder: Path) -> Iterator[Path]:
    yield folder / "store.git"
    yield folder / "work"
    yield from folder.glob("gone-*")


def _is_older(path: Path, before: float) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime <= before
    return False
