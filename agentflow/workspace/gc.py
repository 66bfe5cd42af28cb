"""Removing what ended runs left: refs in the store and in the user's repository, then objects."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from agentflow.workspace.gitcmd import Git, GitError, ref_part
from agentflow.workspace.store import Store, try_locked

#: Age below which unreferenced objects are kept: an attempt may be about to name them.
KEEP_OBJECTS = "2.days.ago"


def forget_run(store: Store | None, user_git_dir: Path | None, run: str) -> None:
    """Remove the refs of one run. Landed branches stay. Harmless when there are none."""
    part = ref_part(run)
    if store is not None:
        store.drop_refs(f"refs/agentflow/{run}")
    if user_git_dir is not None:
        user = Git(user_git_dir)
        _delete(user, [f"refs/agentflow/base/{part}", f"refs/agentflow/runs/{part}"])


def release_base(user_git_dir: Path, run: str) -> None:
    """Let go of the base of a run that needs nothing further; what it published stays."""
    _delete(Git(user_git_dir), [f"refs/agentflow/base/{ref_part(run)}"])


def keep_only(user_git_dir: Path, run: str, kept: Collection[str]) -> None:
    """Remove what a run has published but for the refs in `kept` (full names)."""
    user = Git(user_git_dir)
    ours = f"refs/agentflow/runs/{ref_part(run)}"
    names = user.out("for-each-ref", "--format=%(refname)", ours).splitlines()
    _delete(user, [name for name in names if name not in kept])


def _delete(user: Git, prefixes: Collection[str]) -> None:
    if not prefixes:  # git would list every ref there is
        return
    names = user.out("for-each-ref", "--format=%(refname)", *prefixes).split("\n")
    lines = "".join(f"delete {name}\n" for name in names if name)
    if lines:
        user.call("update-ref", "--stdin", data=lines.encode())


def prune(store: Store) -> bool:
    """Drop objects that no ref reaches, older than `KEEP_OBJECTS`; False when somebody else is at it."""
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(try_locked(store.git_dir / "tidy.lock")):
            return False
        with contextlib.suppress(GitError):  # it is only for space; next time
            store.git.call("gc", "--quiet", f"--prune={KEEP_OBJECTS}")
    return True
