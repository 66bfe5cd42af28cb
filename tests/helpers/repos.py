"""Repositories for tests, and what may not have changed in them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_IDENTITY = {
    "GIT_AUTHOR_NAME": "somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.org",
    "GIT_COMMITTER_NAME": "somebody",
    "GIT_COMMITTER_EMAIL": "somebody@example.org",
    "GIT_AUTHOR_DATE": "2026-01-02T03:04:05+00:00",
    "GIT_COMMITTER_DATE": "2026-01-02T03:04:05+00:00",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(directory: Path, *args: str, env: Mapping[str, str] | None = None) -> str:
    """Run git as a user would; returns what it printed, raises AssertionError with what it complained of."""
    done = subprocess.run(
        ["git", *args],
        cwd=directory,
        env={**os.environ, **_IDENTITY, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
    assert done.returncode == 0, f"git {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


def init(directory: Path, *options: str) -> Path:
    """An empty repository on branch main."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "--quiet", "--initial-branch=main", *options)
    return directory


def commit_all(directory: Path, message: str = "work") -> str:
    """Commit everything that is there, ignored or not; returns the commit."""
    git(directory, "add", "--all", "--force")
    git(directory, "commit", "--quiet", "--message", message)
    return git(directory, "rev-parse", "HEAD")


def make_repo(directory: Path, files: Mapping[str, str]) -> Path:
    """A repository with one commit that holds these files."""
    init(directory)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    commit_all(directory, "first")
    return directory


@dataclass(frozen=True, slots=True)
class Untouched:
    """What a run may not change in its user's repository, as it was at one moment."""

    head: str
    branches: str
    status: str
    config: str
    index: bytes
    hooks: tuple[str, ...]


def untouched(repo: Path, *, target: str = "") -> Untouched:
    """Take the picture; the branch `target` is left out. Compare two of them."""
    listed = git(repo, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags")
    lines = [line for line in listed.splitlines() if line.split()[0] != f"refs/heads/{target}"]
    head = (repo / ".git" / "HEAD").read_text().strip()
    config = (repo / ".git" / "config").read_text()
    hooks = tuple(sorted(path.name for path in (repo / ".git" / "hooks").glob("*")))
    index = (repo / ".git" / "index").read_bytes()
    status = git(repo, "--no-optional-locks", "status", "--porcelain", "--ignored")
    return Untouched(head, "\n".join(lines), status, config, index, hooks)
