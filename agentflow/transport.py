"""Where a run's git objects are on this machine, and how they come and go.

On the submitter's machine workers borrow the objects of the user's repository (`alternates`): nothing has
to be carried. Elsewhere they come as packs through Redis (`packs`): the base once per project, without its
history, then each attempt's commit as what it adds to the commits that it was built on. A worker opens no
file of the submitter's and holds no right to push.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from agentflow.config import Config
from agentflow.environment import ObjectTransport
from agentflow.errors import InfraError, PolicyViolation, RepositoryError
from agentflow.store.logs import LOG_CAP_BYTES, Logs
from agentflow.store.packs import FULL_SHARE, WORK_SHARE, FullError, PackRecord, Packs
from agentflow.store.records import RunRecord
from agentflow.workspace import leftovers, parcels
from agentflow.workspace.gitcmd import Git
from agentflow.workspace.store import Store, locked

ALTERNATES = "alternates"
PACKS = "packs"
#: Incremental bases that are put on top of one another before a whole one is sent again.
BASES_IN_LINE = 8
#: Newest bases of a project among which one is looked for that this repository has.
BASES_LOOKED_AT = 20
_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Depot:
    """A run's objects on this machine: the store to work with, and the transport to and from it."""

    store: Store
    transport: ObjectTransport

    def bring(self, commits: Sequence[str]) -> None:
        """Make these commits readable in the store."""
        self.transport.bring(commits)

    def share(self, commit: str, needs: Sequence[str], *, pack: Path | None = None) -> None:
        """Let other machines have `commit`, which is built on `needs`.

        `pack`: what it adds to them, when somebody has packed that already.
        """
        self.transport.share(commit, needs, pack=pack)


class Alternates:
    """Everybody reads the same directories: nothing to carry."""

    def bring(self, commits: Sequence[str]) -> None:
        """They are here."""

    def share(self, commit: str, needs: Sequence[str], *, pack: Path | None = None) -> None:
        """It is here for all."""


def open_depot(config: Config, run: RunRecord) -> Depot:
    """The objects of a run on this machine. Cheap when they are here. Raises `InfraError`."""
    if run.transport != PACKS:
        return Depot(Store.open(config.data_dir, run.project, Path(run.repo)), Alternates())
    pool = parcels.open_pool(config.data_dir, run.project)
    folder = config.data_dir / "runs" / run.id
    store = parcels.open_run_store(folder, pool, run.base)
    leftovers.sign(folder, config.client_url())
    return Depot(store, PackTransport(config, run, pool, store))


class PackTransport:
    """Packs through Redis, for one run on one machine."""

    def __init__(self, config: Config, run: RunRecord, pool: Store, store: Store) -> None:
        self._run = run
        self._pool = pool
        self._store = store
        self._cap = config.distributed.max_pack_mb << 20
        self._born = parcels.incarnation(store)
        self._bases = base_packs(config, run.project)
        self._work = run_packs(config, run.id)

    def bring(self, commits: Sequence[str]) -> None:
        """Fetch what is missing, with all that it needs, one thread of this machine at a time."""
        unknown = [commit for commit in dict.fromkeys(commits) if not self._is_noted(commit)]
        missing = self._store.missing(unknown)
        for commit in set(unknown).difference(missing):
            self._note(commit)
        if not missing:
            return
        git_dir = self._store.git_dir
        with _lock_of(git_dir), locked(git_dir.with_suffix(".bring.lock")):
            # The merge that a node started from has no pack of its own: it comes with what was built on it.
            own = [commit for commit in missing if commit == self._run.base or self._work.find(commit)]
            for commit in own:
                self._fetch(commit)
            for commit in missing:
                if not self._has(commit):
                    self._fetch(commit)

    def _has(self, commit: str) -> bool:
        return self._is_noted(commit) or (self._store.has(commit) and self._note(commit))

    def _is_noted(self, commit: str) -> bool:
        return (self._store.git_dir, self._born, commit) in _HERE

    def _note(self, commit: str) -> bool:
        if len(_HERE) > _HERE_MAX:
            _HERE.clear()
        _HERE.add((self._store.git_dir, self._born, commit))
        return True

    def _fetch(self, commit: str) -> None:
        """One commit after those that it needs (a line of them may be long: no recursion)."""
        line, seen = [commit], set[str]()
        while line:
            wanted = line[-1]
            if self._is_noted(wanted):
                line.pop()
                continue
            if wanted == self._run.base:
                bring_base(self._bases, self._pool, wanted)
            else:
                record = self._work.find(wanted)
                if record is None:
                    raise _gone(self._run.id, wanted)
                needs = [need for need in record.needs if not self._has(need)]
                if needs:
                    _look_into(wanted, seen)
                    line += needs
                    continue
                take(self._work, record, self._store)
            if not self._has(wanted):
                raise _gone(self._run.id, wanted)

    def share(self, commit: str, needs: Sequence[str], *, pack: Path | None = None) -> None:
        """Put what `commit` adds to `needs` into Redis, once.

        Raises `PolicyViolation` above the cap, `FullError` when Redis has no room for it.
        """
        self._note(commit)
        if commit in needs or commit == self._run.base or self._work.find(commit):
            return
        if pack is not None:
            self._put(commit, needs, pack)
            return
        with parcels.parcel(self._store) as own:
            parcels.pack_work(self._store, commit, needs, own)
            self._put(commit, needs, own)

    def _put(self, commit: str, needs: Sequence[str], pack: Path) -> None:
        size = pack.stat().st_size
        if size > self._cap:
            told = f"the work is {size >> 20} MiB packed; at most {self._cap >> 20} are carried"
            raise PolicyViolation(
                told,
                why="it travels through Redis (distributed.max_pack_mb)",
                fix="keep large and generated files out of the repository (.gitignore)",
                code="AF-POLICY-016",
                feedback=f"{told}. Keep large and generated files out of the repository.",
            )
        self._work.put(commit, pack, needs)


