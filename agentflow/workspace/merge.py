"""Deterministic merges: the same commits give the same merge commit, whoever merges them and wherever.

What could differ is fixed: inputs are reduced (an ancestor of another input adds nothing), sorted by id
and folded two at a time; identity, message and date of a merge come from its inputs alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentflow.errors import ConflictError
from agentflow.workspace.appending import Appendable, append_both
from agentflow.workspace.gitcmd import check_oid
from agentflow.workspace.objects import COMMITS, Reader, build_commit, parse_commit, write_commit
from agentflow.workspace.store import Store
from agentflow.workspace.trees import Comparison

#: Changed paths of one side that are compared for twins; more cannot come through ingest in one run.
_COMPARED_MAX = 1_000_000


class MergeConflictError(ConflictError):
    """Commits that do not merge: `paths` clash between the two `commits`."""

    code = "AF-CONFLICT-001"

    def __init__(self, paths: Sequence[str], commits: tuple[str, str], why: str = "") -> None:
        self.paths = tuple(paths)
        self.commits = commits
        shown = ", ".join(self.paths[:10])
        super().__init__(
            f"{shown} cannot be merged",
            why=why or f"commits {commits[0][:12]} and {commits[1][:12]} change the same lines",
            fix="let one task need the other, or declare the path under `artifacts:` of both",
        )


def merge_all(store: Store, commits: Sequence[str], base: str, appendable: Appendable | None = None) -> str:
    """One commit that holds all of `commits` (on top of `base`, their common ancestor).

    None: `base`. One: itself. The result does not depend on their order. `appendable` (asked only where
    something clashes) tells the paths of which both sides' additions are kept. Raises `MergeConflictError`.
    """
    tips = _reduced(store, commits, base)
    merged = tips[0]
    for tip in tips[1:]:
        merged = _merge(store, merged, tip, appendable)
    return merged


def merges_clean(
    store: Store, commit: str, others: Sequence[str], base: str, appendable: Appendable | None = None
) -> list[str]:
    """The paths on which `commit` clashes with the merge of `others`; empty when it merges."""
    try:
        merge_all(store, [merge_all(store, others, base, appendable), commit], base, appendable)
    except MergeConflictError as conflict:
        return list(conflict.paths)
    return []


def _reduced(store: Store, commits: Sequence[str], base: str) -> list[str]:
    """The commits that are no ancestors of others, sorted; the base when there are none."""
    distinct = sorted({check_oid(c) for c in commits} - {base})
    if len(distinct) <= 1:
        return distinct or [check_oid(base)]
    return sorted(store.git.out("merge-base", "--independent", *distinct).split())


@dataclass(frozen=True, slots=True)
class _Clash:
    """A merge that is known not to work."""

    paths: tuple[str, ...]
    why: str = ""
    #: What git made of it, with its marks in the clashing files; '' when the clash is not one of lines.
    tree: str = ""


#: A store, two commits in order, and whether what both appended is kept.
_Pair = tuple[Path, str, str, bool]


class _Merges:
    """Merges made in this process; the same pair always gives the same result."""

    #: Pairs remembered.
    MAX = 4096

    def __init__(self) -> None:
        self._known: dict[_Pair, str | _Clash] = {}
        self._lock = threading.Lock()

    def get(self, key: _Pair) -> str | _Clash | None:
        return self._known.get(key)

    def put(self, key: _Pair, found: str | _Clash) -> None:
        with self._lock:
            self._known[key] = found
            while len(self._known) > self.MAX:
                self._known.pop(next(iter(self._known)))


_MERGES = _Merges()


def _merge(store: Store, one: str, other: str, appendable: Appendable | None) -> str:
    """The merge commit of two commits, neither of which holds the other. Raises `MergeConflictError`."""
    first, second = sorted((one, other))
    found = _known(store, first, second, keep_both=False)
    if isinstance(found, _Clash) and found.tree and appendable and all(map(appendable, found.paths)):
        found = _known(store, first, second, keep_both=True)
    if isinstance(found, _Clash):
        raise MergeConflictError(found.paths, (first, second), found.why)
    return found


def _known(store: Store, first: str, second: str, *, keep_both: bool) -> str | _Clash:
    key = (store.git_dir, first, second, keep_both)
    found = _MERGES.get(key)
    # The store may be another one at the same place by now, or its loose objects were collected.
    if found is None or (isinstance(found, str) and not store.holds_loose(found)):
        found = _make(store, first, second, keep_both=keep_both)
        _MERGES.put(key, found)
    return found


def _make(store: Store, first: str, second: str, *, keep_both: bool) -> str | _Clash:
    done = store.git.call(
        "merge-tree",
        "--write-tree",
        "--no-messages",
        "--name-only",
        "-z",
        first,
        second,
        ok=(0, 1),
    )
    tree, *paths = done.stdout.decode("utf-8", "surrogateescape").rstrip("\0").split("\0")
    if done.returncode == 1:
        clash = _Clash(tuple(sorted({p for p in paths if p})), tree=tree)
        both = append_both(store, tree, (first, second), clash.paths) if keep_both else None
        if both is None:
            return clash
        tree = both
    ours, theirs = store.commit(first), store.commit(second)
    twins = _new_twins(store, tree, ours.tree, theirs.tree)
    if twins:
        return _Clash(twins, "the names differ only in case or Unicode form: one file on some systems")
    date = max(ours.date, theirs.date) + 1
    oid, data = build_commit(tree, [first, second], date, f"Merge {first[:12]} and {second[:12]}")
    write_commit(store.objects, oid, data)
    COMMITS.put(store.git, oid, parse_commit(data))
    return oid


def _new_twins(store: Store, tree: str, *sides: str) -> tuple[str, ...]:
    """Names that are twins in the merged tree and are so in neither side (ATTACKS D22)."""
    with Reader(store.git) as reader:
        found = [
            {p for pair in Comparison(reader, _COMPARED_MAX).run(side, tree).twins for p in pair}
            for side in sides
        ]
    # A twin that stands in one side already is new against the other only; new to both is the merge's.
    return tuple(sorted(set.intersection(*found)))
