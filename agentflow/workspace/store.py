"""The store repository: one bare repository per project in the data directory.

It borrows the objects of the user's repository (alternates) and holds everything that attempts make.
Many threads and processes use it at once. Objects only ever appear (whole, by rename); each ref has one
writer at a time. Its refs are written as files by us, atomically, not by `git update-ref`: a process
killed in the middle leaves no lock file that would block a resumed run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentflow.environment import Stop
from agentflow.errors import AttemptTimeout, InfraError
from agentflow.workspace.gitcmd import Git, GitError, check_oid, ref_part, require_version
from agentflow.workspace.objects import COMMITS, Commit

#: Packs after which small ones are rolled up into larger ones: each git process looks through all of them.
PACKS_MAX = 64
#: Seconds between two looks at a lock that somebody else holds.
LOCK_POLL_S = 0.05
#: Hexadecimal digits of the root commit that name a store.
_NAME_DIGITS = 12

_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
\tsymlinks = true
\tignorecase = false
[gc]
\tauto = 0
\tpackRefs = false
"""


@dataclass(frozen=True, slots=True)
class Store:
    """A project's store. `git_dir` is the bare repository.

    `project` names what is kept per project and machine (''  = the directory's own name says it).
    """

    git_dir: Path
    project: str = ""

    @classmethod
    def open(cls, data_dir: Path, project: str, user_objects: Path) -> Store:
        """Find or make the store of a project (its root commit), with the user's objects readable from it.

        Costs a read of one file when it exists. Raises `InfraError`.
        """
        require_version()
        check_oid(project)
        git_dir = data_dir.absolute() / "repos" / f"{project[:_NAME_DIGITS]}.git"
        alternates = git_dir / "objects" / "info" / "alternates"
        line = _alternates_line(user_objects)
        if line not in _lines(alternates):
            git_dir.parent.mkdir(parents=True, exist_ok=True)
            with locked(git_dir.with_suffix(".lock")):
                create_bare(git_dir)
                known = _lines(alternates)
                if line not in known:
                    write_atomically(alternates, "".join(f"{one}\n" for one in [*known, line]))
        return cls(git_dir)

    @property
    def git(self) -> Git:
        """Git on the store."""
        return Git(self.git_dir)

    @property
    def name(self) -> str:
        """The project's name on this machine."""
        return self.project or self.git_dir.stem

    @property
    def objects(self) -> Path:
        """Where its own objects are."""
        return self.git_dir / "objects"

    def holds_loose(self, oid: str) -> bool:
        """Whether an object lies here by itself (it may be in a pack all the same). Costs no process."""
        return (self.objects / oid[:2] / oid[2:]).exists()

    def commit(self, oid: str) -> Commit:
        """Tree, parents and date of a commit. Raises `InfraError` when it is missing."""
        return COMMITS.get(self.git, check_oid(oid))

    def has(self, commit: str) -> bool:
        """Whether this commit can be read."""
        return (
            self.git.call("cat-file", "-e", f"{check_oid(commit)}^{{commit}}", ok=(0, 1, 128)).returncode == 0
        )

    def missing(self, commits: Sequence[str]) -> list[str]:
        """Those of the commits that cannot be read; costs one process for all."""
        if not commits:
            return []
        asked = "".join(f"{check_oid(commit)}\n" for commit in commits).encode()
        kinds = self.git.out("cat-file", "--batch-check=%(objecttype)", data=asked).splitlines()
        return [commit for commit, kind in zip(commits, kinds, strict=True) if kind != "commit"]

    def keep(self, ref: str, commit: str) -> None:
        """Make `ref` (a full name below refs/agentflow/) point to `commit`; the last writer wins."""
        write_atomically(self._ref_path(ref), f"{check_oid(commit)}\n", durable=True)

    def read_ref(self, ref: str) -> str | None:
        """The commit that a ref points to."""
        try:
            return check_oid(self._ref_path(ref).read_text().strip())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def refs(self, prefix: str) -> dict[str, str]:
        """All refs below `prefix` (`refs/agentflow/<run>`)."""
        top = self._ref_path(prefix)
        names = [p for p in sorted(top.rglob("*")) if p.is_file() and not p.name.startswith(".tmp-")]
        return {str(p.relative_to(self.git_dir)): p.read_text().strip() for p in names}

    def drop_refs(self, prefix: str) -> None:
        """Remove all refs below `prefix`."""
        shutil.rmtree(self._ref_path(prefix), ignore_errors=True)

    def _ref_path(self, ref: str) -> Path:
        """The file of a ref; names of runs and nodes that git takes for no ref name are encoded."""
        parts = ref.split("/")
        if parts[:2] != ["refs", "agentflow"] or not all(parts):
            raise InfraError(
                f"{ref!r} is no ref of agentflow", fix="report this; it is a defect of agentflow"
            )
        return self.git_dir.joinpath(*map(ref_part, parts))

    @contextlib.contextmanager
    def quarantine(self) -> Iterator[Path]:
        """An object directory for things that are not trusted yet, on the store's file system."""
        home = self.git_dir / "quarantine"
        home.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as name:
            yield Path(name)

    def adopt(self, quarantine: Path) -> None:
        """Move the packs of a quarantine into the store; `.idx` last, so that no reader sees half a pack."""
        target = self.objects / "pack"
        for index in sorted((quarantine / "pack").glob("*.idx")):
            if (target / index.name).exists():  # the same objects came before
                continue
            for suffix in (".pack", ".rev", ".idx"):
                with contextlib.suppress(FileNotFoundError):
                    index.with_suffix(suffix).replace(target / f"{index.stem}{suffix}")

    def tidy(self) -> None:
        """Roll small packs up when there are many; nothing is dropped, and one process does it at a time."""
        if sum(1 for _ in (self.objects / "pack").glob("*.idx")) < PACKS_MAX:
            return
        with contextlib.ExitStack() as stack:
            if stack.enter_context(try_locked(self.git_dir / "tidy.lock")):
                with contextlib.suppress(GitError):  # it is only for speed
                    self.git.call("repack", "--geometric=2", "-d", "-l", "-q")


