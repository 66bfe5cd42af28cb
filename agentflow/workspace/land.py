"""Bringing a run's work into the user's repository: hidden refs always, the target branch at the end.

Nothing else of it is touched: no index, no checkout, no configuration, no hook is run. Objects are sent
as one pack and checked as they come; refs move in one transaction, by compare-and-swap.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentflow import failpoints
from agentflow.errors import ConflictError, RepositoryError
from agentflow.workspace.gitcmd import Git, GitError, check_oid, is_branch_name, ref_part
from agentflow.workspace.inspect import check_names, refuse_checked_out
from agentflow.workspace.store import Store

_NONE = "0" * 40
#: The ref of a run, below its own, that keeps where the branch was before it landed.
TARGET_REF = "checkpoints/target"
#: The ref of a run, below its own, that says what it has landed in this repository.
LANDED_REF = "checkpoints/landed"
#: Objects from which on they stay together in a pack (git's own `fetch.unpackLimit`).
UNPACK_LIMIT = 100
#: Names tried for a branch that somebody else has: `name`, `name-2`, ... .
_SUFFIXES_MAX = 100


class TargetMovedError(ConflictError):
    """The target branch holds commits that the result does not; `current` is where it is."""

    code = "AF-CONFLICT-003"

    def __init__(self, branch: str, current: str, commit: str) -> None:
        self.branch = branch
        self.current = current
        super().__init__(
            f"the target branch {branch!r} is at {current[:12]}, which {commit[:12]} does not hold",
            why="it moved since the run started, or never was part of its base",
            fix="merge the result yourself, or run the feature again from the new state",
        )


@dataclass(frozen=True, slots=True)
class Landed:
    """The branch (perhaps with a suffix) that now points to the result."""

    branch: str
    commit: str


def guard_base(git_dir: Path, run: str, base: str) -> None:
    """Keep the run's base from being collected as garbage while the run lives."""
    Git(git_dir).call("update-ref", base_ref(run), check_oid(base))


def base_ref(run: str) -> str:
    """The hidden ref that guards a run's base."""
    return f"refs/agentflow/base/{ref_part(run)}"


def run_ref(run: str, name: str) -> str:
    """The hidden ref of something that a run made: `result`, `merged`, `nodes/<node>`."""
    *parents, last = name.split("/")
    return "/".join(["refs/agentflow/runs", ref_part(run), *parents, ref_part(last)])


def publish(
    store: Store, user_git_dir: Path, run: str, refs: Mapping[str, str], *, base: str = ""
) -> dict[str, str]:
    """Bring commits into the user's repository and name them by hidden refs; returns their full names.

    `refs` are names as for `run_ref`; `base` is what they are built on, when the repository has it.
    Harmless when it is done again. Raises `InfraError`.
    """
    named = {run_ref(run, name): check_oid(commit) for name, commit in refs.items()}
    if not named:
        return {}
    user = Git(user_git_dir)
    missing = _missing(user, sorted(set(named.values())))
    if missing:
        _send(store, user, missing, base)
    user.call("update-ref", "--stdin", data="".join(f"update {n} {c}\n" for n, c in named.items()).encode())
    return named


def _missing(user: Git, commits: list[str]) -> list[str]:
    asked = "".join(f"{commit}\n" for commit in commits).encode()
    answers = user.out("cat-file", "--batch-check", data=asked).splitlines()
    return [c for c, answer in zip(commits, answers, strict=True) if answer.endswith(" missing")]


