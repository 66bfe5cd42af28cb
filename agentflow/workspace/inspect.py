"""Looking at the user's repository before a run, and refusing by name what agentflow cannot run on.

Only here is git run with the user's own configuration (their safe.directory, their ignores), as they
themselves run it in that directory; nothing is written, not even the index.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from agentflow.errors import InfraError, RepositoryError
from agentflow.workspace.gitcmd import TIMEOUT_S, Git, base_env, check_oid, is_branch_name, require_version
from agentflow.workspace.objects import Reader
from agentflow.workspace.trees import GITLINK, Counter

#: Files that a workspace may hold.
TREE_MAX_FILES = 1_000_000
_REVISION = re.compile(r"[A-Za-z0-9@_][A-Za-z0-9._/~^@{}+-]{0,199}")
_USER_SETTINGS = ("HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM")


@dataclass(frozen=True, slots=True)
class RepoFacts:
    """A repository that agentflow can run on.

    `root` is its top directory (the git directory, if bare); `git_dir` is shared by all its worktrees, and
    `objects` lies in it. `base` is a full commit id, `project` the id of the first commit of its history.
    `notes` are told to the user.
    """

    root: Path
    git_dir: Path
    objects: Path
    base: str
    project: str
    dirty: bool = False
    notes: list[str] = field(default_factory=list)


def check_repository(path: Path, base: str, target: str) -> RepoFacts:
    """Everything that must hold before a run from `base` to the branch `target` can start.

    Raises `RepositoryError` with what is in the way.
    """
    require_version()
    check_names(base, target)
    root, git_dir, objects = _locate(path)
    git = Git(git_dir)
    commit = _resolve(root, base)
    _check_tree(git, commit)
    refuse_checked_out(git_dir, target)
    roots = git.out("rev-list", "--first-parent", "--max-parents=0", commit).split()
    dirty = root != git_dir and bool(
        _user_git(root, "status", "--porcelain", "--ignore-submodules=all").stdout
    )
    notes = (
        ["uncommitted changes are not part of the run: it starts from commit " + commit[:12]] if dirty else []
    )
    return RepoFacts(root, git_dir, objects, commit, roots[-1], dirty, notes)


def project_of(path: Path) -> str:
    """What tells the project from others: the first commit of its history. Raises `RepositoryError`."""
    root, git_dir, _ = _locate(path)
    commit = _resolve(root, "HEAD")
    return Git(git_dir).out("rev-list", "--first-parent", "--max-parents=0", commit).split()[-1]


def git_dir_of(root: Path) -> Path:
    """The git directory of a repository's top directory (or of itself, if bare). Raises `RepositoryError`."""
    return _locate(root)[1]


def clone_with(path: Path, commit: str) -> Path | None:
    """The git directory of the repository that `path` is in, when it holds `commit`; else None."""
    try:
        git_dir = _locate(path)[1]
    except RepositoryError:
        return None
    has = Git(git_dir).call("cat-file", "-e", f"{check_oid(commit)}^{{commit}}", ok=(0, 1, 128))
    return git_dir if has.returncode == 0 else None


def check_names(base: str, target: str) -> None:
    """Refuse names that could be options, shell words or other refs; stricter than git (ATTACKS D17, D18)."""
    if not _REVISION.fullmatch(base) or ".." in base or "@{-" in base:
        raise RepositoryError(
            f"{base!r} cannot be the base",
            fix="name a branch, a tag or a commit: HEAD, main, v1.2",
            code="AF-REPO-001",
        )
    if not is_branch_name(target) or target.startswith("refs/"):
        raise RepositoryError(
            f"{target!r} cannot be the target branch",
            fix="letters, digits and . _ / + - only, for example agentflow/my-feature",
            code="AF-REPO-002",
        )