def node_ref(run: str, node: str, attempt: int) -> str:
    """The ref in the store that keeps the commit of one attempt."""
    return f"refs/agentflow/{run}/nodes/{node}/{attempt}"


def _alternates_line(path: Path) -> str:
    text = str(path.absolute())
    if "\n" in text or text.startswith(("#", '"')):
        raise InfraError(
            f"git cannot borrow objects from {text!r}", fix="move the repository to another path"
        )
    return text


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def create_bare(git_dir: Path) -> None:
    """Make an empty bare repository, whole or not at all."""
    if git_dir.exists():
        return
    new = git_dir.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    for part in ("objects/info", "objects/pack", "refs/agentflow", "info"):
        (new / part).mkdir(parents=True)
    (new / "HEAD").write_text("ref: refs/heads/none\n")
    (new / "config").write_text(_CONFIG)
    new.rename(git_dir)


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a file so that readers see the old or the new content; directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        if durable:
            stream.flush()
            os.fsync(handle)
    os.replace(name, path)  # noqa: PTH105  # both are names of one directory


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; False when somebody else holds it. Freed when we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def locked(path: Path, *, stop: Stop | None = None, deadline: float | None = None) -> Iterator[None]:
    """Hold a lock file while the block runs; wait for it.

    Raises `AttemptCancelled` when `stop` is set and `AttemptTimeout` when `deadline` passes meanwhile.
    """
    while True:
        with try_locked(path) as held:
            if held:
                yield
                return
        if stop is not None:
            stop.check()
            stop.wait(LOCK_POLL_S)
        else:
            time.sleep(LOCK_POLL_S)
        if deadline is not None and time.monotonic() > deadline:
            raise AttemptTimeout(f"waited for {path.name} until the deadline")
