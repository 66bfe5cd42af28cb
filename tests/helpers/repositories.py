"""Small git repositories for tests, and what must not change in them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from agentflow.workspace import inspect
from agentflow.workspace.store import Store

IDENTITY = {
    "GIT_AUTHOR_NAME": "A User",
    "GIT_AUTHOR_EMAIL": "user@example.com",
    "GIT_COMMITTER_NAME": "A User",
    "GIT_COMMITTER_EMAIL": "user@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


def git(cwd: Path, *args: str, data: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run git as a user does; its output without the last newline."""
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0", *args],
        cwd=cwd,
        env={**os.environ, **IDENTITY, **(env or {})},
        input=data,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write text files below a directory."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_repository(root: Path, files: Mapping[str, str]) -> Path:
    """A repository with one commit on `main`."""
    root.mkdir(parents=True)
    git(root, "init", "-q")
    write(root, files)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def open_store(repository: Path, data_dir: Path) -> tuple[Store, str]:
    """The store of a repository and the commit at its HEAD."""
    facts = inspect.check_repository(repository, "HEAD", "agentflow/x")
    return Store.open(data_dir, facts.project, facts.objects), facts.base


def fingerprint(root: Path) -> dict[str, str]:
    """Every file of a repository but objects and agentflow's own refs: kind, mode, time and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith((".git/objects/", ".git/refs/agentflow")):
            continue
        state = path.lstat()
        body = path.read_bytes() if path.is_file() else b""
        is_file = path.is_file()
        found[name] = f"{state.st_mode:o} {state.st_mtime_ns if is_file else ''} {hashlib.sha256(body).hexdigest()}"
    return found
