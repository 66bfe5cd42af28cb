"""What must not get into the store: the git attacks D09, D12, D13, D14, D19, D20, D21, D22 and others."""

from __future__ import annotations

import struct

import pytest
from helpers.stores import Bench, Forge, make_bench, write

from agentflow.errors import PolicyViolation
from agentflow.workspace import commit, ingest
from agentflow.workspace.commit import Recorded

REF = "refs/agentflow/run-1/nodes/n/1"


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, {"a.txt": "a\n", "src/b.py": "x = 1\n", ".gitignore": "ignored\n"})


@pytest.fixture
def forge(bench):
    return Forge(bench)


def refused(bench: Bench, recorded: Recorded, allowed=None) -> str:
    """The message of the refusal; nothing of the commit is in the store afterwards."""
    with pytest.raises(PolicyViolation) as caught:
        ingest.ingest(bench.store, recorded, REF, allowed=allowed)
    assert bench.store.read_ref(REF) is None
    assert not bench.store.has(recorded.commit)
    assert not list(bench.store.git_dir.glob("quarantine/*"))
    return caught.value.explain()


def test_an_honest_commit_comes_in_with_the_paths_of_its_tree(bench):
    recorded = bench.record({"a.txt": "b\n", "new/c.txt": "c\n", "ignored": "no\n"})
    assert ingest.ingest(bench.store, recorded, REF, allowed=["a.txt", "new/**"]) == ("a.txt", "new/c.txt")
    assert bench.store.read_ref(REF) == recorded.commit
    assert bench.store.git.out("show", f"{recorded.commit}:new/c.txt") == "c"
    assert ingest.ingest(bench.store, recorded, REF) == ("a.txt", "new/c.txt"), "twice is harmless"


@pytest.mark.parametrize(
    "name", [b".git", b".GIT", b"git~1", b".g\xe2\x80\x8cit", b"..", b".", b"a/../../x", b""], ids=repr
)
def test_d09_names_that_git_itself_refuses(bench, forge, name):
    blob = forge.put("blob", b"x")
    text = refused(bench, forge.recorded(forge.tree_with("100644", name, blob)))
    assert "git refuses the objects" in text


def test_d09_duplicate_entries(bench, forge):
    one, two = forge.put("blob", b"1"), forge.put("blob", b"2")
    tree = forge.tree(("100644", b"a", one), ("100644", b"a", two))
    assert "git refuses the objects" in refused(bench, forge.recorded(tree))


@pytest.mark.parametrize(
    ("mode", "name", "content", "said"),
    [
        ("120000", b"link", b"/etc/passwd", "symlinks lead out"),
        ("120000", b"link", b"../outside", "symlinks lead out"),
        ("120000", b"link", b"src/../../outside", "symlinks lead out"),
        ("120000", b"link", b".git/hooks", "symlinks lead out"),
        ("120000", b"link", b"x" * 5000, "longer than any path"),
        ("100666", b"odd", b"x", "mode"),
        ("100644", b"new\nline", b"x", "cannot be taken"),
        ("100644", b"\x1b[2J", b"x", "cannot be taken"),
        ("100644", b"-rf", b"x", "cannot be taken"),
        ("100644", b"n" * 300, b"x", "cannot be taken"),
        ("100644", b"\xff\xfe", b"x", "not UTF-8"),
        ("100644", b"back\\slash", b"x", "cannot be taken"),
        ("100644", b"dot.", b"x", "cannot be taken"),
        ("100644", "e\u0301".encode(), b"x", "NFC"),
        ("100644", b".gitattributes", b"* filter=evil", "steer git"),
        ("100644", b"big.bin", b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        ("100644", b".envrc", b"x", "sensitive"),
        ("100644", b"sitecustomize.py", b"x", "sensitive"),
    ],
    ids=repr,
)
def test_d12_d20_names_modes_and_contents_that_git_accepts_and_we_do_not(
    bench, forge, mode, name, content, said
):
    text = refused(bench, forge.recorded(forge.tree_with(mode, name, forge.put("blob", content))))
    assert said in text


def test_d11_a_gitmodules_file(bench, forge):
    blob = forge.put("blob", b'[submodule "a"]\n\tpath = a\n\turl = ../a\n')
    assert "steer git" in refused(bench, forge.recorded(forge.tree_with("100644", b".gitmodules", blob)))


def test_d12_a_gitlink(bench, forge):
    tree = forge.tree_with("160000", b"sub", bench.base)
    assert "submodule was added: sub" in refused(bench, forge.recorded(tree))


@pytest.mark.parametrize("target", ["b.py", "../a.txt", "./c/d"])
def test_symlinks_inside_of_the_tree_come_in(bench, forge, target):
    link = forge.put("blob", target.encode())
    src = forge.tree(("100644", b"b.py", forge.put("blob", b"x = 1\n")), ("120000", b"link", link))
    assert ingest.ingest(bench.store, forge.recorded(forge.tree_with("40000", b"src", src)), REF) == (
        "src/link",
    )


def test_d13_a_tree_bomb_is_refused_by_its_count(bench, forge):
    tree = forge.tree(*[("100644", b"f%d" % i, forge.put("blob", b"")) for i in range(10)])
    for _ in range(9):
        tree = forge.tree(*[("40000", b"d%d" % i, tree) for i in range(10)])
    recorded = forge.recorded(forge.tree_with("40000", b"bomb", tree))
    assert recorded.pack.stat().st_size < 2000
    assert "more than 50000 files" in refused(bench, recorded)


def test_d13_endless_depth_is_refused(bench, forge):
    tree = forge.tree(("100644", b"f", forge.put("blob", b"")))
    for _ in range(300):
        tree = forge.tree(("40000", b"d", tree))
    assert "deeper than" in refused(bench, forge.recorded(forge.tree_with("40000", b"deep", tree)))


def test_d14_a_blob_bomb_is_refused_by_its_size(bench, forge):
    recorded = forge.recorded(forge.tree_with("100644", b"bomb", forge.put("blob", bytes(101 * 2**20))))
    assert recorded.pack.stat().st_size < 2**20
    assert "101 MiB were written" in refused(bench, recorded)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"agentflow <agentflow@localhost>", b"Somebody <a@b.c>"),
        (b"\n\nwork", b"\n\nwork\x1b[2J"),
        (b"\n\nwork", b"\ngpgsig x\n\nwork"),
        (b"\n\nwork", b"\n\n" + b"w" * 20_000),
    ],
    ids=["author", "escape", "signature", "long"],
)
def test_d19_a_commit_that_is_not_by_agentflow(bench, forge, old, new):
    honest = forge.recorded(forge.tree_with("100644", b"n", forge.put("blob", b"n")))
    raw = forge.git.call("cat-file", "commit", honest.commit).stdout
    assert "is not one commit by agentflow" in refused(bench, forge.recorded("", raw=raw.replace(old, new)))


