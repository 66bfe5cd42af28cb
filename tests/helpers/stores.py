"""Store repositories for tests, hostile objects, and the fingerprint of a user's repository."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.repos import make_repo

from agentflow.workspace import clone, commit, inspect
from agentflow.workspace.clone import Workspace
from agentflow.workspace.commit import Recorded
from agentflow.workspace.gitcmd import Git
from agentflow.workspace.objects import build_commit
from agentflow.workspace.store import Store


def environ(**extra: str) -> dict[str, str]:
    """The environment of a command: where programs and the home directory are, and `extra`."""
    return {name: os.environ[name] for name in ("PATH", "HOME")} | extra


@dataclass(slots=True)
class Bench:
    """A user's repository with one commit, and its store."""

    place: Path
    repo: Path
    store: Store
    base: str
    made: int = 0

    def workspace(self, base: str = "") -> Workspace:
        """A workspace at the base (or another commit)."""
        self.made += 1
        return clone.prepare(self.store, base or self.base, self.place / "work" / str(self.made) / "tree")

    def record(self, files: Mapping[str, str], *, base: str = "", message: str = "work") -> Recorded:
        """What an agent that writes these files comes to."""
        workspace = self.workspace(base)
        write(workspace.root, files)
        return commit.record(self.store, workspace, message=message)

    def commit(self, files: Mapping[str, str], *, base: str = "", message: str = "work") -> str:
        """The same, taken into the store without any check."""
        recorded = self.record(files, base=base, message=message)
        with recorded.pack.open("rb") as source:
            self.store.git.call("index-pack", "--stdin", source=source)
        return recorded.commit


def make_bench(place: Path, files: Mapping[str, str]) -> Bench:
    """A bench below `place`."""
    repo = make_repo(place / "repo", files)
    facts = inspect.check_repository(repo, "HEAD", "agentflow/x")
    return Bench(place, repo, Store.open(place / "data", facts.project, facts.objects), facts.base)


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write text files below a directory."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def fingerprint(root: Path) -> dict[str, str]:
    """Every file of a repository but objects and agentflow's own refs: kind, mode, time and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith((".git/objects/", ".git/refs/agentflow")):
            continue
        state = path.lstat()
        body = path.read_bytes() if path.is_file() else b""
        time = state.st_mtime_ns if path.is_file() else ""
        found[name] = f"{state.st_mode:o} {time} {hashlib.sha256(body).hexdigest()}"
    return found


class Forge:
    """Makes packs that no honest worker makes, on top of the base of a bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.objects = bench.place / "forged"
        (self.objects / "pack").mkdir(parents=True)
        self.git = Git(bench.store.git_dir, objects=self.objects)
        self.base_tree = bench.store.commit(bench.base).tree

    def put(self, kind: str, data: bytes) -> str:
        """A loose object with any content."""
        whole = f"{kind} {len(data)}\0".encode() + data
        oid = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
        path = self.objects / oid[:2] / oid[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(whole, 1))
        return oid

    def tree(self, *entries: tuple[str, bytes, str]) -> str:
        """A tree of (mode, name, oid) in the order given, whatever they are."""
        return self.put(
            "tree", b"".join(m.encode() + b" " + n + b"\0" + bytes.fromhex(o) for m, n, o in entries)
        )

    def tree_with(self, mode: str, name: bytes, oid: str) -> str:
        """The base's tree with one more entry."""
        data = self.bench.store.git.call("cat-file", "tree", self.base_tree).stdout
        old, at = [], 0
        while at < len(data):
            end = data.index(b"\0", at)
            entry_mode, _, entry_name = data[at:end].partition(b" ")
            old.append((entry_mode.decode(), entry_name, data[end + 1 : end + 21].hex()))
            at = end + 21
        entries = [*[e for e in old if e[1] != name], (mode, name, oid)]
        return self.tree(*sorted(entries, key=lambda e: e[1] + (b"/" if e[0] == "40000" else b"")))

    def recorded(
        self, tree: str, *, parents: list[str] | None = None, raw: bytes = b"", without: str = ""
    ) -> Recorded:
        """A pack of all that was put, with a commit of this tree (or with the commit object `raw`)."""
        base = self.bench.base
        date = self.bench.store.commit(base).date + 1
        data = raw or build_commit(tree, [base] if parents is None else parents, date, "work")[1]
        oid = self.put("commit", data)
        pack = self.bench.place / "forged.pack"
        names = [p.parent.name + p.name for p in self.objects.glob("??/*")]
        listed = "".join(f"{name}\n" for name in names if name != without).encode()
        with pack.open("wb") as target:
            self.git.call("pack-objects", "--stdout", "-q", data=listed, target=target)
        return Recorded(base, oid, pack)
