"""Objects on their way: a submitter with a repository, machines with a data directory each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from helpers.repos import commit_all, git
from helpers.stores import Bench, write

from agentflow import transport
from agentflow.config import Config, load_config
from agentflow.states import RunState
from agentflow.store.records import RunRecord
from agentflow.transport import Depot
from agentflow.workspace import clone, inspect


@dataclasses.dataclass
class Submitter:
    """A repository with a little history, and what a run of it says."""

    repo: Path
    config: Config

    @property
    def git_dir(self) -> Path:
        """Of the repository."""
        return self.repo / ".git"

    def head(self) -> str:
        """The commit that is checked out."""
        return git(self.repo, "rev-parse", "HEAD")

    def change(self, files: dict[str, str], message: str = "more") -> str:
        """One more commit."""
        write(self.repo, files)
        return commit_all(self.repo, message)

    def run(self, base: str = "", run_id: str = "run-1") -> RunRecord:
        """A run whose base is published."""
        facts = inspect.check_repository(self.repo, base or "HEAD", "agentflow/x")
        transport.publish_base(self.config, facts.project, facts.base, facts.git_dir)
        return RunRecord(
            run_id, RunState.OPEN, "f", facts.project, "elsewhere", "elsewhere", facts.base, "agentflow/x", 0,
            transport="packs",
        )  # fmt: skip


def machine(place: Path, name: str, url: str, **more: object) -> Config:
    """A configuration with a data directory of its own."""
    flags = {"data_dir": place / name, "redis.url": url} | more
    return load_config(None, flags, environ={"HOME": str(place)})


def checked_out(depot: Depot, commit: str, place: Path) -> Path:
    """A workspace at a commit that is brought first."""
    depot.bring([commit])
    return clone.prepare(depot.store, commit, place).root


def work(depot: Depot, base: str, files: dict[str, str], place: Path) -> str:
    """What an attempt on this machine comes to, shared with the others."""
    depot.bring([base])
    bench = Bench(place, place, depot.store, base)
    made = bench.commit(files, base=base, message="work")
    depot.share(made, [base])
    return made
