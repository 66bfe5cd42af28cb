"""Using the commit of one run in another one of the same project."""

from __future__ import annotations

import contextlib

from agentflow.config import Config
from agentflow.errors import InfraError
from agentflow.store.records import RunRecord
from agentflow.transport import PACKS, Depot, run_packs, take


def borrow(config: Config, run: RunRecord, depot: Depot, commit: str, other: str) -> bool:
    """Bring a commit that the run `other` of the same project has shared; False when it cannot be had.

    What it is built on must be here.
    """
    if depot.store.has(commit):
        return True
    packs = run_packs(config, other)
    record = packs.find(commit) if run.transport == PACKS else None
    if record is None or depot.store.missing(record.needs):
        return False
    with contextlib.suppress(InfraError):
        take(packs, record, depot.store)
    return depot.store.has(commit)
