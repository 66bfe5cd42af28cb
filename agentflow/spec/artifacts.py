"""Artifact patterns: what they match, and the path that they lock.

A pattern is a file (`src/app.py`), a whole directory (`src/**`), files of one directory
(`docs/*.md`) or everything (`**`). What may be written as one is checked in `fields.py`.
"""

from __future__ import annotations

import unicodedata
from fnmatch import fnmatchcase


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
