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

from agentflow.errors import ConflictError, InfraError
from agentflow.places import masked
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
    """The store of one run, in the run's own directory. History ends at `base`.

    One that is not whole (somebody died while it was removed), or whose pool has moved, is put right.
    """
    git_dir = folder.absolute() / "store.git"
    alternates, line = git_dir / "objects" / "info" / "alternates", f"{pool.objects}\n"
    if not (git_dir / "shallow").exists() or not alternates.exists() or alternates.read_text() != line:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.absolute() / "store.lock"):
            create_bare(git_dir)
            write_atomically(alternates, line)
            if not (git_dir / "shallow").exists():
                write_atomically(git_dir / "shallow", f"{check_oid(base)}\n")
    return Store(git_dir, pool.name)


def incarnation(store: Store) -> int:
    """Differs between two stores that were made at the same place one after the other."""
    return (store.git_dir / "config").stat().st_mtime_ns


def end_history_at(store: Store, commits: Sequence[str], *, goes_on: Sequence[str] = ()) -> None:
    """Tell git that the history of these commits is not here either, and that of `goes_on` is by now."""
    path = store.git_dir / "shallow"
    with locked(store.git_dir.with_suffix(".lock")):
        known = path.read_text().split()
        ends = dict.fromkeys([*known, *map(check_oid, commits)])
        wanted = [oid for oid in ends if oid not in goes_on]
        if wanted != known:
            write_atomically(path, "".join(f"{oid}\n" for oid in wanted))


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


def pack_history(git: Git, tip: str, base: str, target: Path) -> tuple[int, list[str], list[str]]:
    """Pack what merging with `tip` takes beyond `base`: both their histories since they parted.

    Returns the size in bytes, the commits whose parents are not in it (history ends there) and those whose
    parents a store that knew only `base` has from now on. Raises `ConflictError` when there is no single
    commit in which they parted.
    """
    parted = git.out("merge-base", "--all", check_oid(tip), check_oid(base), ok=(0, 1)).split()
    if len(parted) != 1:
        raise ConflictError(
            f"the target's {tip[:12]} and the base {base[:12]} have {len(parted)} nearest commits in common",
            why="elsewhere they can be merged only from the one commit in which they parted",
            fix="merge refs/agentflow/runs/RUN/result into the target yourself",
            code="AF-CONFLICT-005",
        )
    since = [tip, base, f"^{parted[0]}"]
    inside: dict[str, list[str]] = {}
    for line in git.out("rev-list", "--parents", *since).splitlines():
        commit, *parents = line.split()
        inside[commit] = parents
    listed = git.out("rev-list", "--objects", *since).splitlines()
    if parted[0] != base:
        held = _objects(git, base)
        listed += [f"{oid} {name}" for oid, name in _objects(git, parted[0]).items() if oid not in held]
        inside[parted[0]] = [""]
    wanted = "".join(f"{line}\n" for line in listed).encode("utf-8", "surrogateescape")
    with target.open("wb") as stream:
        git.call(*_PACKING, data=wanted, target=stream)
    cut = [c for c, parents in inside.items() if any(p not in inside and p != base for p in parents)]
    return target.stat().st_size, cut, [base] if base in inside and base not in cut else []


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
    # Nobody else fetches now (the caller holds the pool's lock): this one is of a git that was killed.
    (pool.git_dir / "shallow.lock").unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [*argv, "--no-write-fetch-head", "--end-of-options", remote, check_oid(base)],
            env=base_env() | kept | {"GIT_ALLOW_PROTOCOL": _REMOTE_PROTOCOLS},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _not_fetched(remote, base, f"git had not ended after {TIMEOUT_S:g} s") from error
    if done.returncode:
        raise _not_fetched(remote, base, done.stderr.decode("utf-8", "replace").strip()[-1000:])


def _not_fetched(remote: str, base: str, why: str) -> InfraError:
    return InfraError(
        f"commit {base[:12]} could not be fetched from {masked(remote)}",
        why=why.replace(remote, masked(remote)),
        fix="push the base there, and give this machine read access (distributed.remote)",
        code="AF-INFRA-045",
    )


@contextmanager
def parcel(store: Store) -> Iterator[Path]:
    """A file for a pack on its way, beside the store; removed afterwards."""
    with tempfile.TemporaryDirectory(dir=store.git_dir, prefix="parcel-") as folder:
        yield Path(folder) / "pack"
