"""Artifact patterns: what they match, and the path that they lock, in which mode.

A pattern is a file (`src/app.py`), a whole directory (`src/**`), files of one directory
(`docs/*.md`) or everything (`**`). What may be written as one is checked in `fields.py`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from agentflow.fields import SharedArtifact

#: What a node does with an artifact. Any number may read one, or append to one, at the same time.
Mode = Literal["write", "read", "append"]
MODES: tuple[Mode, ...] = ("write", "read", "append")


class Lock(NamedTuple):
    """A path ('' is the whole tree) and how it is locked; it covers all that lies below the path."""

    path: str
    mode: Mode = "write"

    @property
    def text(self) -> str:
        """As the ledger keeps it (store/lua/locks.lua): `w:src/app.py`."""
        return f"{self.mode[0]}:{self.path}"

    @classmethod
    def of(cls, text: str) -> Lock:
        """The lock that a text of the ledger means."""
        mode = next(mode for mode in MODES if mode[0] == text[0])
        return cls(text[2:], mode)

    def covers(self, path: str) -> bool:
        """Whether a path is the locked one or lies below it."""
        return self.path in ("", path) or path.startswith(f"{self.path}/")

    def suffices_for(self, other: Lock) -> bool:
        """Whether nobody who holds this one needs the other one."""
        return self.mode in ("write", other.mode) and self.covers(other.path)

    def clashes_with(self, other: Lock) -> bool:
        """Whether two nodes cannot hold them at the same time."""
        share = self.mode == other.mode != "write"
        return not share and (self.covers(other.path) or other.covers(self.path))


def path_of(artifact: str | SharedArtifact) -> str:
    """The pattern of an artifact."""
    return artifact if isinstance(artifact, str) else artifact.path


def mode_of(artifact: str | SharedArtifact) -> Mode:
    """What a node does with an artifact; a pattern alone is written."""
    return "write" if isinstance(artifact, str) else artifact.mode


def of_mode(artifacts: Iterable[str | SharedArtifact], *modes: Mode) -> tuple[str, ...]:
    """The patterns of the artifacts that are used so."""
    return tuple(path_of(artifact) for artifact in artifacts if mode_of(artifact) in modes)


def locks_of(artifacts: Iterable[str | SharedArtifact]) -> tuple[Lock, ...]:
    """What these artifacts lock, each once."""
    return needed_locks(Lock(lock_path(path_of(a)), mode_of(a)) for a in artifacts)


def needed_locks(locks: Iterable[Lock]) -> tuple[Lock, ...]:
    """The locks without those that another of them suffices for, in order."""
    distinct = sorted(set(locks))
    return tuple(lock for lock in distinct if not any(o != lock and o.suffices_for(lock) for o in distinct))


def lock_path(pattern: str) -> str:
    """The path that a pattern locks: the file itself, or the directory; empty for everything."""
    parent, _, last = pattern.rpartition("/")
    return parent if "*" in last else pattern


def matches(pattern: str, path: str) -> bool:
    """Whether a path of the repository is one that the pattern allows to write."""
    if pattern == "**":
        return True
    parent, _, last = pattern.rpartition("/")
    if last == "**":
        return path.startswith(f"{parent}/")
    if "*" not in last:
        return path == pattern
    path_parent, _, path_last = path.rpartition("/")
    return path_parent == parent and fnmatchcase(path_last, last)


def twin_key(path: str) -> str:
    """Equal for paths that are one file where case or Unicode form does not count (macOS, Windows)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
