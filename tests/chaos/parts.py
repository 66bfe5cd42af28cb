"""A synthetic feature of any size whose tree is known beforehand: each piece is made of those that it needs.

A piece's own file is a digest of its parents' files, so one that was built on something else, or without a
parent, shows. Some also add their name to a file that they share: declared (locked, one after the other) or
undeclared (merged, or done again on top). Some bring a large file.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.repos import git

SHARED = ("shared/one.txt", "shared/two.txt")
OPEN = "open.txt"
#: Megabytes of the large files; a run of two hundred has one of each of the first four.
LARGE_MB = (1, 8, 24, 60)
LARGE_FROM = 50
AGENT = """\
import hashlib, pathlib, random, sys
name, shared, megabytes, *parents = sys.argv[1:]
told = b"".join(pathlib.Path(f"p/{p}.txt").read_bytes() for p in parents)
pathlib.Path("p").mkdir(exist_ok=True)
pathlib.Path(f"p/{name}.txt").write_text(hashlib.sha256(told + name.encode()).hexdigest() + "\\n")
if shared:
    file = pathlib.Path(shared)
    file.parent.mkdir(exist_ok=True)
    lines = set(file.read_text().split()) if file.exists() else set()
    file.write_text("".join(line + "\\n" for line in sorted(lines | {name})))
if megabytes != "0":
    pathlib.Path(f"p/{name}.bin").write_bytes(random.Random(name).randbytes(int(megabytes) << 20))
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """One node: what it needs, the file that it shares ('' for none), and megabytes of a file of its own."""

    name: str
    needs: tuple[str, ...]
    shared: str = ""
    megabytes: int = 0


def make(rng: random.Random, size: int) -> list[Piece]:
    """Pieces in topological order, each with up to three parents among the last twelve."""
    large = (
        dict(zip(rng.sample(range(size), len(LARGE_MB)), LARGE_MB, strict=True)) if size >= LARGE_FROM else {}
    )
    if not large:
        large = {rng.randrange(size): 1}
    undeclared = set(rng.sample(range(size), min(3, size)))
    pieces = []
    for number in range(size):
        near = range(max(0, number - 12), number)
        needs = tuple(f"n{p}" for p in sorted(rng.sample(near, min(len(near), rng.choice((0, 1, 1, 2, 3))))))
        shared = OPEN if number in undeclared else rng.choice(SHARED) if rng.random() < 0.1 else ""
        pieces.append(Piece(f"n{number}", needs, shared, large.get(number, 0)))
    return pieces


def feature(pieces: Sequence[Piece], target: str) -> str:
    """The spec, as JSON, which is YAML."""
    tasks = []
    for piece in pieces:
        argv = ["{python}", "-c", AGENT, piece.name, piece.shared, str(piece.megabytes), *piece.needs]
        task: dict[str, object] = {
            "id": piece.name, "role": "backend", "needs": list(piece.needs), "retries": 8,
            "runner": {"command": argv}, "acceptance": [f"test -s p/{piece.name}.txt"],
        }  # fmt: skip
        if piece.shared != OPEN:
            own = [f"p/{piece.name}.txt", *([piece.shared] if piece.shared else [])]
            task["artifacts"] = own + ([f"p/{piece.name}.bin"] if piece.megabytes else [])
        tasks.append(task)
    count = f"test $(ls p/*.txt | wc -l) = {len(pieces)}"
    return json.dumps(
        {"feature": "Parts of a whole", "target": target, "validate": [["sh", "-c", count]], "tasks": tasks}
    )


def files_of(pieces: Sequence[Piece]) -> dict[str, bytes]:
    """What all of it comes to when everybody saw what it needs."""
    files: dict[str, bytes] = {}
    sharing: dict[str, set[str]] = {}
    for piece in pieces:
        told = b"".join(files[f"p/{parent}.txt"] for parent in piece.needs)
        files[f"p/{piece.name}.txt"] = hashlib.sha256(told + piece.name.encode()).hexdigest().encode() + b"\n"
        if piece.shared:
            sharing.setdefault(piece.shared, set()).add(piece.name)
        if piece.megabytes:
            files[f"p/{piece.name}.bin"] = random.Random(piece.name).randbytes(piece.megabytes << 20)
    for name, lines in sharing.items():
        files[name] = "".join(line + "\n" for line in sorted(lines)).encode()
    return files


def tree_of(pieces: Sequence[Piece], before: Mapping[str, bytes], place: Path) -> str:
    """The id of the tree that must land, by a repository that is thrown away."""
    with tempfile.TemporaryDirectory(dir=place) as there:
        root = Path(there)
        for name, content in {**before, **files_of(pieces)}.items():
            path = root / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        git(root, "init", "--quiet", "--bare", "git")
        at = ("--git-dir", str(root / "git"), "--work-tree", str(root / "tree"))
        git(root, *at, "add", "--all", "--force")
        tree = git(root, *at, "write-tree")
        shutil.rmtree(root / "git")
    return tree
