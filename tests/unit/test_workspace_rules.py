"""The pure rules of the workspace room: names, refs, symlinks, messages, reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.workspace.gitcmd import is_branch_name, ref_part
from agentflow.workspace.junit import read_report
from agentflow.workspace.objects import MESSAGE_CAP_BYTES, build_commit, clean_message, parse_commit
from agentflow.workspace.policy import is_sensitive, leaves_tree, name_problem
from agentflow.workspace.trees import parse_tree
from agentflow.workspace.trials import Trial, is_pytest, lost_tests

IDS = st.from_regex(r"[a-z0-9][a-z0-9_.%/-]{0,20}", fullmatch=True)


@given(IDS)
def test_a_ref_component_is_one_that_git_takes(name):
    part = ref_part(name)
    assert "/" not in part
    assert ".." not in part
    assert not part.startswith(".")
    assert not part.endswith((".", ".lock"))


@given(IDS, IDS)
def test_different_names_have_different_ref_components(one, other):
    assert (ref_part(one) == ref_part(other)) == (one == other)


@pytest.mark.parametrize("name", ["main", "agentflow/my-feature", "v1.2", "a_b/c+d"])
def test_branch_names(name):
    assert is_branch_name(name)


@pytest.mark.parametrize(
    ("path", "target", "leaves"),
    [
        ("link", "a", False),
        ("link", "a/b/c", False),
        ("a/link", "../b", False),
        ("a/b/link", "../../c", False),
        ("a/b/link", "./../c", False),
        ("link", "/etc/passwd", True),
        ("link", "..", True),
        ("a/link", "../../x", True),
        ("link", "a/../../x", True),
        ("a/link", "b/..", True),
        ("link", ".git/config", True),
        ("a/link", "../.GIT", True),
        ("link", "", True),
    ],
)
def test_symlinks_that_lead_out(path, target, leaves):
    assert leaves_tree(path, target.encode()) is leaves


@given(st.lists(st.sampled_from(["..", ".", "a", "b"]), min_size=1, max_size=8), st.integers(0, 3))
def test_no_accepted_symlink_climbs_above_the_top(parts, depth):
    path = "d/" * depth + "link"
    if not leaves_tree(path, "/".join(parts).encode()):
        level = depth
        for part in parts:
            level += {"..": -1, ".": 0}.get(part, 1)
            assert level >= 0


def test_names():
    assert name_problem("src/[id].tsx") is None
    assert name_problem("a/b c.txt") is None
    for bad in ("a\tb", "-x", "x ", "a/..", "\udcff", "caf\u0065\u0301", "a\\b", "x\u202ey"):
        assert name_problem(bad), bad


def test_sensitive_places():
    for path in (
        ".envrc",
        "a/.vscode/tasks.json",
        ".claude/settings.json",
        "pkg/sitecustomize.py",
        ".GitHub/x",
    ):
        assert is_sensitive(path), path
    assert not is_sensitive("src/vscode/tasks.json")
    assert not is_sensitive("docs/claude")


@given(st.text(max_size=200))
def test_commits_survive_being_read(message):
    tree, parent = "a" * 40, "b" * 40
    oid, data = build_commit(tree, [parent], 1_700_000_000, message)
    commit = parse_commit(data)
    assert (commit.tree, commit.parents, commit.date) == (tree, (parent,), 1_700_000_000)
    assert build_commit(commit.tree, commit.parents, commit.date, commit.message)[0] == oid


def test_messages_are_cleaned_and_capped():
    assert clean_message("a\x1b[2Jb\n\nCo\u202e") == "a [2Jb\n\nCo"
    assert len(clean_message("\u00e9" * 20_000).encode()) <= MESSAGE_CAP_BYTES


def test_trees_with_odd_names():
    data = b"100644 a b\0" + bytes(20) + b"40000 \xff\0" + bytes(range(20))
    entries = parse_tree(data)
    assert list(entries) == ["a b", "\udcff"]
    assert entries["\udcff"].is_tree
    assert entries["\udcff"].oid == bytes(range(20)).hex()


REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="t.A" name="test_a" file="t.py"/>
<testcase classname="t.A" name="test_b" file="t.py"><failure message="x">y</failure></testcase>
<testcase classname="t" name="test_c[1]" file="t.py"><skipped/></testcase>
<testcase classname="t" name="test_d" file="t.py"><error message="failed on teardown">y</error></testcase>
<testcase classname="" name="t2"><error message="collection failure">y</error></testcase>
</testsuite></testsuites>"""


def test_a_report_lists_tests_and_leaves_out_files(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    assert read_report(path) == {
        "t.py::t.A::test_a": "passed",
        "t.py::t.A::test_b": "failed",
        "t.py::t::test_c[1]": "skipped",
        "t.py::t::test_d": "failed",
    }


@pytest.mark.parametrize("text", ["", "<a>", "junk", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'])
def test_what_is_no_report(tmp_path, text):
    path = tmp_path / "report.xml"
    path.write_text(text)
    assert read_report(path) is None
    (tmp_path / "link").symlink_to(path)
    assert read_report(tmp_path / "link") is None
    assert read_report(tmp_path / "missing") is None


def trial(command=("pytest",), *, exit_ok=True, tests=None) -> Trial:
    return Trial(command, "exit code 0" if exit_ok else "exit code 1", exit_ok, "", tests)


def test_when_a_trial_is_red():
    assert not trial(tests={"a": "passed"}).red
    assert not trial(("make", "test")).red
    assert "left no report" in trial().red
    assert "ran no test" in trial(tests={}).red
    assert "but a failed" in trial(tests={"a": "failed"}).red
    assert "1 of 2 tests failed" in trial(exit_ok=False, tests={"a": "failed", "b": "passed"}).red


def test_what_is_evidently_pytest():
    for command in (
        ["pytest", "-q"],
        ["python", "-m", "pytest"],
        ["/v/bin/py.test"],
        ["uv", "run", "pytest", "x"],
    ):
        assert is_pytest(command)
    assert not is_pytest(["sh", "-c", "pytest -q"])
    assert not is_pytest(["make", "test"])


def test_lost_tests():
    before = trial(tests={"a": "passed", "b": "failed", "c": "skipped"})
    assert not lost_tests(before, trial(tests={"a": "passed", "b": "passed"}))
    assert lost_tests(before, trial(tests={"a": "passed"})) == "tests were lost: b"
    assert lost_tests(before, trial(tests={"a": "skipped", "b": "passed"})) == "tests are skipped now: a"
    assert not lost_tests(trial(("make",)), trial(tests={"a": "passed"}))
