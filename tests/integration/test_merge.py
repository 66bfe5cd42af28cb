"""Merges: the same work gives the same commit, and what does not fit is named."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from helpers.stores import make_bench

from agentflow.workspace import merge
from agentflow.workspace.merge import MergeConflictError

LINES = "".join(f"line {i}\n" for i in range(40))


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, {"a.txt": LINES, "b.txt": "b\n"})


def edited(number: int) -> str:
    return LINES.replace(f"line {number}\n", f"edited {number}\n")


def test_none_one_and_ancestors(bench):
    assert merge.merge_all(bench.store, [], bench.base) == bench.base
    first = bench.commit({"a.txt": edited(1)})
    assert merge.merge_all(bench.store, [first], bench.base) == first
    second = bench.commit({"b.txt": "c\n"}, base=first)
    assert merge.merge_all(bench.store, [second, first, bench.base, first], bench.base) == second


def test_the_result_does_not_depend_on_order_repetition_or_process(bench):
    commits = [bench.commit({"a.txt": edited(i * 8), f"new{i}.txt": "n\n"}, message=str(i)) for i in range(5)]
    expected = merge.merge_all(bench.store, commits, bench.base)
    for seed in range(3):
        shuffled = [*commits, commits[0]]
        random.Random(seed).shuffle(shuffled)  # an order, not a secret
        assert merge.merge_all(bench.store, shuffled, bench.base) == expected
    script = (
        "import sys; from pathlib import Path; from agentflow.workspace.merge import merge_all;"
        "from agentflow.workspace.store import Store;"
        "print(merge_all(Store(Path(sys.argv[1])), sys.argv[3:], sys.argv[2]))"
    )
    argv = [sys.executable, "-c", script, str(bench.store.git_dir), bench.base, *reversed(commits)]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == expected
    merged = bench.store.git.out("show", f"{expected}:a.txt")
    assert merged.count("edited") == 5


def test_another_store_of_the_same_project_makes_the_same_object(tmp_path):
    results = set()
    for name in ("one", "two"):
        bench = make_bench(tmp_path / name, {"a.txt": LINES})
        commits = [bench.commit({"a.txt": edited(i * 10)}, message=str(i)) for i in range(3)]
        results.add(merge.merge_all(bench.store, commits, bench.base))
    assert len(results) == 1


def test_merges_of_merges(bench):
    a, b, c = (bench.commit({"a.txt": edited(i)}, message=str(i)) for i in (0, 15, 30))
    ab = merge.merge_all(bench.store, [a, b], bench.base)
    bc = merge.merge_all(bench.store, [b, c], bench.base)
    on_ab = bench.commit({"b.txt": "x\n"}, base=ab)
    everything = merge.merge_all(bench.store, [on_ab, bc, a], bench.base)
    assert bench.store.git.out("show", f"{everything}:a.txt").count("edited") == 3


def test_a_conflict_names_paths_and_commits(bench):
    one = bench.commit({"a.txt": edited(3)}, message="one")
    two = bench.commit({"a.txt": edited(3).replace("edited 3", "other 3")}, message="two")
    for _ in range(2):
        with pytest.raises(MergeConflictError) as caught:
            merge.merge_all(bench.store, [one, two], bench.base)
        assert caught.value.paths == ("a.txt",)
        assert set(caught.value.commits) == {one, two}
    three = bench.commit({"b.txt": "three\n"})
    assert merge.merges_clean(bench.store, one, [two], bench.base) == ["a.txt"]
    assert merge.merges_clean(bench.store, one, [three], bench.base) == []
    assert merge.merges_clean(bench.store, one, [], bench.base) == []


def test_modified_here_and_deleted_there_is_a_conflict(bench):
    workspace = bench.workspace()
    (workspace.root / "b.txt").unlink()
    from agentflow.workspace import commit

    recorded = commit.record(bench.store, workspace, message="delete")
    with recorded.pack.open("rb") as source:
        bench.store.git.call("index-pack", "--stdin", source=source)
    changed = bench.commit({"b.txt": "changed\n"})
    assert merge.merges_clean(bench.store, recorded.commit, [changed], bench.base) == ["b.txt"]


@pytest.mark.parametrize("names", [("New.txt", "new.txt"), ("Dir/x.txt", "dir/y.txt")])
def test_d22_twins_of_two_attempts_do_not_merge(bench, names):
    one, two = (bench.commit({name: "x\n"}, message=name) for name in names)
    with pytest.raises(MergeConflictError, match="cannot be merged") as caught:
        merge.merge_all(bench.store, [one, two], bench.base)
    assert "differ only in case" in caught.value.why


def test_twins_that_the_user_has_do_not_matter(tmp_path):
    bench = make_bench(tmp_path, {"Twin": "1\n", "twin": "2\n", "a.txt": LINES})
    commits = [bench.commit({"a.txt": edited(i), f"n{i}": "n\n"}, message=str(i)) for i in (0, 20)]
    merge.merge_all(bench.store, commits, bench.base)
