"""What several nodes append to one file: checked at ingest, merged with nothing lost, alike everywhere."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from helpers.stores import make_bench
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import PolicyViolation
from agentflow.workspace import commit, ingest, merge
from agentflow.workspace.appending import appended, united
from agentflow.workspace.merge import MergeConflictError

REF = "refs/agentflow/run-1/nodes/n/1"
LOG = "# Changes\n\n- first\n"


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, {"log.md": LOG, "a.py": "x = 1\n", "tail.txt": "no line break"})


def is_log(path: str) -> bool:
    return path != "a.py"


# -- merging -------------------------------------------------------------------------------------------


def test_every_addition_is_in_the_merge_whatever_the_order(bench):
    lines = ["- one\n", "- two\n\n- and more\n", "\n## three\n"]
    commits = [bench.commit({"log.md": LOG + line}, message=line.strip()) for line in lines]
    results = {
        merge.merge_all(bench.store, order, bench.base, is_log) for order in itertools.permutations(commits)
    }
    assert len(results) == 1
    merged = bench.store.git.call("show", f"{results.pop()}:log.md").stdout.decode()
    assert merged.startswith(LOG)
    assert sorted(merged[len(LOG) :]) == sorted("".join(lines)), "each addition whole, none twice"
    assert all(line in merged for line in lines)


def test_without_the_word_of_the_plan_it_stays_a_conflict(bench):
    one, two = (bench.commit({"log.md": LOG + f"- {word}\n"}) for word in ("one", "two"))
    for asked in (None, lambda path: path == "a.py"):
        with pytest.raises(MergeConflictError) as caught:
            merge.merge_all(bench.store, [one, two], bench.base, asked)
        assert caught.value.paths == ("log.md",)
    assert merge.merges_clean(bench.store, one, [two], bench.base, is_log) == []


def test_a_conflict_elsewhere_is_still_one(bench):
    one, two = (bench.commit({"log.md": LOG + f"- {x}\n", "a.py": f"x = {x}\n"}) for x in ("2", "3"))
    assert merge.merges_clean(bench.store, one, [two], bench.base, is_log) == ["a.py", "log.md"]


def test_a_file_that_one_side_removed_is_a_conflict(bench):
    one = bench.commit({"log.md": LOG + "- one\n"})
    workspace = bench.workspace()
    (workspace.root / "log.md").unlink()
    gone = commit.record(bench.store, workspace, message="gone")
    with gone.pack.open("rb") as source:
        bench.store.git.call("index-pack", "--stdin", source=source)
    assert merge.merges_clean(bench.store, one, [gone.commit], bench.base, is_log) == ["log.md"]


def test_a_file_that_both_made_begins_with_what_they_have_in_common(bench):
    one, two = (bench.commit({"new.md": f"# News\n\n- {word}\n"}) for word in ("one", "two"))
    merged = merge.merge_all(bench.store, [one, two], bench.base, is_log)
    text = bench.store.git.call("show", f"{merged}:new.md").stdout.decode()
    assert text in ("# News\n\n- one\n- two\n", "# News\n\n- two\n- one\n")


def test_histories_that_met_before_hold_each_addition_once(bench):
    """Three appenders; two nodes started from two of them each, and appended in their turn."""
    a, b, c = (bench.commit({"log.md": LOG + f"- {word}\n"}) for word in "abc")
    ab = merge.merge_all(bench.store, [a, b], bench.base, is_log)
    bc = merge.merge_all(bench.store, [b, c], bench.base, is_log)

    def on(base: str, word: str) -> str:
        text = bench.store.git.call("show", f"{base}:log.md").stdout.decode()
        return bench.commit({"log.md": f"{text}- {word}\n"}, base=base)

    everything = [on(ab, "d"), on(bc, "e"), a, c]
    merged = merge.merge_all(bench.store, everything, bench.base, is_log)
    text = bench.store.git.call("show", f"{merged}:log.md").stdout.decode()
    assert sorted(text[len(LOG) :].splitlines()) == [f"- {word}" for word in "abcde"]


def test_another_process_makes_the_same_object(bench):
    one, two = (bench.commit({"tail.txt": f"no line break\n{word}"}) for word in ("one", "two"))
    expected = merge.merge_all(bench.store, [one, two], bench.base, is_log)
    script = (
        "import sys; from pathlib import Path; from agentflow.workspace.merge import merge_all;"
        "from agentflow.workspace.store import Store;"
        "print(merge_all(Store(Path(sys.argv[1])), sys.argv[3:], sys.argv[2], lambda path: True))"
    )
    argv = [sys.executable, "-c", script, str(bench.store.git_dir), bench.base, two, one]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == expected
    text = bench.store.git.call("show", f"{expected}:tail.txt").stdout.decode()
    assert sorted(text.splitlines()) == ["no line break", "one", "two"]


LINES = st.lists(st.sampled_from(["a", "b", "", "- x"]), max_size=4).map(
    lambda lines: "".join(f"{x}\n" for x in lines)
)


@given(base=LINES, one=LINES, two=LINES)
def test_appending_loses_nothing_and_adds_nothing(base, one, two):
    got = appended(base.encode(), (base + one).encode(), (base + two).encode())
    assert got == (base + one + two).encode()


@pytest.mark.parametrize(
    ("base", "one", "two", "expected"),
    [
        (b"a\n", b"b\n", b"a\nc\n", None),
        (b"a", b"a\nb\n", b"a\nc\n", b"a\nb\nc\n"),
        (b"a", b"a\nb", b"a\nc", b"a\nb\nc"),
        (b"", b"b", b"c", b"b\nc"),
        (None, b"h\nb\n", b"h\nc\n", b"h\nb\nc\n"),
        (None, b"b\n", b"c\n", b"b\nc\n"),
    ],
)
def test_the_seams_of_files_without_a_last_line_break(base, one, two, expected):
    assert appended(base, one, two) == expected


WORDS = st.lists(st.sampled_from(["a", "b", "", "- x"]), max_size=5)


@given(base=WORDS, one=st.lists(WORDS, min_size=6, max_size=6), two=st.lists(WORDS, min_size=6, max_size=6))
def test_lines_put_between_those_of_the_base_are_all_kept(base, one, two):
    def woven(gaps):
        lines = [line for gap, kept in zip(gaps, [*base, None], strict=False) for line in [*gap, kept]]
        return [line for line in lines if line is not None]

    texts = ["".join(f"{line}\n" for line in lines).encode() for lines in (base, woven(one), woven(two))]
    got = united(*texts, met_before=False)
    assert got is not None
    expected = sorted([*woven(one), *woven(two)])
    for line in base:
        expected.remove(line)
    found = sorted(got.decode().split("\n")[:-1])
    if woven(one) != woven(two):
        assert len(set(expected) - set(found)) == 0
        assert len(found) <= len(expected)


@pytest.mark.parametrize(
    ("base", "one", "two", "met_before", "expected"),
    [
        (b"b\n", b"a\nb\nd\n", b"c\nb\ne\n", False, b"a\nc\nb\nd\ne\n"),
        (b"0\n2\n", b"0\n2\n1\n3\n", b"0\n2\n3\n", True, b"0\n2\n1\n3\n"),
        (b"0\n2\n", b"0\n2\n3\n4\n", b"0\n2\n3\n5\n", True, b"0\n2\n3\n4\n5\n"),
        (b"0\n1\n", b"0\n", b"0\n1\n2\n", False, None),
        (b"0", b"0\n1", b"x\n0", False, b"x\n0\n1"),
    ],
)
def test_sides_that_grew_in_the_middle(base, one, two, met_before, expected):
    assert united(base, one, two, met_before=met_before) == expected


# -- what is taken in ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LOG + "- more\n", LOG, LOG.rstrip("\n") + "\n\n"])
def test_a_file_that_has_grown_at_its_end_is_taken(bench, text):
    recorded = bench.record({"log.md": text, "a.py": "x = 2\n", "made.log": "new\n"})
    taken = ingest.ingest(bench.store, recorded, REF, allowed=["a.py"], appends=["log.md", "made.log"])
    assert set(taken) >= {"a.py", "made.log"}


@pytest.mark.parametrize("text", ["- more\n" + LOG, LOG[:-1], "", LOG.replace("first", "First") + "- more\n"])
def test_a_file_that_changed_elsewhere_is_refused(bench, text):
    recorded = bench.record({"log.md": text})
    with pytest.raises(PolicyViolation, match=r"log\.md") as caught:
        ingest.ingest(bench.store, recorded, REF, allowed=[], appends=["log.md"])
    assert caught.value.code == "AF-POLICY-018"
    assert not bench.store.has(recorded.commit)


def test_who_may_write_a_file_may_do_more_than_append(bench):
    recorded = bench.record({"log.md": "all new\n"})
    assert ingest.ingest(bench.store, recorded, REF, allowed=["log.md"], appends=["log.md"]) == ("log.md",)


def test_what_is_read_is_not_written(bench):
    recorded = bench.record({"a.py": "x = 2\n", "b.py": "y\n"})
    with pytest.raises(PolicyViolation, match=r"a\.py") as caught:
        ingest.ingest(bench.store, recorded, REF, kept=["a.py"])
    assert caught.value.code == "AF-POLICY-017"
    assert ingest.ingest(bench.store, recorded, REF, allowed=["a.py", "b.py"], kept=["**"])
