"""Reading and making git objects: one `cat-file` process for many, commits built in this process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agentflow.errors import InfraError, PolicyViolation
from agentflow.workspace.gitcmd import IDENTITY, Git

#: Bytes of a commit message that are kept.
MESSAGE_CAP_BYTES = 10_000
#: Requests sent to `cat-file` before its answers are read: both fit into a pipe's 64 KB.
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Info:
    """Kind (`commit`, `tree`, `blob`, or empty when it is missing) and size in bytes of an object."""

    kind: str
    size: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What agentflow needs of a commit. `date` is seconds since the epoch."""

    tree: str
    parents: tuple[str, ...]
    date: int
    author: str
    message: str


class Reader:
    """Objects of one repository through one `git cat-file --batch-command`. Not for several threads."""

    def __init__(self, git: Git) -> None:
        self._process = subprocess.Popen(
            git.argv("cat-file", "--batch-command"),
            env=git.env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def infos(self, oids: Sequence[str]) -> list[Info]:
        """Kind and size of each object, in order; a missing one has an empty kind."""
        found: list[Info] = []
        for start in range(0, len(oids), _BATCH):
            batch = oids[start : start + _BATCH]
            self._send("".join(f"info {oid}\n" for oid in batch))
            found += [self._header() for _ in batch]
        return found

    def content(self, oid: str, kind: str, *, cap: int = 0) -> bytes:
        """An object's bytes. Raises `InfraError` when it is missing or of another kind, and
        `PolicyViolation` when it is larger than `cap` bytes (0: no cap); the reader is of no use then.
        """
        self._send(f"contents {oid}\n")
        header = self._header()
        if cap and header.size > cap:
            raise PolicyViolation(
                f"a {header.kind} of {header.size} bytes is larger than {cap}", code="AF-POLICY-005"
            )
        data = self._exactly(header.size + 1)[:-1] if header.kind else b""
        if header.kind != kind:
            raise InfraError(
                f"object {oid} is {header.kind or 'missing'}, not a {kind}",
                why="it was removed from the repository, or the repository is damaged",
                fix="run `git fsck` in the repository; run the feature again",
            )
        return data

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None  # noqa: S101  # started with a pipe
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise InfraError("git cat-file ended early", fix="run `git fsck` in the repository") from error

    def _header(self) -> Info:
        assert self._process.stdout is not None  # noqa: S101  # started with a pipe
        words = self._process.stdout.readline().split()
        if len(words) == 3:  # noqa: PLR2004  # oid, kind, size
            return Info(words[1].decode(), int(words[2]))
        if not words:
            raise InfraError("git cat-file ended early", fix="run `git fsck` in the repository")
        return Info("", 0)

    def _exactly(self, size: int) -> bytes:
        assert self._process.stdout is not None  # noqa: S101  # started with a pipe
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise InfraError("git cat-file ended early", fix="run `git fsck` in the repository")
        return data


def parse_commit(data: bytes) -> Commit:
    """A commit object's bytes as a `Commit`."""
    head, _, message = data.decode("utf-8", "surrogateescape").partition("\n\n")
    tree, author, date, parents = "", "", 0, []
    for line in head.split("\n"):
        word, _, rest = line.partition(" ")
        if word == "tree":
            tree = rest
        elif word == "parent":
            parents.append(rest)
        elif word == "author":
            author = rest.rpartition(">")[0] + ">"
        elif word == "committer":
            date = int(rest.rpartition(">")[2].split()[0])
    return Commit(tree, tuple(parents), date, author, message)


def build_commit(tree: str, parents: Iterable[str], date: int, message: str) -> tuple[str, bytes]:
    """Id and bytes of a commit by agentflow. Equal arguments give the equal commit, on every machine."""
    who = f"{IDENTITY} {date} +0000"
    lines = [f"tree {tree}", *(f"parent {p}" for p in parents), f"author {who}", f"committer {who}"]
    data = "\n".join([*lines, "", clean_message(message), ""]).encode()
    return hashlib.sha1(b"commit %d\0" % len(data) + data, usedforsecurity=False).hexdigest(), data


def clean_message(message: str) -> str:
    """A message without control characters and no longer than the cap (ATTACKS D19)."""
    kept = "".join(c if c == "\n" or (c.isprintable()) else " " for c in message)
    return kept.encode("utf-8", "replace")[:MESSAGE_CAP_BYTES].decode("utf-8", "ignore").strip()


def write_commit(objects: Path, oid: str, data: bytes) -> None:
    """Put a commit into an object directory as a loose object; harmless when it is there already."""
    path = objects / oid[:2] / oid[2:]
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    body = zlib.compress(b"commit %d\0" % len(data) + data, 1)
    handle, name = tempfile.mkstemp(prefix="tmp_obj_", dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(body)
    os.chmod(name, 0o444)  # noqa: PTH101  # as git does
    os.replace(name, path)  # noqa: PTH105  # atomic: a reader sees all of it or nothing


class CommitCache:
    """Commits read lately in this process; commits never change, so nothing is ever stale."""

    #: Commits kept.
    MAX = 4096

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], Commit] = {}
        self._lock = threading.Lock()

    def get(self, git: Git, oid: str) -> Commit:
        """The commit `oid`. Raises `InfraError` when the repository has no such commit."""
        key = (git.git_dir, oid)
        known = self._known.get(key)
        if known is None:
            with Reader(git) as reader:
                known = parse_commit(reader.content(oid, "commit"))
            self.put(git, oid, known)
        return known

    def put(self, git: Git, oid: str, commit: Commit) -> None:
        """Remember a commit that was just made."""
        with self._lock:
            self._known[(git.git_dir, oid)] = commit
            while len(self._known) > self.MAX:
                self._known.pop(next(iter(self._known)))


#: Of this process.
COMMITS = CommitCache()
