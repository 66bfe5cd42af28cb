"""What has failed, over all runs: why, after how many attempts, and how it is done again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.runs import steering
from agentflow.runs.following import open_ledger
from agentflow.states import NodeState, RunState
from agentflow.store.records import INTEGRATE, NodeRecord, RunRecord

#: How the codes of nodes begin that the ledger gave up itself (`store/lua/caps.lua`).
QUARANTINE = "AF-POISON"


@dataclass(frozen=True, slots=True)
class Failure:
    """A node that has failed. `failures`: red attempts; `losses`: its worker died; `conflicts`: its work did
    not merge; `troubles`: Redis, git or the disk. `log`: of its last attempt, '' when that is elsewhere.
    """

    run: str
    run_state: str
    node: str
    role: str
    code: str
    reason: str
    fix: str
    attempts: int
    failures: int
    losses: int
    conflicts: int
    troubles: int
    ended_ms: int
    log: str = ""

    @property
    def quarantined(self) -> bool:
        """Whether the ledger gave it up: it may take down or block whatever runs it."""
        return self.code.startswith(QUARANTINE)

    @property
    def again(self) -> str:
        """The command that does it again; '' when its run has landed."""
        return "" if self.run_state == RunState.LANDED else f"agentflow retry {self.run} {self.node}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"quarantined": self.quarantined, "again": self.again}


def failures(config: Config, run_id: str | None = None) -> list[Failure]:
    """Failed nodes of a run, or of every run that the ledger knows, the newest first."""
    ledger = open_ledger(config)
    chosen = [ledger.run(run_id)] if run_id else ledger.runs()
    found = [_failure(config, run, node) for run in chosen for node in _failed(ledger.nodes(run.id).values())]
    return sorted(found, key=lambda f: -f.ended_ms)


def _failed(nodes: Iterable[NodeRecord]) -> Iterator[NodeRecord]:
    return (n for n in nodes if n.state is NodeState.FAILED and n.id != INTEGRATE)


def _failure(config: Config, run: RunRecord, node: NodeRecord) -> Failure:
    log = config.data_dir / "runs" / run.id / "logs" / f"{node.id}.{node.attempt}.log"
    return Failure(
        run=run.id,
        run_state=run.state.value,
        node=node.id,
        role=node.role,
        code=node.code,
        reason=node.reason,
        fix=node.fix,
        attempts=node.attempt,
        failures=node.failures,
        losses=node.losses,
        conflicts=node.conflicts,
        troubles=node.troubles,
        ended_ms=node.ended_ms,
        log=str(log) if log.is_file() else "",
    )


def run_of(config: Config, node: str) -> str:
    """The run that a node's name alone means: the newest in which it has failed. Raises `UsageError`."""
    for failure in failures(config):
        if failure.node == node:
            return failure.run
    raise UsageError(
        f"no node {node!r} has failed in any run that is known here",
        fix="`agentflow failures` lists them",
        code="AF-RUN-005",
    )


def retry(config: Config, run_id: str, node: str, *, repo: Path | None = None) -> RunState:
    """Do one failed node again, with what was skipped for it; all else of the run stays as it is."""
    return steering.retry(run_id, node, config=config, repo=repo)