def _send(store: Store, user: Git, commits: list[str], base: str) -> None:
    """Pack what the user's repository lacks and index it there; git checks every object and link.

    What the user's refs reach need not be sent; what they do not reach might be collected at any time.
    """
    known = user.out("for-each-ref", "--format=%(objectname)").split()
    held = _held(store, [*filter(None, [base]), *known])
    wanted = "".join([*(f"{c}\n" for c in commits), "--not\n", *(f"{c}\n" for c in held)]).encode()
    with tempfile.TemporaryFile(dir=store.git_dir) as pack:
        options = ("--revs", "--stdout", "-q", "--delta-base-offset", "--threads=1")
        store.git.call("pack-objects", *options, data=wanted, target=pack)
        pack.seek(8)
        count = int.from_bytes(pack.read(4), "big")
        pack.seek(0)
        # As `git fetch` does: while somebody is attached each settled node comes by itself, and a repository
        # with a pack for each would become slow.
        if count < UNPACK_LIMIT:
            user.call("unpack-objects", "-q", "--strict", source=pack)
        else:
            user.call("index-pack", "--stdin", "--strict", source=pack)


def _held(store: Store, oids: list[str]) -> list[str]:
    """Those of the user's refs that the store can read (through its alternates), each once."""
    asked = "".join(f"{oid}\n" for oid in dict.fromkeys(oids)).encode()
    answers = store.git.out("cat-file", "--batch-check", data=asked).splitlines() if asked else []
    return [answer.split()[0] for answer in answers if not answer.endswith(" missing")]


def land(user_git_dir: Path, *, commit: str, branch: str, run: str) -> Landed:
    """Point `branch` to `commit`, all or nothing; harmless when it is done again.

    A branch below `agentflow/` that somebody else made is left alone: the result goes to `<branch>-2` and
    so on. Any other branch is only ever moved forward. Raises `TargetMovedError` when it holds other commits
    or moves meanwhile, `RepositoryError` when it is checked out anywhere.
    """
    check_names("HEAD", branch)
    user = Git(user_git_dir)
    check_oid(commit)
    for number in range(1, _SUFFIXES_MAX):
        name = branch if number == 1 else f"{branch}-{number}"
        if not is_branch_name(name):
            break
        current = _read(user, f"refs/heads/{name}")
        if current == commit:
            _note_landed(user, commit, run)
            return Landed(name, commit)
        if current is None or _is_ours(user, name, current) or not branch.startswith("agentflow/"):
            if current and not branch.startswith("agentflow/") and not _is_ancestor(user, current, commit):
                raise TargetMovedError(name, current, commit)
            refuse_checked_out(user_git_dir, name)
            failpoints.at("land.published", run)
            _move(user, name, current, commit, run)
            failpoints.at("land.moved", run)
            return Landed(name, commit)
    raise ConflictError(
        f"{branch} and all its suffixes are taken", fix="remove old branches below agentflow/"
    )


def _move(user: Git, name: str, current: str | None, commit: str, run: str) -> None:
    """One transaction: the branch, from where it was seen, the note that it is ours, and where it was."""
    was = run_ref(run, TARGET_REF)
    lines = [
        f"update refs/heads/{name} {commit} {current or _NONE}",
        f"update {_landed_ref(name)} {commit}",
        f"update {run_ref(run, LANDED_REF)} {commit}",
        # Where a rollback takes the branch back to; without it the branch is new.
        *([f"update {was} {current}"] if current else [f"delete {was}"] if _read(user, was) else []),
    ]
    try:
        user.call(
            "update-ref", "-m", f"agentflow: land {run}", "--stdin", data="\n".join([*lines, ""]).encode()
        )
    except GitError as error:
        now = _read(user, f"refs/heads/{name}")
        if now != current and now is not None:
            raise TargetMovedError(name, now, commit) from error
        if "exists; cannot create" in error.stderr:
            raise ConflictError(
                f"there cannot be a branch {name!r} beside the branches that exist",
                why=error.stderr[-500:],
                fix="name another `target:`",
                code="AF-CONFLICT-006",
            ) from error
        raise


def _note_landed(user: Git, commit: str, run: str) -> None:
    """The branch is there already. Unless this run has put it there (and then died), another one that made
    the same commit has: a rollback of this run has nothing to take back.
    """
    landed = run_ref(run, LANDED_REF)
    if _read(user, landed) != commit:
        lines = f"update {landed} {commit}\nupdate {run_ref(run, TARGET_REF)} {commit}\n"
        user.call("update-ref", "--stdin", data=lines.encode())


