"""Comparing two trees without trusting the second: bounded by counts before anything is listed.

A tree of a few hundred bytes can stand for a billion files (ATTACKS D13), so subtrees are counted once
each, by id, before they are walked, and a comparison stops at its cap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agentflow.errors import PolicyViolation
from agentflow.spec.artifacts import twin_key
from agentflow.workspace.objects import Reader

DIRECTORY = "40000"
FILE = "100644"
PROGRAM = "100755"
SYMLINK = "120000"
GITLINK = "160000"
#: Bytes of a path; longer ones cannot be checked out.
PATH_MAX_BYTES = 4000
#: Bytes of one tree object (some 400,000 names).
TREE_MAX_BYTES = 16 * 1024 * 1024
#: Directories below each other.
DEPTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a tree object. The mode is as git writes it: octal text."""

    mode: str
    oid: str

    @property
    def is_tree(self) -> bool:
        """Whether it is a directory."""
        return self.mode == DIRECTORY


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs; `old` or `new` is None where it does not exist."""

    path: str
    old: Entry | None
    new: Entry | None


@dataclass(slots=True)
class Difference:
    """What differs between two trees; `twins` are pairs of paths that are one path on some systems."""

    changes: list[Change] = field(default_factory=list)
    twins: list[tuple[str, str]] = field(default_factory=list)


def parse_tree(data: bytes) -> dict[str, Entry]:
    """A tree object's entries by name."""
    entries: dict[str, Entry] = {}
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        name = data[space + 1 : end].decode("utf-8", "surrogateescape")
        entries[name] = Entry(data[at:space].decode("ascii"), data[end + 1 : end + 21].hex())
        at = end + 21
    return entries


class Counter:
    """Counts the files below trees, each distinct tree once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def files(self, reader: Reader, tree: str) -> int:
        """How many files a tree holds, however deep. Raises `PolicyViolation` beyond `DEPTH_MAX`."""
        stack = [_Counting(tree, _entries(reader, tree))]
        while stack:
            top = stack[-1]
            below = next((e.oid for e in top.left if e.oid not in self._known), None)
            if below is None:
                self._known[top.oid] = top.files + sum(self._known[oid] for oid in top.below)
                stack.pop()
            elif len(stack) < DEPTH_MAX:
                stack.append(_Counting(below, _entries(reader, below)))
            else:
                raise PolicyViolation(f"directories lie deeper than {DEPTH_MAX}", code="AF-POLICY-007")
        return self._known[tree]


class _Counting:
    """A tree whose files are being counted: its own, the trees below, those not looked at yet."""

    def __init__(self, oid: str, entries: list[Entry]) -> None:
        trees = [e for e in entries if e.is_tree]
        self.oid = oid
        self.files = len(entries) - len(trees)
        self.below = [e.oid for e in trees]
        self.left = iter(trees)


def _entries(reader: Reader, tree: str) -> list[Entry]:
    return list(parse_tree(reader.content(tree, "tree", cap=TREE_MAX_BYTES)).values())


@dataclass(slots=True)
class Comparison:
    """One comparison of two trees, through one reader, of at most `cap` changed paths."""

    reader: Reader
    cap: int
    counter: Counter = field(default_factory=Counter)
    result: Difference = field(default_factory=Difference)

    def run(self, old: str, new: str) -> Difference:
        """All changed paths. Raises `PolicyViolation` when they are more than the cap."""
        stack: list[tuple[str, str | None, str | None]] = [("", old, new)]
        while stack:
            prefix, before, after = stack.pop()
            if before is None and after is not None:
                self._room_for(self.counter.files(self.reader, after))
            olds, news = self._listing(before), self._listing(after)
            self._find_twins(prefix, olds, news)
            stack += list(self._walk(prefix, olds, news))
            self._room_for(0)
        self.result.changes.sort(key=lambda change: change.path)
        return self.result

    def _listing(self, tree: str | None) -> dict[str, Entry]:
        return parse_tree(self.reader.content(tree, "tree", cap=TREE_MAX_BYTES)) if tree else {}

    def _room_for(self, more: int) -> None:
        if len(self.result.changes) + more > self.cap:
            raise PolicyViolation(
                f"more than {self.cap} files were changed",
                fix="keep generated files out of the repository (.gitignore), or split the task",
                code="AF-POLICY-006",
            )

    def _walk(
        self, prefix: str, olds: dict[str, Entry], news: dict[str, Entry]
    ) -> Iterator[tuple[str, str | None, str | None]]:
        """Note the changes of one directory; yield the subdirectories to go into."""
        for name in olds.keys() | news.keys():
            old, new = olds.get(name), news.get(name)
            if old == new:
                continue
            path = prefix + name
            if len(path) > PATH_MAX_BYTES or path.count("/") > DEPTH_MAX:
                raise PolicyViolation(f"the path {path[:100]!r}... is too long", code="AF-POLICY-007")
            below = (old.oid if old and old.is_tree else None, new.oid if new and new.is_tree else None)
            file_old, file_new = (e if e and not e.is_tree else None for e in (old, new))
            if file_old or file_new:
                self.result.changes.append(Change(path, file_old, file_new))
            if any(below):
                yield (f"{path}/", *below)

    def _find_twins(self, prefix: str, olds: dict[str, Entry], news: dict[str, Entry]) -> None:
        """New names that another name of the same directory equals but for case or Unicode form."""
        if not news.keys() - olds.keys():
            return
        seen: dict[str, str] = {}
        for name in sorted(news):
            other = seen.setdefault(twin_key(name), name)
            if other != name and not (name in olds and other in olds):
                self.result.twins.append((prefix + other, prefix + name))
