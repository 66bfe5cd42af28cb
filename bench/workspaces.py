"""A workspace ready to work in, in a generated repository, beside a plain `git worktree add`.

The files are about 1 KB each, fifty to a directory; both check the same commit out, in turns. Reported
without a target: the cost is the file system's, per file.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentflow.workspace import clone
from agentflow.workspace.store import Store
from bench.figures import Figure, median, spread

SIZES = (5_000, 50_000)
ROUNDS = 3
FILES_A_DIRECTORY = 50


def measure() -> Iterator[Figure]:
    """Both sizes."""
    for size in SIZES:
        with tempfile.TemporaryDirectory(prefix="afb-") as name:
            clones, worktrees = _both(Path(name), size)
        yield Figure(
            f"workspace ready, {size:,} files", median(clones), "s", note=spread(clones), samples=clones
        )
        yield Figure("  git worktree add", median(worktrees), "s", note=spread(worktrees), samples=worktrees)


def _both(top: Path, size: int) -> tuple[list[float], list[float]]:
    repo, place = top / "repo", top / "place"
    commit = make_repository(repo, size)
    store = Store.open(top / "home", commit, repo / ".git" / "objects")
    clones, worktrees = [], []
    for _ in range(ROUNDS):
        clones.append(_timed(lambda: clone.prepare(store, commit, place)))
        shutil.rmtree(place)
        worktrees.append(_timed(lambda: git(repo, "worktree", "add", "--detach", str(place), commit)))
        shutil.rmtree(place)
        git(repo, "worktree", "prune")
    return clones, worktrees


def make_repository(repo: Path, files: int) -> str:
    """A repository with one commit of that many files; its id."""
    draw = random.Random(files)
    git(repo.parent, "init", "--quiet", "--initial-branch=main", str(repo))
    stream = ["commit refs/heads/main\ncommitter bench <bench@localhost> 1700000000 +0000\ndata 0\n"]
    for i in range(files):
        text = "".join(f"{draw.getrandbits(120):030x}\n" for _ in range(32))
        stream.append(f"M 100644 inline d{i // FILES_A_DIRECTORY}/f{i}.txt\ndata {len(text)}\n{text}\n")
    git(repo, "fast-import", "--quiet", text="".join(stream))
    git(repo, "reset", "--quiet", "--hard", "main")
    return git(repo, "rev-parse", "main")


def git(where: Path, *words: str, text: str = "") -> str:
    """Plain git, as a user would run it."""
    done = subprocess.run(["git", *words], cwd=where, input=text, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _timed(work: Callable[[], object]) -> float:
    """Seconds; what was written before is on the disk first, so that no measurement pays for another."""
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
