"""Merging what several nodes appended to one file: the result holds the base and what each of them added.

Git calls two additions at the same place a conflict. Where both sides may only append (`mode: append`), both
are kept, in the order of the commits' ids, so whoever merges makes the same file. Equal additions are git's
to merge: they are there once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from agentflow.workspace.gitcmd import Git
from agentflow.workspace.objects import Reader
from agentflow.workspace.store import Store
from agentflow.workspace.trees import FILE, PROGRAM, Entry

#: Tells whether a path of the run may be appended to by several nodes at once.
Appendable = Callable[[str], bool]


def append_both(store: Store, tree: str, sides: tuple[str, str], paths: Sequence[str]) -> str | None:
    """`tree` (of a merge that clashed at `paths`) with what both commits appended there.

    None when one of the paths is not a plain file on both sides, or was changed in another way than by
    appending and does not merge line by line.
    """
    bases = sorted(store.git.out("merge-base", "--all", *sides).split())
    merged: dict[str, Entry] = {}
    with Reader(store.git) as reader:
        for path in paths:
            both = _merge_file(store, reader, bases, sides, path)
            if not both:
                return None
            merged[path] = both
    with tempfile.TemporaryDirectory() as folder:
        git = Git(store.git_dir, index=Path(folder) / "index")
        git.call("read-tree", tree)
        lines = "".join(f"{entry.mode} {entry.oid}\t{path}\0" for path, entry in merged.items())
        git.call("update-index", "-z", "--index-info", data=lines.encode("utf-8", "surrogateescape"))
        return git.out("write-tree")


def _merge_file(
    store: Store, reader: Reader, bases: Sequence[str], sides: tuple[str, str], path: str
) -> Entry | None:
    ours, theirs = (_entry(store, commit, path) for commit in sides)
    before = _entry(store, bases[0], path)
    plain = {FILE, PROGRAM}
    if not ours or not theirs or ours.mode != theirs.mode or ours.mode not in plain:
        return None
    one, two = (reader.content(entry.oid, "blob") for entry in (ours, theirs))
    if before and before.mode not in plain:
        return None
    start = reader.content(before.oid, "blob") if before else None
    both = appended(start, one, two) if len(bases) == 1 else None
    if both is None:
        both = united(start or b"", one, two, met_before=len(bases) > 1)
    if both is None:
        return None
    oid = store.git.call("hash-object", "-w", "--stdin", data=both).stdout.decode().strip()
    return Entry(ours.mode, oid)


def _entry(store: Store, commit: str, path: str) -> Entry | None:
    found = store.git.call("ls-tree", "-z", commit, "--", path).stdout.decode("utf-8", "surrogateescape")
    head, _, name = found.rstrip("\0").partition("\t")
    words = head.split()
    return Entry(words[0], words[2]) if name == path else None


def appended(base: bytes | None, one: bytes, two: bytes) -> bytes | None:
    """`one`, then what `two` added to `base`; None when one of them changed more than the end.

    A file that both made (`base` None) begins with the lines that they have in common.
    """
    start = _common_lines(one, two) if base is None else base
    if not (one.startswith(start) and two.startswith(start)):
        return None
    tail = two[len(start) :]
    if start and not start.endswith(b"\n") and tail.startswith(b"\n") and one.endswith(b"\n"):
        tail = tail[1:]  # that line break ended the base's last line, which `one` has ended too
    glue = b"" if not one or not tail or one.endswith(b"\n") or tail.startswith(b"\n") else b"\n"
    return one + glue + tail


def _common_lines(one: bytes, two: bytes) -> bytes:
    kept = []
    for ours, theirs in zip(one.splitlines(keepends=True), two.splitlines(keepends=True), strict=False):
        if ours != theirs:
            break
        kept.append(ours)
    return b"".join(kept)


def united(base: bytes, one: bytes, two: bytes, *, met_before: bool) -> bytes | None:
    """`base` with the lines that each side put between its lines; None when one of them took lines away.

    `met_before`: the two had several last common ancestors, so what both have beyond `base` may be the same
    work: it stands there once.
    """
    lines = [text.splitlines(keepends=True) for text in (base, one, two)]
    same = 0
    while all(len(side) > same for side in lines) and lines[0][same] == lines[1][same] == lines[2][same]:
        same += 1
    head, rest = lines[0][:same], lines[0][same:]
    ours, theirs = _inserted(rest, lines[1][same:]), _inserted(rest, lines[2][same:])
    if ours is None or theirs is None:
        return None
    merged = list(head)
    for number, (mine, others) in enumerate(zip(ours, theirs, strict=True)):
        merged += mine
        merged += _new(mine, others) if met_before or mine == others else others
        merged += rest[number : number + 1]
    ended = [line if line.endswith(b"\n") else line + b"\n" for line in merged[:-1]]
    return b"".join(ended + merged[-1:])


def _inserted(base: list[bytes], side: list[bytes]) -> list[list[bytes]] | None:
    """What a side has before each line of the base, and after the last; None when it lacks one."""
    gaps: list[list[bytes]] = [[]]
    for line in side:
        if len(gaps) <= len(base) and line.rstrip(b"\n") == base[len(gaps) - 1].rstrip(b"\n"):
            gaps.append([])
        else:
            gaps[-1].append(line)
    return gaps if len(gaps) == len(base) + 1 else None


def _new(mine: list[bytes], others: list[bytes]) -> list[bytes]:
    """The lines of `others` that are not in `mine`, in the same order."""
    known = SequenceMatcher(None, mine, others, autojunk=False).get_matching_blocks()
    kept = {place for block in known for place in range(block.b, block.b + block.size)}
    return [line for place, line in enumerate(others) if place not in kept]
