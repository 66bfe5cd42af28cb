"""The one way in which agentflow runs git: plumbing, a named repository, nothing of anybody's settings.

A repository that an agent can write is a program: hooks, filters, fsmonitor, includes and aliases run
code in whoever calls git there. So every call names a gitdir of ours (`--git-dir`, no discovery), reads
no user or system configuration, and switches off what a repository's own configuration may start.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agentflow.errors import InfraError, RepositoryError

#: `git merge-tree --write-tree` came with it.
MIN_VERSION = (2, 38)
#: Seconds after which a plumbing command is given up (a dead network file system).
TIMEOUT_S = 600.0
#: Whose name stands on agentflow's commits.
IDENTITY = "agentflow <agentflow@localhost>"

_OID = re.compile(r"[0-9a-f]{40}")
# Stricter than git: no shell metacharacters, no leading dash, no `@{`, no `..`, no component ending in .lock.
_BRANCH = re.compile(r"(?!.*(\.\.|//|/\.|\.lock(/|$)|\.(/|$)))[A-Za-z0-9_][A-Za-z0-9_./+-]{0,199}(?<!/)")
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.excludesFile": os.devnull,
    "core.attributesFile": os.devnull,
    "core.untrackedCache": "false",
    "core.quotePath": "false",
    "core.compression": "1",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "commit.gpgSign": "false",
    "safe.bareRepository": "explicit",
    "protocol.allow": "never",
    "submodule.recurse": "false",
    "diff.external": "",
    "advice.detachedHead": "false",
}
_OPTIONS = tuple(part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}"))


class GitError(InfraError):
    """A git command failed; `stderr` is what it said."""

    code = "AF-GIT"

    def __init__(self, args: tuple[str, ...], returncode: int, stderr: str) -> None:
        self.stderr = stderr.strip()
        super().__init__(
            f"git {' '.join(args[:2])} ended with status {returncode}",
            why=self.stderr[-2000:],
            fix="see that the disk is not full and that the repository is whole (git fsck)",
        )


@functools.cache
def base_env() -> dict[str, str]:
    """The environment of every git command; also for those that read the user's own configuration."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return env | {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
    }


@functools.cache
def _hardened_env() -> dict[str, str]:
    name, _, mail = IDENTITY.rstrip(">").partition(" <")
    who = {
        f"GIT_{role}_{what}": text
        for role in ("AUTHOR", "COMMITTER")
        for what, text in (("NAME", name), ("EMAIL", mail))
    }
    return {
        **base_env(),
        **who,
        "HOME": "/nonexistent",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "file",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_LITERAL_PATHSPECS": "1",
    }


@dataclass(frozen=True, slots=True)
class Git:
    """Git on one repository.

    With `objects`, new objects are written there (a quarantine) and those of the repository are read.
    `work_tree` and `index` are named explicitly where a command needs them.
    """

    git_dir: Path
    work_tree: Path | None = None
    index: Path | None = None
    objects: Path | None = None

    def argv(self, *args: str) -> list[str]:
        """The command line."""
        tree = ("--work-tree", str(self.work_tree)) if self.work_tree else ()
        return ["git", "--git-dir", str(self.git_dir), *tree, *_OPTIONS, *args]

    def env(self) -> dict[str, str]:
        """The whole environment."""
        env = dict(_hardened_env())
        if self.index:
            env["GIT_INDEX_FILE"] = str(self.index)
        if self.objects:
            env["GIT_OBJECT_DIRECTORY"] = str(self.objects)
            env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = _alternate(self.git_dir / "objects")
        return env

    def call(
        self,
        *args: str,
        data: bytes = b"",
        source: BinaryIO | None = None,
        target: BinaryIO | None = None,
        ok: Collection[int] = (0,),
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command; stdin is `data`, or the file `source`; stdout goes to `target` if given.

        Raises `GitError` when the status is not in `ok`.
        """
        done = _run(
            self.argv(*args), env=self.env(), cwd=self.work_tree, data=data, source=source, target=target
        )
        if done.returncode not in ok:
            raise GitError(args, done.returncode, done.stderr.decode("utf-8", "replace"))
        return done

    def out(self, *args: str, data: bytes = b"", ok: Collection[int] = (0,)) -> str:
        """Standard output as text, without the last newline; names that are not UTF-8 survive."""
        return self.call(*args, data=data, ok=ok).stdout.decode("utf-8", "surrogateescape").rstrip("\n")


def _alternate(path: Path) -> str:
    text = str(path)
    if ":" not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _run(
    argv: list[str],
    *,
    env: dict[str, str],
    cwd: Path | None,
    data: bytes = b"",
    source: BinaryIO | None = None,
    target: BinaryIO | None = None,
) -> subprocess.CompletedProcess[bytes]:
    stdin: dict[str, object] = (
        {"stdin": source} if source else {"input": data} if data else {"stdin": subprocess.DEVNULL}
    )
    try:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]  # stdin or input, never both
            argv,
            env=env,
            cwd=cwd,
            stdout=target or subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
            **stdin,
        )
    except FileNotFoundError as error:
        raise InfraError("git cannot be started", why=str(error), fix="install git 2.38 or newer") from error
    except subprocess.TimeoutExpired as error:
        raise InfraError(
            f"git did not answer within {TIMEOUT_S:g} s",
            why=" ".join(argv[-4:]),
            fix="see whether the disk answers",
        ) from error


@functools.cache
def require_version() -> tuple[int, int]:
    """The version of git, once per process. Raises `RepositoryError` when it is too old."""
    done = _run(["git", "version"], env=base_env(), cwd=None)
    text = done.stdout.decode("utf-8", "replace").strip()
    found = re.search(r"(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < MIN_VERSION:
        raise RepositoryError(
            f"git is too old: {text!r}",
            why="agentflow merges with `git merge-tree --write-tree`",
            fix=f"install git {MIN_VERSION[0]}.{MIN_VERSION[1]} or newer",
            code="AF-REPO-GIT",
        )
    return version


def check_oid(text: str) -> str:
    """A full commit id as it is. Raises `InfraError` for anything else: ids never come from agents' words."""
    if not _OID.fullmatch(text):
        raise InfraError(f"{text!r} is not a full commit id", fix="report this; it is a defect of agentflow")
    return text


def is_branch_name(name: str) -> bool:
    """Whether agentflow takes this branch name (stricter than git)."""
    return _BRANCH.fullmatch(name) is not None and name not in {"HEAD", "FETCH_HEAD", "ORIG_HEAD"}


def ref_part(name: str) -> str:
    """A node's id, or a branch, as one component of a ref: no `/`, `..`, leading or last dot, no `.lock`."""
    safe = name.replace("%", "%25").replace("/", "%2f")
    if ".." in safe or safe.startswith(".") or safe.endswith((".", ".lock")):
        safe = safe.replace(".", "%2e")
    return safe
