"""Which repositories are taken, and how the others are refused."""

from __future__ import annotations

import pytest
from helpers.repos import commit_all, git, init, make_repo
from helpers.stores import fingerprint, write

from agentflow.errors import RepositoryError
from agentflow.workspace import inspect
from agentflow.workspace.inspect import check_repository

TARGET = "agentflow/x"


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repo", {"a.txt": "a\n", "src/b.py": "b\n"})


def refusal(path, base="HEAD", target=TARGET) -> str:
    with pytest.raises(RepositoryError) as caught:
        check_repository(path, base, target)
    assert caught.value.fix
    return caught.value.explain()


def test_a_plain_repository(repo):
    head = git(repo, "rev-parse", "HEAD")
    for path in (repo, repo / "src"):
        facts = check_repository(path, "HEAD", TARGET)
        assert (facts.root, facts.git_dir, facts.objects) == (repo, repo / ".git", repo / ".git/objects")
        assert (facts.base, facts.project, facts.dirty, facts.notes) == (head, head, False, [])
    assert inspect.git_dir_of(repo) == repo / ".git"


def test_project_is_the_first_commit_whatever_the_base(repo):
    first = git(repo, "rev-parse", "HEAD")
    git(repo, "tag", "v1")
    write(repo, {"c.txt": "c\n"})
    second = commit_all(repo)
    assert check_repository(repo, "main", TARGET).base == second
    facts = check_repository(repo, "v1", TARGET)
    assert (facts.base, facts.project) == (first, first)
    assert check_repository(repo, "HEAD~1", TARGET).base == first
    assert check_repository(repo, second[:10], TARGET).base == second


def test_looking_changes_nothing_and_dirt_is_noticed(repo):
    (repo / "a.txt").write_text("dirty\n")
    before = fingerprint(repo)
    facts = check_repository(repo, "HEAD", TARGET)
    assert fingerprint(repo) == before
    assert facts.dirty
    assert "uncommitted changes are not part of the run" in facts.notes[0]


def test_a_worktree_and_a_bare_repository(repo, tmp_path):
    git(repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    facts = check_repository(tmp_path / "side", "side", TARGET)
    assert (facts.root, facts.git_dir) == (tmp_path / "side", repo / ".git")
    git(tmp_path, "clone", "-q", "--bare", str(repo), "bare.git")
    bare = check_repository(tmp_path / "bare.git", "main", TARGET)
    assert (bare.root, bare.git_dir, bare.dirty) == (tmp_path / "bare.git", tmp_path / "bare.git", False)


def test_not_a_repository(tmp_path):
    assert "is not a git repository" in refusal(tmp_path)
    assert "is not a directory" in refusal(tmp_path / "nowhere")


def test_inside_of_the_git_directory(repo):
    assert "inside of a git directory" in refusal(repo / ".git")


def test_an_unborn_branch(tmp_path):
    assert "no commit yet" in refusal(init(tmp_path / "empty"))


def test_a_missing_base_with_a_guess(repo):
    git(repo, "branch", "develop")
    assert "did you mean 'develop'?" in refusal(repo, "devlop")
    assert "names no commit" in refusal(repo, "zzz")


@pytest.mark.parametrize("base", ["--upload-pack=x", "-u", "a b", "a;b", "$(x)", "a..b", ":/x", ""])
def test_bases_that_are_no_names(repo, base):
    assert "cannot be the base" in refusal(repo, base)


@pytest.mark.parametrize(
    "target", ["--output=x", "-d", "a b", "a;b", "a$(b)", "a..b", "x.lock", "a//b", "/a", "a/", "HEAD"]
)
def test_targets_that_are_no_names(repo, target):
    assert "cannot be the target" in refusal(repo, target=target)


def test_a_shallow_clone(repo, tmp_path):
    write(repo, {"c.txt": "c\n"})
    commit_all(repo)
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repo}", "shallow")
    assert "shallow clone" in refusal(tmp_path / "shallow")


def test_a_partial_clone(repo, tmp_path):
    git(repo, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{repo}", "partial")
    assert "partial clone" in refusal(tmp_path / "partial")


def test_submodules(repo, tmp_path):
    other = make_repo(tmp_path / "other", {"x": "x\n"})
    git(repo, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub")
    git(repo, "commit", "-qm", "sub")
    assert "submodules: sub" in refusal(repo)


def test_lfs(repo):
    write(repo, {"assets/.gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    commit_all(repo)
    assert "Git LFS" in refusal(repo)
    write(repo, {"assets/.gitattributes": "# *.bin filter=lfs\n*.txt text\n"})
    commit_all(repo)
    check_repository(repo, "HEAD", TARGET)


def test_sha256(tmp_path):
    repo = init(tmp_path / "repo", "--object-format=sha256")
    write(repo, {"a": "a\n"})
    commit_all(repo)
    assert "uses sha256 object ids" in refusal(repo)


def test_a_target_that_is_checked_out_anywhere(repo, tmp_path):
    assert f"'main' is checked out in {repo}" in refusal(repo, target="main")
    git(repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "si de"))
    assert f"checked out in {tmp_path / 'si de'}" in refusal(repo, target="side")
