"""Which repository of this machine is a run's own."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from agentflow import transport as carrying
from agentflow.errors import RepositoryError
from agentflow.store.records import RunRecord
from agentflow.workspace import inspect


class NotHereError(RepositoryError):
    """The repository of a run is on another machine."""

    code = "AF-REPO-021"


def home_of(run: RunRecord, repo: Path | None) -> Path:
    """The git directory that a run lands in: `repo` when it is a clone for a distributed run, else where
    it was submitted. Raises `RepositoryError` when neither is here.
    """
    if run.transport == carrying.PACKS and repo is not None:
        found = inspect.clone_with(repo, run.base)
        if found:
            return found
    if run.transport != carrying.PACKS or run.host == socket.gethostname():
        with contextlib.suppress(OSError, RepositoryError):
            # Names of machines are not unique: elsewhere another repository may have that path.
            found = inspect.clone_with(Path(run.root), run.base)
            if found:
                return found
    raise NotHereError(
        f"the repository of run {run.id} is not here",
        why=f"it was submitted from {run.root} on {run.host or 'another machine'}, and "
        f"{repo or Path.cwd()} does not hold its base {run.base[:12]}",
        fix="type this in a clone of that repository (`git fetch` first, if the base is newer than it)",
    )