#: Commits known to be in a store of this machine (asking git costs a process); the number is the store's
#: incarnation: another process may have removed it and made it again.
_HERE: set[tuple[Path, int, str]] = set()
_HERE_MAX = 100_000


@functools.lru_cache(maxsize=256)
def _lock_of(git_dir: Path) -> threading.Lock:
    """One thread of this process at a time asks Redis for what a store lacks."""
    del git_dir
    return threading.Lock()


def base_packs(config: Config, project: str) -> Packs:
    """The packs of the bases of a project."""
    return Packs(config.client_url(), f"base-{project[:12]}", ttl_s=_ttl_s(config), full_share=FULL_SHARE)


def run_packs(config: Config, run_id: str) -> Packs:
    """The packs of the work of a run."""
    return Packs(config.client_url(), run_id, ttl_s=_ttl_s(config), full_share=WORK_SHARE)


def _ttl_s(config: Config) -> int:
    return int(config.distributed.pack_ttl_days * _DAY_S)


def _gone(run_id: str, commit: str) -> InfraError:
    return InfraError(
        f"commit {commit[:12]} of run {run_id} cannot be had from Redis",
        why="its pack has expired, or Redis lost it",
        fix=f"in a clone of the repository: agentflow resume {run_id}",
        code="AF-INFRA-044",
    )


def _look_into(commit: str, seen: set[str]) -> None:
    """Note that what a commit needs is fetched next. Seen again while it still needs something, it needs
    itself: no honest writer makes that, and following it would never end.
    """
    if commit in seen:
        raise InfraError(
            f"the pack of {commit[:12]} needs itself",
            why="somebody else than agentflow has written to Redis",
            fix="see who may, and run the feature again",
            code="AF-INFRA-046",
        )
    seen.add(commit)


def bring_base(packs: Packs, pool: Store, base: str) -> None:
    """Get a base into the pool of this machine, with the older bases that its pack was made against."""
    line, seen = [base], set[str]()
    with locked(pool.git_dir.with_suffix(".bring.lock")):
        while line:
            wanted = line[-1]
            if pool.has(wanted):
                line.pop()
                continue
            record = packs.find(wanted)
            if record is None:
                raise InfraError(
                    f"the base {wanted[:12]} cannot be had from Redis",
                    why="its pack has expired, or Redis lost it",
                    fix="`agentflow resume RUN` in a clone of the repository sends it again",
                    code="AF-INFRA-044",
                )
            needs = [need for need in record.needs if not pool.has(need)]
            if needs:
                _look_into(wanted, seen)
                line += needs
            elif record.remote:
                parcels.fetch_base(pool, record.remote, wanted)
            else:
                take(packs, record, pool, whole=False)
                pool.tidy()


def take(packs: Packs, record: PackRecord, store: Store, *, whole: bool = True) -> None:
    """Put a pack into a store; `whole`: all that its objects refer to must be there. Raises `InfraError`."""
    with parcels.parcel(store) as pack:
        packs.get(record, pack)
        if record.ends:
            parcels.end_history_at(store, record.ends)
        parcels.unpack(store, pack, whole=whole and not record.ends)
        if record.goes_on:
            parcels.end_history_at(store, (), goes_on=record.goes_on)


