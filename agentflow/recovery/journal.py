"""The journal of a run: what is settled, beside the repository, for the day when Redis has lost its data.

A file of lines (`<git directory>/agentflow/journal/RUN.ndjson`), each a JSON object with a checksum, only
ever added to and on the disk (fsync) before the writer goes on. A line is a fact by itself and a later one of
the same kind stands in place of an earlier one. So a line that a crash has torn is passed over: what it said
is done again, nothing else is lost. Several processes may write one journal (two terminals that follow one
run): lines are added under a lock and say the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

#: Version of the lines; another one is not read.
VERSION = 1
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SUM_DIGITS = 16


@dataclass(slots=True)
class Story:
    """What a journal tells of a run. `run` are the ledger's fields of the run, `plan` its plan.

    `nodes` holds, by id, what the ledger had on each node when it was last written down (`fields`, `text`,
    `place` in the settled sequence), oldest settlement first; what was undone since is left out. `torn`
    counts lines that could not be read.
    """

    run: dict[str, str | int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    generation: int = 1
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    closing: dict[str, str] = field(default_factory=dict)
    budget: dict[str, int] = field(default_factory=dict)
    torn: int = 0

    def take(self, entry: Mapping[str, Any]) -> None:
        """Add what one line says; an unknown kind of line says nothing."""
        kind = entry.get("kind")
        if kind == "opened":
            self.run, self.plan = dict(entry["run"]), dict(entry["plan"])
        elif kind == "generation":
            self.generation = max(self.generation, int(entry["generation"]))
            self.closing = {}
        elif kind == "node":
            self.nodes.pop(entry["node"], None)
            self.nodes[entry["node"]] = {name: entry[name] for name in ("fields", "text", "place")}
        elif kind == "undone":
            for node in entry["nodes"]:
                self.nodes.pop(node, None)
            self.closing = {}
        elif kind == "closed":
            self.closing = dict(entry["fields"])
        elif kind == "budget":
            self.budget = dict(entry["fields"])


class Journal:
    """The journal of one run in the repository with this git directory."""

    def __init__(self, git_dir: Path, run: str) -> None:
        self.path = folder_of(git_dir) / f"{run}.ndjson"

    def exists(self) -> bool:
        """Whether anything was ever written down."""
        return self.path.is_file()

    def add(self, *entries: Mapping[str, Any]) -> None:
        """Add lines and return when they are on the disk. Raises `OSError`."""
        if not entries:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("ab+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # A torn line is ended first, so that it does not spoil the next one.
            start = b"\n" if _is_torn(stream) else b""
            stream.write(start + b"".join(_line(entry) for entry in entries))
            stream.flush()
            os.fsync(stream.fileno())
        if is_new:
            _sync_directory(self.path.parent)

    def read(self) -> Story:
        """What it tells; empty when there is none."""
        story = Story()
        for entry in self._entries(story):
            story.take(entry)
        return story

    def _entries(self, story: Story) -> Iterator[dict[str, Any]]:
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            for line in stream:
                entry = _entry(line)
                if entry is None:
                    story.torn += bool(line.strip())
                else:
                    yield entry

    def remove(self) -> None:
        """Forget the run; harmless when there is nothing."""
        self.path.unlink(missing_ok=True)


def folder_of(git_dir: Path) -> Path:
    """Where the journals of a repository are."""
    return git_dir / "agentflow" / "journal"


def known_runs(git_dir: Path) -> list[str]:
    """Runs that have a journal in this repository, the one written last first."""
    found = [path for path in folder_of(git_dir).glob("*.ndjson") if _RUN_ID.fullmatch(path.stem)]
    return [path.stem for path in sorted(found, key=lambda path: -path.stat().st_mtime_ns)]


def _line(entry: Mapping[str, Any]) -> bytes:
    body = _body({"v": VERSION, **entry})
    return b'{"sum":"' + _sum(body) + b'",' + body[1:] + b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None when it is torn, was changed, or is of another version."""
    try:
        entry = json.loads(line)
        given = str(entry.pop("sum", "")).encode()
    except (ValueError, AttributeError, TypeError):
        return None
    is_whole = isinstance(entry, dict) and _sum(_body(entry)) == given
    return entry if is_whole and entry.get("v") == VERSION else None


def _body(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:_SUM_DIGITS].encode()


def _is_torn(stream: BinaryIO) -> bool:
    """Whether the file does not end with a whole line."""
    if stream.seek(0, os.SEEK_END) == 0:
        return False
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) != b"\n"


def _sync_directory(folder: Path) -> None:
    """So that the new file's name is on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
