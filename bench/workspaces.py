"""A workspace ready to work in, in a generated repository, beside a plain `git worktree add`.

The files are about 1 KB each, fifty to a directory; both check the same commit out, in turns. Reported
without a target: the cost is the file system's, per file.
"""

from __future__ import annotations

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
            top = Path(name)
            repo = top / "repo"
            commit = make_repository(repo, size)
            store = Store.open(top / "home", commit, repo / ".git" / "objects")
            clones, worktrees = [], []
            for i in range(ROUNDS):
                place = top / f"clone-{i}"
                clones.append(_timed(lambda at=place: clone.prepare(store, commit, at)))  # type: ignore[misc]
                clone.remove_tree(place)
                place = top / f"worktree-{i}"
                worktrees.append(
                    _timed(
                        lambda at=place: git(repo, "worktree", "add", "--quiet", "--detach", str(at), commit)
                    )  # type: ignore[misc]
                )
                shutil.rmtree(place)
        yield Figure(
            f"workspace ready, {size:,} files", median(clones), "s", note=spread(clones), samples=clones
        )
        yield Figure("  git worktree add", median(worktrees), "s", note=spread(worktrees), samples=worktrees)


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
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