def publish_base(config: Config, project: str, base: str, git_dir: Path) -> PackRecord:
    """Put the base of a run where workers can get it: a pack, or a note of the remote that has it.

    When an older base of the project is still in Redis and here, only the difference is sent. Raises
    `RepositoryError` when it is larger than the cap and no remote is configured, `InfraError` when Redis
    is full.
    """
    packs = base_packs(config, project)
    remote = config.distributed.remote
    line = _line(packs, base)
    if line and line[0].remote in ("", remote) and packs.refresh(*line):
        return line[0]
    # There is none, part of it is gone, or it names a remote that is no longer the one.
    packs.drop(base)
    git = Git(git_dir)
    scratch = parcels.open_pool(config.data_dir, project)
    older = _older_base(packs, git)
    with parcels.parcel(scratch) as pack:
        size = parcels.pack_base(git, base, pack, without=older)
        if size <= config.distributed.max_pack_mb << 20:
            return packs.put(base, pack, [older] if older else [])
    if remote:
        return packs.refer(base, remote)
    raise RepositoryError(
        f"the base is {size >> 20} MiB packed; at most {config.distributed.max_pack_mb} are carried",
        why="it travels through Redis, which holds it in memory",
        fix="set distributed.remote to a git remote that the workers may read, and push the base there; "
        "or raise distributed.max_pack_mb",
        code="AF-REPO-020",
    )


def _line(packs: Packs, base: str) -> list[PackRecord]:
    """The packs that a worker needs for a base, newest first; empty when one of them is missing."""
    found: list[PackRecord] = []
    wanted: str | None = base
    while wanted:
        record = packs.find(wanted)
        if record is None:
            return []
        found.append(record)
        wanted = record.needs[0] if record.needs else None
        if len(found) > BASES_IN_LINE:
            return []
    return found


def _older_base(packs: Packs, git: Git) -> str:
    """A base that Redis has whole and this repository too; '' when there is none worth building on."""
    for commit in packs.commits()[:BASES_LOOKED_AT]:
        line = _line(packs, commit)
        if not line or line[-1].remote:
            continue
        if git.call("cat-file", "-e", f"{commit}^{{commit}}", ok=(0, 1, 128)).returncode:
            continue
        if len(line) >= BASES_IN_LINE:
            return ""
        if packs.refresh(*line):
            return commit
    return ""


def publish_history(config: Config, run: RunRecord, git_dir: Path, tip: str) -> None:
    """Let workers have a target that moved (`tip`), to integrate the run on top of it."""
    pool = parcels.open_pool(config.data_dir, run.project)
    with parcels.parcel(pool) as pack:
        size, cut, goes_on = parcels.pack_history(Git(git_dir), tip, run.base, pack)
        if size > config.distributed.max_pack_mb << 20:
            raise InfraError(
                f"what the target branch holds by now is {size >> 20} MiB packed",
                fix="raise distributed.max_pack_mb, or merge the result yourself",
                code="AF-INFRA-043",
            )
        run_packs(config, run.id).put(tip, pack, [run.base], ends=cut, goes_on=goes_on)


def keep_work(config: Config, run: RunRecord, commits: Collection[str], git_dir: Path | None = None) -> None:
    """Let the packs of a run live for another TTL; what Redis has lost comes again from the repository
    `git_dir`, where that has it.
    """
    if run.transport != PACKS:
        return
    packs = run_packs(config, run.id)
    bases = base_packs(config, run.project)
    bases.refresh(*_line(bases, run.base))
    for commit in commits:
        record = packs.find(commit)
        if (record and packs.refresh(record)) or commit == run.base:
            continue
        user = Store(git_dir) if git_dir else None
        if user and user.has(commit):
            packs.drop(commit)
            with parcels.parcel(parcels.open_pool(config.data_dir, run.project)) as pack:
                parcels.pack_work(user, commit, [run.base], pack)
                packs.put(commit, pack, [run.base])


def send_logs(config: Config, run: RunRecord, folder: Path, prefix: str) -> None:
    """Let others read the ends of the logs in `folder` whose names begin with `prefix`.

    Nothing is sent when submitter and worker share a machine. Never raises: a log is not worth an attempt
    (nor the memory of a server that is nearly full).
    """
    if run.transport != PACKS:
        return
    for path in folder.glob(f"{glob.escape(prefix)}*log"):
        with contextlib.suppress(OSError, redis.RedisError, FullError), path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - LOG_CAP_BYTES))
            Logs(config.client_url(), run.id).put(path.name, stream.read())


def bring_logs(config: Config, run: RunRecord, folder: Path) -> None:
    """Write the logs of other machines into `folder`; those that are from here stay as they are."""
    if run.transport != PACKS:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in Logs(config.client_url(), run.id).all().items():
        path = folder / name
        if Path(name).name != name or path.suffix != ".log":
            continue
        if not path.exists() or path.stat().st_size < len(text):
            path.write_bytes(text)


def forget_run(config: Config, run_id: str) -> None:
    """Remove what a run has left in Redis besides its ledger: packs and logs."""
    run_packs(config, run_id).forget()
    Logs(config.client_url(), run_id).forget()


def tidy(
    config: Config, open_runs: Collection[str], *, older_than_s: float = leftovers.TIDY_AFTER_S
) -> list[str]:
    """Remove stores and workspaces here of runs that are not open and were not used for a day; objects can
    be brought again. Returns the ids of these runs. Logs stay (`agentflow gc` removes them).
    """
    return leftovers.tidy(config.data_dir, config.client_url(), open_runs, older_than_s)
