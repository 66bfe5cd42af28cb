"""Repositories and targets that agentflow cannot work with: refused by name, before anything happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.bad_input import FILES, GOOD, RIGHT, TARGET, Project
from helpers.repos import commit_all, git, init, make_repo, untouched
from helpers.wait import wait_until

from agentflow.errors import Exit


def nothing(repo: Path) -> None:
    shutil.rmtree(repo / ".git")


def unborn(repo: Path) -> None:
    shutil.rmtree(repo / ".git")
    init(repo)


def shallow(repo: Path) -> None:
    (repo / "more.txt").write_text("more\n")
    commit_all(repo, "second")
    source = repo.rename(repo.with_name("origin"))
    git(source.parent, "clone", "--quiet", "--depth=1", f"file://{source}", str(repo))


def submodule(repo: Path) -> None:
    other = make_repo(repo.with_name("other"), {"a.txt": "a\n"})
    git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "vendor")
    commit_all(repo, "a submodule")


def lfs(repo: Path) -> None:
    (repo / ".gitattributes").write_text("*.png filter=lfs diff=lfs merge=lfs -text\n")
    commit_all(repo, "large files")


def sha256(repo: Path) -> None:
    shutil.rmtree(repo / ".git")
    init(repo, "--object-format=sha256")
    commit_all(repo, "first")


def checked_out(repo: Path) -> None:
    git(repo, "worktree", "add", "--quiet", "-b", TARGET, str(repo.with_name("beside")))


def same(_repo: Path) -> None:
    """Nothing is wrong with the repository."""


BAD: dict[str, tuple[Callable[[Path], None], dict[str, str], dict[str, str]]] = {
    "not a repository": (
        nothing,
        {},
        {"code": "AF-REPO-003", "what": "is not a git repository", "fix": "git init"},
    ),
    "unborn branch": (
        unborn,
        {},
        {"code": "AF-REPO-007", "what": "has no commit yet", "why": "unborn branch", "fix": "git commit"},
    ),
    "missing base ref": (
        same,
        {"base": "mian"},
        {"code": "AF-REPO-008", "what": "the base 'mian' names no commit", "fix": "did you mean 'main'?"},
    ),
    "shallow clone": (
        shallow,
        {},
        {
            "code": "AF-REPO-005",
            "what": "is a shallow clone",
            "why": "history is cut off",
            "fix": "git fetch --unshallow",
        },
    ),
    "submodules": (
        submodule,
        {},
        {
            "code": "AF-REPO-010",
            "what": "has submodules: vendor",
            "why": "would lack their files",
            "fix": "a base without submodules",
        },
    ),
    "LFS": (
        lfs,
        {},
        {"code": "AF-REPO-011", "what": "uses Git LFS", "why": "filter=lfs", "fix": "a base without LFS"},
    ),
    "SHA-256": (
        sha256,
        {},
        {
            "code": "AF-REPO-004",
            "what": "uses sha256 object ids",
            "why": "sha1 only",
            "fix": "a sha1 repository",
        },
    ),
    "target checked out": (
        checked_out,
        {},
        {
            "code": "AF-REPO-012",
            "what": f"the target branch '{TARGET}' is checked out in ",
            "why": "move it under that checkout",
            "fix": "another `target:`",
        },
    ),
    "target checked out here": (
        same,
        {"target": "main"},
        {"code": "AF-REPO-012", "what": "the target branch 'main' is checked out in ", "fix": "switch"},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_by_name_and_nothing_has_happened(project: Project, name: str) -> None:
    spoil, fields, said = BAD[name]
    spoil(project.repo)
    is_repository = (project.repo / ".git").exists()
    before = untouched(project.repo) if is_repository and name != "unborn branch" else None
    project.refused(project.feature(spec=fields), exit_code=Exit.SPEC, **said)
    assert before is None or untouched(project.repo) == before


@pytest.mark.parametrize("name", ["unborn branch", "target checked out"])
def test_what_was_refused_runs_when_it_is_put_right(project: Project, name: str) -> None:
    spoil, fields, said = BAD[name]
    spoil(project.repo)
    file = project.feature(spec=fields)
    project.refused(file, exit_code=Exit.SPEC, **said)
    if name == "unborn branch":
        commit_all(project.repo, "first")
    else:
        git(project.repo, "worktree", "remove", str(project.place / "beside"))
        git(project.repo, "branch", "-D", TARGET)
    project.check_landed(project.run(file, code=Exit.OK))


def test_a_branch_of_that_name_that_somebody_else_made_is_left_alone(project: Project) -> None:
    (project.repo / "theirs.txt").write_text("theirs\n")
    git(project.repo, "switch", "--quiet", "--create", TARGET)
    theirs = commit_all(project.repo, "theirs")
    git(project.repo, "switch", "--quiet", "main")
    before = untouched(project.repo, target=f"{TARGET}-2")
    result = project.run(project.feature(), code=Exit.OK)
    project.check_landed(result, f"{TARGET}-2")
    assert git(project.repo, "rev-parse", TARGET) == theirs
    assert untouched(project.repo, target=f"{TARGET}-2") == before


def test_a_branch_of_that_name_that_agentflow_made_is_moved_on(project: Project) -> None:
    first = project.run(project.feature(), code=Exit.OK)
    second = project.run(project.feature(), "--no-cache", code=Exit.OK)
    project.check_landed(second)
    assert first["commit"] != second["commit"]
    assert git(project.repo, "branch", "--list", "agentflow/*", "--format=%(refname:short)") == TARGET


def test_uncommitted_changes_are_told_and_stay(project: Project) -> None:
    (project.repo / "app.py").write_text("half done\n")
    (project.repo / "new.txt").write_text("new\n")
    git(project.repo, "add", "new.txt")
    before = untouched(project.repo, target=TARGET)
    result = project.run(project.feature(), code=Exit.OK)
    project.check_landed(result)
    assert "uncommitted changes are not part of the run" in result["stderr"]
    assert (project.repo / "app.py").read_text() == "half done\n"
    assert untouched(project.repo, target=TARGET) == before


# -- the target moves while the run goes on ----------------------------------------------------------


def move_meanwhile(project: Project, name: str, content: str, *, code: int) -> tuple[dict[str, object], str]:
    """Run a feature onto `release`, which gets a commit while the agent works: (result, that commit)."""
    git(project.repo, "branch", "release")
    gate, begun = project.place / "gate", project.place / "begun"
    wait = (
        "import pathlib, time\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)\n"
        f"open('app.py', 'w').write({RIGHT!r})\n"
    )
    file = project.feature({"command": ["{python}", "-c", wait]}, spec={"target": "release"})
    command = project.start(file)
    wait_until(begun.exists, timeout=40, what="the agent works")
    beside = project.place / "beside"
    git(project.repo, "worktree", "add", "--quiet", str(beside), "release")
    (beside / name).write_text(content)
    moved = commit_all(beside, "meanwhile")
    git(project.repo, "worktree", "remove", str(beside))
    gate.touch()
    return project.house.result_of(command, code=code), moved


def test_a_target_that_moved_meanwhile_is_merged_not_overwritten(project: Project) -> None:
    result, moved = move_meanwhile(project, "theirs.txt", "theirs\n", code=Exit.OK)
    project.check_landed(result, "release")
    assert git(project.repo, "show", "release:theirs.txt") == "theirs"
    git(project.repo, "merge-base", "--is-ancestor", moved, "release")


def test_a_target_that_moved_in_the_same_lines_stays_and_the_work_is_kept(project: Project) -> None:
    result, moved = move_meanwhile(project, "app.py", FILES["app.py"].replace("41", "40"), code=Exit.CONFLICT)
    assert git(project.repo, "rev-parse", "release") == moved
    said = str(result["stderr"])
    assert "error[AF-CONFLICT-004]: the target branch 'release' is at " in said
    assert "app.py" in said
    assert "fix: merge " in said
    run_id = str(result["run"])
    kept = git(project.repo, "show", f"refs/agentflow/runs/{run_id}/nodes/fix:app.py")
    assert kept == RIGHT.strip()
    # When whoever moved it takes that back, the run goes on from the work that is there.
    git(project.repo, "update-ref", "refs/heads/release", "main")
    again = project.house.finished("resume", run_id)
    project.check_landed(again, "release")
    assert again["nodes"]["fix"]["attempts"] == 1


def test_the_good_agent_is_good(project: Project) -> None:
    """What the other tests of this file change is what decides."""
    project.check_landed(project.run(project.feature(GOOD), code=Exit.OK))