def test_d20_writes_outside_of_the_declared_artifacts(bench):
    recorded = bench.record({"a.txt": "b\n", "src/c.py": "c\n"})
    text = refused(bench, recorded, allowed=["src/**"])
    assert "outside of the declared artifacts" in text
    assert "a.txt" in text
    assert "src/c.py" not in text


def test_d20_a_deleted_test_and_a_changed_mode_count_as_writes(bench):
    workspace = bench.workspace()
    (workspace.root / "src/b.py").unlink()
    (workspace.root / "a.txt").chmod(0o755)
    recorded = commit.record(bench.store, workspace, message="m")
    text = refused(bench, recorded, allowed=["new/**"])
    assert "a.txt, src/b.py" in text


def test_deleting_everything(bench):
    workspace = bench.workspace()
    for name in ("a.txt", "src/b.py", ".gitignore"):
        (workspace.root / name).unlink()
    recorded = commit.record(bench.store, workspace, message="m")
    assert "every file was deleted" in refused(bench, recorded)


def test_sensitive_files_may_be_declared(bench):
    recorded = bench.record({".envrc": "x\n"})
    assert ingest.ingest(bench.store, recorded, REF, allowed=[".envrc"]) == (".envrc",)


def test_d21_history_other_than_one_commit_on_the_base(bench, forge):
    tree = forge.tree_with("100644", b"n", forge.put("blob", b"n"))
    other = bench.commit({"b.txt": "b\n"})
    first = forge.recorded(tree)
    for parents in ([], [other], [bench.base, other], [first.commit]):
        assert "is not one commit by agentflow" in refused(bench, forge.recorded(tree, parents=parents))


def test_d21_replace_refs_do_not_act(bench, forge):
    honest = forge.recorded(forge.tree_with("100644", b"n", forge.put("blob", b"n")))
    evil = bench.commit({"evil": "e\n"})
    path = bench.store.git_dir / "refs" / "replace" / bench.base
    path.parent.mkdir()
    path.write_text(f"{evil}\n")
    assert ingest.ingest(bench.store, honest, REF) == ("n",)


@pytest.mark.parametrize("names", [("Readme", "README"), ("stra\u00dfe", "STRASSE"), ("A.TXT", "a.txt")])
def test_d22_twins_within_one_commit(bench, names):
    recorded = bench.record(dict.fromkeys(names, "x\n") | {"a.txt": "a\n"})
    assert "differ only in case" in refused(bench, recorded)


def test_a_pack_that_is_none_or_too_large(bench, tmp_path):
    recorded = bench.record({"n": "n\n"})
    data = recorded.pack.read_bytes()
    broken = tmp_path / "broken.pack"
    for content, said in [
        (b"hello", "not a pack"),
        (data[:8] + struct.pack(">I", 10**9) + data[12:], "1000000000 objects"),
        (data[:-30], "git refuses"),
    ]:
        broken.write_bytes(content)
        assert said in refused(bench, Recorded(recorded.base, recorded.commit, broken))


def test_a_pack_without_the_objects_that_its_commit_names(bench, forge):
    blob = forge.put("blob", b"gone")
    recorded = forge.recorded(forge.tree_with("100644", b"n", blob), without=blob)
    assert "git refuses the objects" in refused(bench, recorded)


def test_only_changes_are_judged_not_what_the_user_had_before(tmp_path):
    bench = make_bench(tmp_path, {"-odd": "1\n", "Twin": "1\n", "twin": "2\n", ".envrc": "x\n", "a": "1\n"})
    recorded = bench.record({"a": "2\n", "-odd": "2\n"})
    assert ingest.ingest(bench.store, recorded, REF) == ("-odd", "a")


def test_many_attempts_at_once_share_the_store(bench):
    from concurrent.futures import ThreadPoolExecutor

    def attempt(number: int) -> str:
        workspace = bench.workspace()
        write(workspace.root, {f"n{number % 4}.txt": f"{number % 4}\n"})
        recorded = commit.record(bench.store, workspace, message=f"m{number % 4}")
        ingest.ingest(bench.store, recorded, f"refs/agentflow/run-1/nodes/n{number}/1")
        return recorded.commit

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(attempt, range(16)))
    assert len(set(made)) == 4
    assert sorted(bench.store.refs("refs/agentflow/run-1").values()) == sorted(made)
    assert bench.store.git.out("fsck", "--connectivity-only") == ""