def _user_git(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Git as the user runs it there, but that it writes nothing and asks nothing."""
    kept = {name: os.environ[name] for name in _USER_SETTINGS if name in os.environ}
    try:
        return subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", *args],
            cwd=cwd,
            env=base_env() | kept,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RepositoryError(
            f"{cwd} is not a directory",
            why=str(error),
            fix="name the directory of a repository",
            code="AF-REPO-003",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InfraError(
            "git did not answer", why=" ".join(args), fix="see whether the disk answers"
        ) from error


def _locate(path: Path) -> tuple[Path, Path, Path]:
    """Top directory, shared git directory and object directory; the kinds that are refused by name."""
    done = _user_git(
        path,
        *("rev-parse", "--path-format=absolute", "--git-common-dir", "--git-path", "objects"),
        *("--is-bare-repository", "--is-shallow-repository", "--show-object-format"),
    )
    if done.returncode:
        raise RepositoryError(
            f"{path} is not a git repository",
            why=done.stderr.strip()[-500:],
            fix="run agentflow in a repository, or `git init` and make a first commit",
            code="AF-REPO-003",
        )
    git_dir, objects, bare, shallow, hashing = done.stdout.splitlines()
    _refuse_kinds(Path(git_dir), shallow=shallow == "true", hashing=hashing)
    if bare == "true":
        return Path(git_dir), Path(git_dir), Path(objects)
    top = _user_git(path, "rev-parse", "--path-format=absolute", "--show-toplevel")
    if top.returncode:  # inside of .git
        raise RepositoryError(
            f"{path} is inside of a git directory", fix="run agentflow beside it", code="AF-REPO-003"
        )
    return Path(top.stdout.rstrip("\n")), Path(git_dir), Path(objects)


def _refuse_kinds(git_dir: Path, *, shallow: bool, hashing: str) -> None:
    if hashing != "sha1":
        raise RepositoryError(
            f"the repository uses {hashing} object ids",
            why="agentflow knows sha1 only",
            fix="use a sha1 repository",
            code="AF-REPO-004",
        )
    if shallow:
        raise RepositoryError(
            "the repository is a shallow clone",
            why="its history is cut off, so work cannot be merged reliably",
            fix="run `git fetch --unshallow`",
            code="AF-REPO-005",
        )
    keys = r"^(extensions\.partialclone|remote\..*\.promisor)$"
    if Git(git_dir).call("config", "--get-regexp", keys, ok=(0, 1)).returncode == 0:
        raise RepositoryError(
            "the repository is a partial clone",
            why="some of its objects are missing and would be fetched in the middle of a run",
            fix="clone it without --filter",
            code="AF-REPO-006",
        )


def _resolve(root: Path, base: str) -> str:
    """The full id of the commit that `base` names."""
    done = _user_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}")
    if done.returncode == 0:
        return done.stdout.strip()
    if _user_git(root, "rev-parse", "--verify", "--quiet", "HEAD").returncode and base == "HEAD":
        raise RepositoryError(
            "the repository has no commit yet",
            why="HEAD is on an unborn branch: there is nothing to start from",
            fix="make a first commit: git add -A && git commit -m 'first'",
            code="AF-REPO-007",
        )
    names = _user_git(
        root, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes"
    )
    near = difflib.get_close_matches(base, names.stdout.split(), n=1)
    raise RepositoryError(
        f"the base {base!r} names no commit",
        fix=f"did you mean {near[0]!r}?" if near else "`git branch -a` lists the branches",
        code="AF-REPO-008",
    )


def _check_tree(git: Git, commit: str) -> None:
    """Refuse trees that a workspace cannot hold, submodules and LFS."""
    with Reader(git) as reader:
        files = Counter().files(reader, git.out("rev-parse", f"{commit}^{{tree}}"))
    if files > TREE_MAX_FILES:
        raise RepositoryError(
            f"the base holds {files} files; at most {TREE_MAX_FILES} are supported", code="AF-REPO-009"
        )
    listed = git.out("ls-tree", "-r", "-z", "--full-tree", commit).split("\0")
    links = [line.partition("\t")[2] for line in listed if line.startswith(GITLINK)]
    if links or any(line.endswith("\t.gitmodules") for line in listed):
        raise RepositoryError(
            "the repository has submodules: " + (", ".join(links[:5]) or ".gitmodules"),
            why="a workspace would lack their files",
            fix="use a base without submodules",
            code="AF-REPO-010",
        )
    attributes = [line for line in listed if line.endswith(("\t.gitattributes", "/.gitattributes"))]
    if any(_names_lfs(git, line.split()[2]) for line in attributes):
        raise RepositoryError(
            "the repository uses Git LFS",
            why="a .gitattributes has filter=lfs: a workspace would hold pointers instead of files",
            fix="use a base without LFS",
            code="AF-REPO-011",
        )


def files_at(path: Path, base: str = "HEAD") -> list[str]:
    """The files of a commit of the repository that holds `path`. Raises `RepositoryError`."""
    root, git_dir, _ = _locate(path)
    listed = Git(git_dir).out("ls-tree", "-r", "-z", "--name-only", "--full-tree", _resolve(root, base))
    return [name for name in listed.split("\0") if name]


def _names_lfs(git: Git, oid: str) -> bool:
    text = git.out("cat-file", "blob", oid)
    return any(
        "filter=lfs" in line.split() for line in text.splitlines() if not line.lstrip().startswith("#")
    )


def refuse_checked_out(git_dir: Path, branch: str) -> None:
    """Raise `RepositoryError` when a worktree of the repository has `branch` checked out."""
    where = checked_out(git_dir).get(f"refs/heads/{branch}")
    if where:
        raise RepositoryError(
            f"the target branch {branch!r} is checked out in {where}",
            why="landing would move it under that checkout",
            fix=f"`git -C {where} switch` to another branch, or name another `target:`",
            code="AF-REPO-012",
        )


def checked_out(git_dir: Path) -> dict[str, str]:
    """Branches (full names) that worktrees have checked out, with the worktree's path."""
    found: dict[str, str] = {}
    for block in Git(git_dir).out("worktree", "list", "--porcelain", "-z").split("\0\0"):
        lines = dict(line.partition(" ")[::2] for line in block.split("\0") if line)
        if "branch" in lines:
            found[lines["branch"]] = lines.get("worktree", "")
    return found
