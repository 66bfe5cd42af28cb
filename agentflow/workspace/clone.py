"""A workspace: a clone of its own for one attempt, at exactly one commit, with borrowed objects.

The clone is written by us, not by `git clone`: a few small files and one `git read-tree` that checks
the tree out. Its `.git` is for the agent to look at and to break; agentflow never runs git on it. What
agentflow needs later (the index with the file times of the checkout) lies beside the workspace.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentflow.errors import InfraError
from agentflow.workspace.gitcmd import Git
from agentflow.workspace.store import Store

_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = false
[gc]
\tauto = 0
[user]
\tname = agentflow
\temail = agentflow@localhost
"""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where one attempt works. `state` is beside it and holds our own index and quarantine."""

    root: Path
    base: str
    state: Path

    @property
    def index(self) -> Path:
        """Our index: which file had which content and times at the checkout."""
        return self.state / "index"

    @property
    def objects(self) -> Path:
        """Where the attempt's new objects are until they are taken in."""
        return self.state / "objects"

    def discard(self) -> None:
        """Remove the workspace and what is beside it."""
        remove_tree(self.root)
        remove_tree(self.state)


def prepare(store: Store, base_commit: str, dest: Path) -> Workspace:
    """Check `base_commit` out into the new directory `dest`, as a clone with a detached HEAD.

    No size is checked here: a tree in the store is the user's own, or has passed `ingest`, or is a merge
    of such. Raises `InfraError` when `dest` is not empty or the commit is missing.
    """
    dest = dest.absolute()
    workspace = Workspace(dest, base_commit, dest.with_name(f".{dest.name}.agentflow"))
    store.commit(base_commit)
    dest.mkdir(parents=True, exist_ok=True)
    if any(dest.iterdir()):
        raise InfraError(f"{dest} is not empty", fix="remove it: a workspace starts from nothing")
    remove_tree(workspace.state)
    (workspace.objects / "pack").mkdir(parents=True)
    git = Git(store.git_dir, work_tree=dest, index=workspace.index)
    git.call("read-tree", "--reset", "-u", base_commit)
    _write_git_dir(dest / ".git", store, workspace)
    return workspace


def _write_git_dir(git_dir: Path, store: Store, workspace: Workspace) -> None:
    """What makes the directory a repository for the agent: history to read, no remote, no hooks."""
    for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (git_dir / part).mkdir(parents=True)
    (git_dir / "config").write_text(_CONFIG)
    (git_dir / "objects" / "info" / "alternates").write_text(f"{store.objects}\n")
    (git_dir / "HEAD").write_text(f"{workspace.base}\n")
    shutil.copy2(workspace.index, git_dir / "index")
    if (store.git_dir / "shallow").exists():  # the agent's `git log` ends where the store's history does
        shutil.copy2(store.git_dir / "shallow", git_dir / "shallow")


def hide(root: Path, names: Sequence[str]) -> None:
    """Keep the agent's own `git status` silent about these top paths."""
    lines = "".join(f"/{name}\n" for name in names)
    with (root / ".git" / "info" / "exclude").open("a") as stream:
        stream.write(lines)


def remove_tree(path: Path) -> None:
    """Remove a directory whatever modes an agent gave to what is in it; a missing one is fine."""

    def retry(function: Callable[[str], object], name: str, _error: object) -> None:
        parent = os.path.dirname(name)  # noqa: PTH120  # shutil hands over strings
        try:
            for place in (parent, name):
                if not os.path.islink(place):  # noqa: PTH114  # as above
                    os.chmod(place, stat.S_IRWXU)  # noqa: PTH101  # as above
            function(name)
        except FileNotFoundError:
            return

    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, onerror=retry)
