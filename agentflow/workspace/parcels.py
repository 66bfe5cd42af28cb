"""Objects that travel between machines: what is packed, and the stores that packs are taken into.

A worker on another machine has nothing of the user's repository. It keeps a *pool* per project (the trees of
the bases that runs started from, shared by all runs) and a store per run that borrows from the pool. A base
travels without its history: git is told by the store's `shallow` file that history ends there.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentflow.errors import InfraError
from agentflow.workspace.gitcmd import TIMEOUT_S, Git, base_env, check_oid
from agentflow.workspace.store import Store, create_bare, locked, write_atomically

_PACKING = ("pack-objects", "--stdout", "-q", "--delta-base-offset")
#: What `git fetch` from a remote that the configuration names may speak; no `ext::`, which runs commands.
_REMOTE_PROTOCOLS = "https:ssh:file"
_REMOTE_SETTINGS = ("HOME", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "SSL_CERT_FILE")


def open_pool(data_dir: Path, project: str) -> Store:
    """The pool of a project on this machine; made when it is not there."""
    git_dir = data_dir.absolute() / "pools" / f"{check_oid(project)[:12]}.git"
    if not git_dir.exists():
        git_dir.parent.mkdir(parents=True, exist_ok=True)
        with locked(git_dir.with_suffix(".lock")):
            create_bare(git_dir)
    return Store(git_dir)


def open_run_store(folder: Path, pool: Store, base: str) -> Store:
    """The store of one run, in the run's own directory. History ends at `base`."""
    git_dir = folder.absolute() / "store.git"
    if not (git_dir / "shallow").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.absolute() / "store.lock"):
            create_bare(git_dir)
            write_atomically(git_dir / "objects" / "info" / "alternates", f"{pool.objects}\n")
            write_atomically(git_dir / "shallow", f"{check_oid(base)}\n")
    return Store(git_dir)


def end_history_at(store: Store, commits: Sequence[str]) -> None:
    """Tell git that the history of these commits is not here either."""
    path = store.git_dir / "shallow"
    with locked(store.git_dir.with_suffix(".lock")):
        known = path.read_text().split()
        new = [check_oid(commit) for commit in commits if commit not in known]
        if new:
            write_atomically(path, "".join(f"{oid}\n" for oid in [*known, *new]))


def pack_base(git: Git, base: str, target: Path, *, without: str = "") -> int:
    """Pack a commit and its whole tree, but none of its history; returns the size in bytes.

    `without`: a commit whose tree the receiver has; only what differs is packed.
    """
    listed = _objects(git, base)
    if without:
        held = _objects(git, without)
        listed = {oid: name for oid, name in listed.items() if oid not in held}
    wanted = "".join(f"{oid} {name}\n" for oid, name in listed.items())
    with target.open("wb") as stream:
        git.call(*_PACKING, data=wanted.encode("utf-8", "surrogateescape"), target=stream)
    return target.stat().st_size


def _objects(git: Git, commit: str) -> dict[str, str]:
    """Every object that a checkout of the commit needs, with its name (git packs alike names together)."""
    tree = git.out("rev-parse", f"{check_oid(commit)}^{{tree}}")
    found = {commit: "", tree: ""}
    for line in git.out("ls-tree", "-r", "-t", "-z", "--full-tree", commit).split("\0"):
        facts, _, name = line.partition("\t")
        if facts:
            found.setdefault(facts.split()[2], name.replace("\n", " "))
    return found


def pack_work(store: Store, commit: str, needs: Sequence[str], target: Path) -> int:
    """Pack what `commit` holds beyond `needs` (merges between them included); returns the size in bytes."""
    wanted = "".join([f"{check_oid(commit)}\n", "--not\n", *(f"{check_oid(one)}\n" for one in needs)])
    with target.open("wb") as stream:
        store.git.call(*_PACKING, "--revs", "--threads=1", data=wanted.encode(), target=stream)
    return target.stat().st_size


def pack_history(git: Git, tip: str, base: str, target: Path) -> tuple[int, list[str]]:
    """Pack everything of `tip` that `base` does not reach.

    Returns the size in bytes and the commits whose parents are not in it (history ends there, apart from
    `base` itself).
    """
    check_oid(tip)
    check_oid(base)
    with target.open("wb") as stream:
        git.call(*_PACKING, "--revs", data=f"{tip}\n--not\n{base}\n".encode(), target=stream)
    inside: dict[str, list[str]] = {}
    for line in git.out("rev-list", "--parents", tip, f"^{base}").splitlines():
        commit, *parents = line.split()
        inside[commit] = parents
    cut = [c for c, parents in inside.items() if any(p not in inside and p != base for p in parents)]
    return target.stat().st_size, cut


def unpack(store: Store, pack: Path, *, whole: bool = True) -> None:
    """Take a pack in. `whole`: every link of its objects must lead to something that is here.

    (The parents of a base are not; its objects are checked, its links are not.) Raises `InfraError`.
    """
    with store.quarantine() as quarantine:
        git = Git(store.git_dir, objects=quarantine)
        with pack.open("rb") as source:
            check = "--strict" if whole else "--fsck-objects"
            git.call("index-pack", "--stdin", check, source=source)
        store.adopt(quarantine)


def fetch_base(pool: Store, remote: str, base: str) -> None:
    """Fetch one commit without history from a git remote, with this machine's own credentials.

    Raises `InfraError` with what git said.
    """
    kept = {name: os.environ[name] for name in _REMOTE_SETTINGS if name in os.environ}
    argv = ["git", "--git-dir", str(pool.git_dir), "fetch", "--depth=1", "--no-tags", "--quiet"]
    done = subprocess.run(
        [*argv, "--no-write-fetch-head", "--end-of-options", remote, check_oid(base)],
        env=base_env() | kept | {"GIT_ALLOW_PROTOCOL": _REMOTE_PROTOCOLS},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise InfraError(
            f"commit {base[:12]} could not be fetched from {remote}",
            why=done.stderr.decode("utf-8", "replace").strip()[-1000:],
            fix="push the base there, and give this machine read access (distributed.remote)",
            code="AF-INFRA-045",
        )


@contextmanager
def parcel(store: Store) -> Iterator[Path]:
    """A file for a pack on its way, beside the store; removed afterwards."""
    with tempfile.TemporaryDirectory(dir=store.git_dir, prefix="parcel-") as folder:
        yield Path(folder) / "pack"
