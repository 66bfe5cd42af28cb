"""Workspaces and what is committed of them; the user's repository stays as it is."""

from __future__ import annotations

import os

import pytest
from helpers.repos import git
from helpers.stores import fingerprint, make_bench, write

from agentflow.errors import InfraError, PolicyViolation
from agentflow.workspace import clone, commit, gc, ingest, inspect, land, merge
from agentflow.workspace.store import Store

FILES = {"a.txt": "a\n", "src/b.py": "x = 1\n", "src/deep/c.py": "y = 1\n", ".gitignore": "ignored/\n*.pyc\n"}


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, FILES)


def changed(bench, workspace, **options):
    return commit.record(bench.store, workspace, message="m", **options)


def test_a_workspace_is_a_clone_that_the_agent_can_look_at(bench):
    root = bench.workspace().root
    assert {p.relative_to(root).as_posix() for p in root.rglob("*.*") if ".git/" not in str(p)} >= {
        "a.txt",
        "src/b.py",
    }
    assert git(root, "rev-parse", "HEAD") == bench.base
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "log", "--format=%s") == "first"
    assert git(root, "remote") == ""
    assert git(root, "branch", "--show-current") == ""


def test_the_whole_way_leaves_the_users_repository_byte_identical(tmp_path):
    bench = make_bench(tmp_path, FILES)
    repo = bench.repo
    write(repo, {"a.txt": "dirty\n", "untracked.txt": "u\n", "src/b.py": "staged\n"})
    git(repo, "add", "src/b.py")
    (repo / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("reference-transaction", "post-checkout", "pre-commit", "post-index-change", "update"):
        (repo / ".git/hooks" / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\n")
        (repo / ".git/hooks" / hook).chmod(0o755)
    before = fingerprint(repo)
    facts = inspect.check_repository(repo, "HEAD", "agentflow/x")
    assert facts.dirty
    assert "uncommitted changes are not part of the run" in facts.notes[0]
    land.guard_base(facts.git_dir, "run-1", facts.base)
    store = Store.open(tmp_path / "data", facts.project, facts.objects)
    one = bench.record({"a.txt": "b\n"})
    ingest.ingest(store, one, "refs/agentflow/run-1/nodes/one/1")
    two = bench.record({"src/b.py": "x = 2\n"})
    ingest.ingest(store, two, "refs/agentflow/run-1/nodes/two/1")
    merged = merge.merge_all(store, [one.commit, two.commit], facts.base)
    land.publish(
        store, facts.git_dir, "run-1", {"result": merged, "nodes/one": one.commit, "nodes/two": two.commit}
    )
    assert fingerprint(repo) == before
    landed = land.land(facts.git_dir, commit=merged, branch="agentflow/x", run="run-1")
    after = fingerprint(repo)
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        ".git/refs/heads/agentflow",
        ".git/refs/heads/agentflow/x",
        ".git/logs/refs/heads/agentflow",
        ".git/logs/refs/heads/agentflow/x",
    }
    assert git(repo, "show", f"{landed.branch}:a.txt") == "b"
    gc.forget_run(store, facts.git_dir, "run-1")
    assert git(repo, "for-each-ref", "refs/agentflow/base", "refs/agentflow/runs") == ""
    assert not (tmp_path / "hook-ran").exists()
    assert git(repo, "fsck") == ""


def test_everything_but_ignored_files_is_committed(bench):
    workspace = bench.workspace()
    root = workspace.root
    write(root, {"a.txt": "b\n", "new/d.txt": "d\n", "ignored/x": "x\n", "y.pyc": "y\n"})
    (root / "src/b.py").unlink()
    (root / "src/deep/c.py").chmod(0o755)
    (root / "link").symlink_to("a.txt")
    recorded = changed(bench, workspace)
    assert recorded.paths == ("a.txt", "link", "new/d.txt", "src/b.py", "src/deep/c.py")
    assert ingest.ingest(bench.store, recorded, "refs/agentflow/r/nodes/n/1") == recorded.paths
    listed = bench.store.git.out("ls-tree", "-r", "--format=%(objectmode) %(path)", recorded.commit)
    assert listed.split("\n") == [
        "100644 .gitignore",
        "100644 a.txt",
        "120000 link",
        "100644 new/d.txt",
        "100755 src/deep/c.py",
    ]
    commit_ = bench.store.commit(recorded.commit)
    assert (commit_.parents, commit_.author) == ((bench.base,), "agentflow <agentflow@localhost>")


def test_file_and_directory_change_places(bench):
    workspace = bench.workspace()
    root = workspace.root
    (root / "a.txt").unlink()
    write(root, {"a.txt/inner": "i\n"})
    (root / "src/deep/c.py").unlink()
    (root / "src/deep").rmdir()
    (root / "src/deep").write_text("file\n")
    recorded = changed(bench, workspace)
    ingest.ingest(bench.store, recorded, "refs/agentflow/r/nodes/n/1")
    names = bench.store.git.out("ls-tree", "-r", "--name-only", recorded.commit).split()
    assert names == [".gitignore", "a.txt/inner", "src/b.py", "src/deep"]


def test_nothing_changed_is_no_commit(bench):
    workspace = bench.workspace()
    (workspace.root / "a.txt").write_text("a\n")
    write(workspace.root, {"ignored/x": "x\n"})
    assert changed(bench, workspace).commit == ""


def test_a_change_within_the_same_second_and_size_is_seen(bench):
    for text in "bcdefg":
        workspace = bench.workspace()
        (workspace.root / "a.txt").write_text(f"{text}\n")
        assert changed(bench, workspace).paths == ("a.txt",)


def test_equal_work_gives_the_equal_commit(bench):
    commits = {bench.record({"a.txt": "b\n"}, message="same").commit for _ in range(2)}
    assert len(commits) == 1


def test_what_the_agent_commits_itself_counts_as_its_files(bench):
    workspace = bench.workspace()
    write(workspace.root, {"a.txt": "b\n"})
    git(workspace.root, "commit", "-qam", "mine")
    git(workspace.root, "checkout", "-qb", "elsewhere")
    recorded = changed(bench, workspace)
    assert recorded.paths == ("a.txt",)
    assert bench.record({"a.txt": "b\n"}, message="m").commit == recorded.commit


def test_the_agents_git_directory_runs_nothing(bench, tmp_path):
    workspace = bench.workspace()
    mark = tmp_path / "ran"
    evil = f"touch {mark}; false"
    config = workspace.root / ".git/config"
    config.write_text(
        f'[core]\n fsmonitor = "{evil}"\n hooksPath = {tmp_path}/hooks\n'
        f' sshCommand = "{evil}"\n pager = "{evil}"\n'
        f'[filter "x"]\n clean = "{evil}"\n smudge = "{evil}"\n[diff]\n external = "{evil}"\n'
        f'[alias]\n ls-files = "!{evil}"\n[gpg]\n program = "{evil}"\n[commit]\n gpgSign = true\n'
    )
    write(workspace.root, {".gitattributes": "* filter=x diff=x\n", "a.txt": "b\n"})
    recorded = changed(bench, workspace)
    with pytest.raises(PolicyViolation, match="steer git"):
        ingest.ingest(bench.store, recorded, "refs/agentflow/r/nodes/n/1")
    assert not mark.exists()


def test_d06_a_git_file_that_points_elsewhere_is_not_followed(bench, tmp_path):
    workspace = bench.workspace()
    clone.remove_tree(workspace.root / ".git")
    (workspace.root / ".git").write_text(f"gitdir: {tmp_path}/evil\n")
    write(workspace.root, {"a.txt": "b\n"})
    assert changed(bench, workspace).paths == ("a.txt",)


def test_d07_a_repository_inside_is_refused(bench):
    workspace = bench.workspace()
    write(workspace.root, {"sub/f": "f\n"})
    git(workspace.root / "sub", "init", "-q")
    git(workspace.root / "sub", "add", "f")
    git(workspace.root / "sub", "commit", "-qm", "x")
    with pytest.raises(PolicyViolation, match="repository inside the workspace: sub/"):
        changed(bench, workspace)


def test_fifos_and_unreadable_files_do_not_hang(bench):
    workspace = bench.workspace()
    os.mkfifo(workspace.root / "pipe")
    write(workspace.root, {"a.txt": "b\n"})
    assert changed(bench, workspace).paths == ("a.txt",)


def test_100_mb_are_refused_before_they_are_read(bench):
    workspace = bench.workspace()
    with (workspace.root / "big").open("wb") as stream:
        stream.truncate(101 * 2**20)
    with pytest.raises(PolicyViolation, match="101 MiB were written"):
        changed(bench, workspace)


def test_kept_directories_of_the_setup_are_left_out(bench):
    workspace = bench.workspace()
    write(workspace.root, {"kept/x": "x\n", "kept2/y": "y\n"})
    assert changed(bench, workspace, exclude=["kept"]).paths == ("kept2/y",)


def test_names_that_are_not_utf8_reach_the_policy(bench):
    workspace = bench.workspace()
    (workspace.root / os.fsdecode(b"\xff.txt")).write_text("x")
    recorded = changed(bench, workspace)
    with pytest.raises(PolicyViolation, match="cannot be taken"):
        ingest.ingest(bench.store, recorded, "refs/agentflow/r/nodes/n/1")


def test_a_workspace_starts_from_nothing_and_goes_whole(bench):
    workspace = bench.workspace()
    with pytest.raises(InfraError, match="is not empty"):
        clone.prepare(bench.store, bench.base, workspace.root)
    (workspace.root / "src").chmod(0)
    workspace.discard()
    assert not workspace.root.exists()
    assert not workspace.state.exists()


def test_a_missing_commit_is_said(bench, tmp_path):
    with pytest.raises(InfraError, match="missing"):
        clone.prepare(bench.store, "1" * 40, tmp_path / "w")


def test_refs_of_odd_nodes(bench):
    for node in ("a..b", "x.lock", "dot.", "plain"):
        ref = f"refs/agentflow/run-1/nodes/{node}/1"
        bench.store.keep(ref, bench.base)
        assert bench.store.read_ref(ref) == bench.base
    listed = bench.store.git.call("for-each-ref", "--format=%(refname)", "refs/agentflow/run-1")
    assert len(listed.stdout.split()) == 4
    assert listed.stderr == b""
    named = {"nodes/a..b": bench.base, "nodes/x.lock": bench.base}
    published = land.publish(bench.store, bench.repo / ".git", "run-1", named)
    listed_there = git(bench.repo, "for-each-ref", "--format=%(refname)", "refs/agentflow/runs")
    assert set(listed_there.split()) == set(published)


def test_two_clones_of_one_project_share_a_store(bench, tmp_path):
    git(tmp_path, "clone", "-q", "--no-hardlinks", str(bench.repo), "second")
    second = tmp_path / "second"
    write(second, {"only-here.txt": "x\n"})
    git(second, "add", "-A")
    git(second, "commit", "-qm", "second")
    facts = inspect.check_repository(second, "HEAD", "agentflow/x")
    store = Store.open(tmp_path / "data", facts.project, facts.objects)
    assert store == bench.store
    recorded = commit.record(store, clone.prepare(store, facts.base, tmp_path / "w"), message="m")
    assert recorded.commit == ""
    assert store.has(facts.base)
    assert store.has(bench.base)


def test_many_small_packs_are_rolled_up(bench, monkeypatch):
    monkeypatch.setattr("agentflow.workspace.store.PACKS_MAX", 5)
    made = []
    for number in range(12):
        recorded = bench.record({f"n{number}.txt": f"{number}\n"})
        ingest.ingest(bench.store, recorded, f"refs/agentflow/r/nodes/n{number}/1")
        made.append(recorded.commit)
    assert len(list((bench.store.objects / "pack").glob("*.idx"))) < 8
    assert all(bench.store.has(c) for c in made)
    bench.store.keep("refs/agentflow/other/base", made[0])
    gc.forget_run(bench.store, None, "r")
    assert gc.prune(bench.store)
    assert bench.store.refs("refs/agentflow/r") == {}
    assert bench.store.read_ref("refs/agentflow/other/base") == made[0]
    assert bench.store.git.out("fsck", "--connectivity-only", "--no-dangling") == ""