def take_back(user_git_dir: Path, *, commit: str, branch: str, run: str) -> str:
    """Point `branch` to where it was before `commit` landed there; the commit it is at now, '' when it is
    gone. Harmless when it is done again.

    A branch that landing made is deleted; one that was there already stays. Raises `ConflictError` when it is
    no longer at `commit`: what came after is not agentflow's to take away. Raises `RepositoryError` when it
    is checked out anywhere, or when the run has not landed in this repository.
    """
    user = Git(user_git_dir)
    was, landed = run_ref(run, TARGET_REF), _landed_ref(branch)
    before = _read(user, was)
    current = _read(user, f"refs/heads/{branch}")
    if _read(user, run_ref(run, LANDED_REF)) != commit:
        raise _not_landed_here(user_git_dir, run)
    if before == commit:
        return current or ""
    if current in (before, None):
        return current or ""  # done already
    if current != commit:
        raise _has_moved_on(branch, str(current), commit, before)
    refuse_checked_out(user_git_dir, branch)
    name = f"refs/heads/{branch}"
    lines = [f"update {name} {before} {commit}" if before else f"delete {name} {commit}"]
    if _read(user, landed):
        is_ours = before and branch.startswith("agentflow/")
        lines.append(f"update {landed} {before}" if is_ours else f"delete {landed}")
    # What says where it was stays until the rollback has come to its end: it may have to be done again.
    try:
        text = "\n".join([*lines, ""])
        user.call("update-ref", "-m", f"agentflow: roll back {run}", "--stdin", data=text.encode())
    except GitError as error:
        now = _read(user, f"refs/heads/{branch}")
        if now not in (commit, None):
            raise _has_moved_on(branch, str(now), commit, before) from error
        raise
    return before or ""


def _not_landed_here(git_dir: Path, run: str) -> RepositoryError:
    return RepositoryError(
        f"run {run} has not landed in {git_dir}",
        why=f"its ref {run_ref(run, LANDED_REF)} is not there, so nothing tells where the branch was before",
        fix="type this in the clone in which the run has landed",
        code="AF-ROLLBACK-004",
    )


def _has_moved_on(branch: str, current: str, commit: str, before: str | None) -> ConflictError:
    return ConflictError(
        f"the branch {branch!r} is at {current[:12]}, no longer at {commit[:12]}",
        why="something else was put on top of what landed; moving the branch back would take it away",
        fix="undo it by a commit of your own: "
        f"git diff {(before or commit)[:12]} {commit[:12]} | git apply -R --index",
        code="AF-ROLLBACK-003",
    )


def _landed_ref(name: str) -> str:
    return f"refs/agentflow/landed/{ref_part(name)}"


def _is_ours(user: Git, name: str, current: str) -> bool:
    """Whether agentflow put the branch where it is."""
    return _read(user, _landed_ref(name)) == current


def _read(user: Git, ref: str) -> str | None:
    return user.out("rev-parse", "--verify", "--quiet", ref, ok=(0, 1)) or None


def _is_ancestor(user: Git, one: str, other: str) -> bool:
    return user.call("merge-base", "--is-ancestor", one, other, ok=(0, 1)).returncode == 0


def diffstat(git_dir: Path, one: str, other: str) -> str:
    """What changed between two commits, as `git diff --stat` shows it."""
    return _diff(git_dir, one, other, "--stat=100", "--summary")


def diff(git_dir: Path, one: str, other: str) -> str:
    """The whole difference between two commits as a patch."""
    return _diff(git_dir, one, other, "-p", "--full-index")


def _diff(git_dir: Path, one: str, other: str, *how: str) -> str:
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "-M")
    git = Git(git_dir)
    text = git.call("diff-tree", "-r", *plain, *how, check_oid(one), check_oid(other)).stdout
    return text.decode("utf-8", "replace")
