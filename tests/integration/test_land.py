"""Publishing and landing: all or nothing, by compare-and-swap, harmless twice."""

from __future__ import annotations

import threading

import pytest
from helpers.repos import git
from helpers.stores import fingerprint, make_bench, write

from agentflow.errors import ConflictError, RepositoryError
from agentflow.workspace import land
from agentflow.workspace.land import Landed, TargetMovedError

BRANCH = "agentflow/feature"


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, {"a.txt": "a\n"})


@pytest.fixture
def git_dir(bench):
    return bench.repo / ".git"


def published(bench, text: str) -> str:
    commit = bench.commit({"a.txt": text}, message=text)
    land.publish(bench.store, bench.repo / ".git", "run-1", {"result": commit})
    return commit


def tip(bench, branch: str) -> str:
    return git(bench.repo, "rev-parse", f"refs/heads/{branch}")


def user_commit(bench, text: str) -> str:
    write(bench.repo, {"user.txt": text})
    git(bench.repo, "add", "-A")
    git(bench.repo, "commit", "-qm", text)
    return git(bench.repo, "rev-parse", "HEAD")


def test_landing_makes_the_branch_and_is_harmless_twice(bench, git_dir):
    commit = published(bench, "one\n")
    for _ in range(2):
        assert land.land(git_dir, commit=commit, branch=BRANCH, run="run-1") == Landed(BRANCH, commit)
    assert tip(bench, BRANCH) == commit
    assert "agentflow: land run-1" in git(bench.repo, "reflog", BRANCH)
    assert git(bench.repo, "branch", "--show-current") == "main"


def test_publishing_twice_and_growing(bench, git_dir):
    one = published(bench, "one\n")
    land.publish(bench.store, git_dir, "run-1", {"result": one})
    two = bench.commit({"b.txt": "b\n"}, base=one)
    refs = land.publish(bench.store, git_dir, "run-1", {"merged": two, "nodes/n": one})
    assert git(bench.repo, "rev-parse", *refs).split() == [two, one]
    assert git(bench.repo, "fsck") == ""
    assert land.publish(bench.store, git_dir, "run-1", {}) == {}


def test_what_agentflow_landed_before_is_replaced(bench, git_dir):
    one, two = published(bench, "one\n"), published(bench, "two\n")
    land.land(git_dir, commit=one, branch=BRANCH, run="run-1")
    assert land.land(git_dir, commit=two, branch=BRANCH, run="run-2") == Landed(BRANCH, two)


def test_somebody_elses_branch_is_left_alone(bench, git_dir):
    git(bench.repo, "branch", BRANCH)
    git(bench.repo, "branch", f"{BRANCH}-2")
    commit = published(bench, "one\n")
    for _ in range(2):
        assert land.land(git_dir, commit=commit, branch=BRANCH, run="run-1") == Landed(f"{BRANCH}-3", commit)
    assert tip(bench, BRANCH) == tip(bench, f"{BRANCH}-2") == bench.base


def test_our_branch_with_somebodys_commit_on_top_is_theirs(bench, git_dir):
    one, two = published(bench, "one\n"), published(bench, "two\n")
    land.land(git_dir, commit=one, branch=BRANCH, run="run-1")
    git(bench.repo, "switch", "-q", BRANCH)
    theirs = user_commit(bench, "mine\n")
    git(bench.repo, "switch", "-q", "main")
    assert land.land(git_dir, commit=two, branch=BRANCH, run="run-2").branch == f"{BRANCH}-2"
    assert tip(bench, BRANCH) == theirs


def test_a_named_target_only_moves_forward(bench, git_dir):
    git(bench.repo, "branch", "develop")
    commit = published(bench, "one\n")
    assert land.land(git_dir, commit=commit, branch="develop", run="run-1").branch == "develop"
    git(bench.repo, "switch", "-q", "develop")
    moved = user_commit(bench, "moved\n")
    git(bench.repo, "switch", "-q", "main")
    with pytest.raises(TargetMovedError) as caught:
        land.land(git_dir, commit=published(bench, "two\n"), branch="develop", run="run-2")
    assert caught.value.current == moved
    assert tip(bench, "develop") == moved


def test_a_checked_out_target_is_refused_by_name(bench, git_dir, tmp_path):
    commit = published(bench, "one\n")
    before = fingerprint(bench.repo)
    with pytest.raises(RepositoryError, match="'main' is checked out"):
        land.land(git_dir, commit=commit, branch="main", run="run-1")
    assert fingerprint(bench.repo) == before
    git(bench.repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    with pytest.raises(RepositoryError, match=f"checked out in {tmp_path / 'side'}"):
        land.land(git_dir, commit=commit, branch="side", run="run-1")


def test_a_branch_that_git_cannot_have_beside_the_others(bench, git_dir):
    git(bench.repo, "branch", "agentflow")
    with pytest.raises(ConflictError, match="beside the branches that exist"):
        land.land(git_dir, commit=published(bench, "one\n"), branch=BRANCH, run="run-1")


@pytest.mark.parametrize(
    "branch", ["--output=x", "-u", "a b", "a;b", "a$(b)", "a..b", "refs/heads/x", "x.lock", ""]
)
def test_names_that_are_refused(bench, git_dir, branch):
    with pytest.raises(RepositoryError):
        land.land(git_dir, commit=bench.base, branch=branch, run="run-1")


def test_of_two_that_land_at_once_one_wins_and_the_other_is_told(bench, git_dir):
    git(bench.repo, "branch", "develop")
    commits = [published(bench, f"{n}\n") for n in range(4)]
    results: list[object] = []

    def attempt(commit: str) -> None:
        try:
            results.append(land.land(git_dir, commit=commit, branch="develop", run=commit[:8]))
        except TargetMovedError as error:
            results.append(error)

    threads = [threading.Thread(target=attempt, args=[c]) for c in commits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    landed = [r for r in results if isinstance(r, Landed)]
    assert len(landed) == 1
    assert len(results) == 4
    assert tip(bench, "develop") == landed[0].commit


def test_diffs_for_people(bench, git_dir):
    commit = published(bench, "one\n")
    assert "a.txt | 2 +-" in land.diffstat(git_dir, bench.base, commit)
    assert "+one" in land.diff(git_dir, bench.base, commit)


@pytest.mark.parametrize("branch", [BRANCH, "develop"])
def test_what_another_run_has_put_there_is_not_this_ones_to_take_back(bench, git_dir, branch):
    """Two runs may come to the same commit (verified work is used again): one of them moved the branch."""
    commit = published(bench, "one\n")
    if branch == "develop":
        git(bench.repo, "branch", "develop", bench.base)
    for run in ("run-1", "run-2", "run-2"):
        assert land.land(git_dir, commit=commit, branch=branch, run=run).branch == branch
    assert land.take_back(git_dir, commit=commit, branch=branch, run="run-2") == commit
    assert tip(bench, branch) == commit
    gone = "" if branch == BRANCH else bench.base
    # Whoever dies after the branch has moved does it again.
    for _ in range(2):
        assert land.take_back(git_dir, commit=commit, branch=branch, run="run-1") == gone
        assert git(bench.repo, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}") == gone


def test_a_branch_is_taken_back_only_where_it_landed(bench, git_dir):
    commit = published(bench, "one\n")
    git(bench.repo, "branch", "fetched", commit)
    with pytest.raises(RepositoryError, match="has not landed in") as refused:
        land.take_back(git_dir, commit=commit, branch="fetched", run="run-1")
    assert refused.value.code == "AF-ROLLBACK-004"
    assert tip(bench, "fetched") == commit
