"""A 100 MB repository on its way through Redis: its first base to a cold worker, the second to a warm one.

Publishing and taking in are both in the figure; files hold random bytes, so that nothing gets smaller on
the way. Reported without a target, beside `git clone` of the same repository by path.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from agentflow import transport
from agentflow.config import Config, load_config
from agentflow.states import RunState
from agentflow.store.records import RunRecord
from agentflow.workspace import inspect
from bench.figures import Figure
from bench.stage import stage
from bench.workspaces import git

FILES = 5_000
FILE_BYTES = 20_000
CHANGED = 10


def measure() -> Iterator[Figure]:
    """First and second base, and a plain clone."""
    with stage() as found:
        top = found.directory
        repo = _make(top / "repo")
        ann, worker = (_machine(top / name, found.env["AGENTFLOW_REDIS_URL"]) for name in ("ann", "worker"))
        began = time.perf_counter()
        git(top, "clone", "--quiet", "--no-local", "--depth=1", f"file://{repo}", str(top / "clone"))
        plain = time.perf_counter() - began
        published, taken = _travel(ann, worker, repo, "run-1")
        note = f"published {published:.2f}, taken in {taken:.2f}; {FILES:,} files"
        yield Figure("100 MB base, Redis -> cold worker", published + taken, "s", note=note)
        yield Figure("  git clone --depth=1 of it by path", plain, "s")
        _change(repo)
        published, taken = _travel(ann, worker, repo, "run-2")
        note = f"published {published:.2f}, taken in {taken:.2f}; {CHANGED} files changed"
        yield Figure("second base, Redis -> warm worker", published + taken, "s", note=note)


def _machine(place: Path, url: str) -> Config:
    flags = {"data_dir": place, "redis.url": url}
    return load_config(None, flags, environ={"HOME": str(place)})


def _travel(ann: Config, worker: Config, repo: Path, run_id: str) -> tuple[float, float]:
    """Seconds to publish the repository's HEAD and to have it in a worker's store."""
    facts = inspect.check_repository(repo, "HEAD", "agentflow/bench")
    began = time.perf_counter()
    transport.publish_base(ann, facts.project, facts.base, facts.git_dir)
    published = time.perf_counter() - began
    run = RunRecord(
        run_id, RunState.OPEN, "bench", facts.project, "x", "x", facts.base, "agentflow/bench", 0,
        transport=transport.PACKS,
    )  # fmt: skip
    began = time.perf_counter()
    depot = transport.open_depot(worker, run)
    depot.bring([facts.base])
    return published, time.perf_counter() - began


def _make(repo: Path) -> Path:
    draw = random.Random(1)
    git(repo.parent, "init", "--quiet", "--initial-branch=main", str(repo))
    for number in range(FILES):
        path = repo / f"d{number // 50}" / f"f{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(draw.randbytes(FILE_BYTES))
    _commit(repo)
    return repo


def _change(repo: Path) -> None:
    draw = random.Random(2)
    for number in range(CHANGED):
        (repo / "d0" / f"f{number}.bin").write_bytes(draw.randbytes(FILE_BYTES))
    _commit(repo)


def _commit(repo: Path) -> None:
    git(repo, "add", "--all")
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    git(repo, *who, "commit", "--quiet", "--message=bench")
