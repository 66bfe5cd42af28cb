"""What an attempt left in its workspace, as one commit made by agentflow.

Git runs on the store with an index and an object directory of ours; the workspace's own `.git`, which
the agent could write, is never opened. Ignored files are not committed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentflow.errors import PolicyViolation
from agentflow.workspace.clone import Workspace
from agentflow.workspace.gitcmd import Git, GitError
from agentflow.workspace.objects import build_commit, write_commit
from agentflow.workspace.store import Store

#: What one attempt may write: bytes in all, and files.
WRITTEN_MAX_BYTES = 100 * 1024 * 1024
CHANGED_MAX_FILES = 50_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an attempt made: a commit on `base` in a pack, or nothing (`commit` is empty)."""

    base: str
    commit: str = ""
    pack: Path = Path()
    paths: tuple[str, ...] = ()


def record(store: Store, workspace: Workspace, *, message: str, exclude: Sequence[str] = ()) -> Recorded:
    """Commit all changes of the workspace but those at or below `exclude`, and pack them.

    Equal content, base and message give the equal commit: its date is its base's plus one second. Raises
    `PolicyViolation` when too much was written or the workspace is gone, for a repository inside of it,
    and for files that cannot be read.
    """
    if workspace.root.is_symlink() or not workspace.root.is_dir():
        raise PolicyViolation(
            "the workspace itself was deleted or replaced",
            fix="keep what the task does not name",
            code="AF-POLICY-008",
        )
    git = Git(store.git_dir, work_tree=workspace.root, index=workspace.index, objects=workspace.objects)
    paths = _changed(git, exclude)
    if not paths:
        return Recorded(workspace.base)
    _check_amount(workspace.root, paths)
    _add(git, paths)
    tree = git.out("write-tree")
    base = store.commit(workspace.base)
    if tree == base.tree:
        return Recorded(workspace.base)
    oid, data = build_commit(tree, [workspace.base], base.date + 1, message)
    write_commit(workspace.objects, oid, data)
    pack = workspace.state / "work.pack"
    with pack.open("wb") as target:
        wanted = f"{oid}\n^{workspace.base}\n".encode()
        options = ("--revs", "--stdout", "-q", "--delta-base-offset", "--threads=1")
        git.call("pack-objects", *options, data=wanted, target=target)
    return Recorded(workspace.base, oid, pack, tuple(paths))


def _changed(git: Git, exclude: Sequence[str]) -> list[str]:
    """Paths that were written, made or removed, in order, without duplicates."""
    listed = git.out("ls-files", "-z", "-m", "-o", "--exclude-standard")
    names = dict.fromkeys(name for name in listed.split("\0") if name)
    kept = [name for name in names if not _is_below(name, exclude)]
    nested = [name for name in kept if name.endswith("/")]
    if nested:
        raise PolicyViolation(
            f"there is a git repository inside the workspace: {', '.join(nested[:5])}",
            why="a nested repository would become a submodule",
            fix="remove its .git directory",
            code="AF-POLICY-003",
        )
    return sorted(kept)


def _is_below(name: str, places: Sequence[str]) -> bool:
    plain = name.rstrip("/")
    return any(plain == place or plain.startswith(f"{place}/") for place in places)


def _check_amount(root: Path, paths: Sequence[str]) -> None:
    """Refuse what is too much before it is read."""
    if len(paths) > CHANGED_MAX_FILES:
        raise PolicyViolation(
            f"{len(paths)} files were changed; at most {CHANGED_MAX_FILES} are taken",
            fix="keep generated files out of the repository (.gitignore), or split the task",
            code="AF-POLICY-006",
        )
    total = 0
    for path in paths:
        try:
            found = os.lstat(root / path)
        except OSError:
            continue
        total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    if total > WRITTEN_MAX_BYTES:
        raise PolicyViolation(
            f"{total // 2**20} MiB were written; at most {WRITTEN_MAX_BYTES // 2**20} MiB are taken",
            fix="keep large and generated files out of the repository (.gitignore)",
            code="AF-POLICY-005",
        )


def _add(git: Git, paths: Sequence[str]) -> None:
    """Bring the index up to the workspace for these paths."""
    data = "".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape")
    try:
        git.call("update-index", "--add", "--remove", "--replace", "-z", "--stdin", data=data)
    except GitError as error:
        if "No space left" in error.stderr:
            raise
        raise PolicyViolation(
            "some of what was written cannot be committed",
            why=error.stderr[-1000:],
            fix="write plain, readable files",
            code="AF-POLICY-004",
        ) from error
