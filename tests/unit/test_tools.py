"""The agent's tools: what they do, and everything that they must not be talked into."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.jobs import make_job

from agentflow.environment import PlainEnvironment
from agentflow.runners.tools import MAX_ARGUMENT_CHARS, MAX_ENTRIES, MAX_RESULT_CHARS, Finished, Toolbox


class Bench:
    """A toolbox over a directory, called the way that a model calls it."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        self.job = make_job(tmp_path, changes.pop("runner", None), **changes)
        self.root = self.job.workspace
        self.tools = Toolbox(self.job, PlainEnvironment(self.root))

    def __call__(self, name: str, **arguments: Any) -> str:
        return self.tools.call(name, json.dumps(arguments))

    def names(self) -> set[str]:
        return {schema["function"]["name"] for schema in self.tools.schemas()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    (bench.root / "src").mkdir()
    (bench.root / "src" / "a.py").write_text("one\ntwo\nthree\n")
    (bench.root / ".git").mkdir()
    (bench.root / ".git" / "config").write_text("[core]\n")
    (tmp_path / "secret.txt").write_text("hunter2")
    return bench


def test_reads_a_file_whole_or_in_part(bench: Bench) -> None:
    assert bench("read", path="src/a.py") == "one\ntwo\nthree\n"
    assert bench("read", path="src/a.py", start=2, lines=1) == "two\n\n[lines 2 to 2 of 3]"
    assert bench("read", path="src/a.py", start=9) == "error: 'src/a.py' has 3 lines"


def test_a_missing_file_names_its_neighbours(bench: Bench) -> None:
    assert bench("read", path="src/b.py") == "error: 'src/b.py' does not exist; there are: a.py"


def test_lists_a_directory_without_git(bench: Bench) -> None:
    (bench.root / "z.txt").touch()
    assert bench("list").splitlines() == ["src/", "z.txt"]


def test_a_long_listing_is_cut(bench: Bench) -> None:
    for number in range(MAX_ENTRIES + 3):
        (bench.root / f"{number:04}").touch()
    assert bench("list").endswith("[4 more]")  # src/ is one of them


def test_edits_exactly_one_place(bench: Bench) -> None:
    assert bench("edit", path="src/a.py", old="two", new="2") == "edited src/a.py"
    assert (bench.root / "src/a.py").read_text() == "one\n2\nthree\n"
    assert "is not in" in bench("edit", path="src/a.py", old="two", new="2")
    assert "occurs 2 times" in bench("edit", path="src/a.py", old="e\n", new="")


def test_an_edit_keeps_mode_and_line_ends(bench: Bench) -> None:
    script = bench.root / "run.sh"
    script.write_bytes(b"#!/bin/sh\r\necho a\r\n")
    script.chmod(0o755)
    bench("edit", path="run.sh", old="echo a", new="echo b")
    assert script.read_bytes() == b"#!/bin/sh\r\necho b\r\n"
    assert script.stat().st_mode & 0o777 == 0o755


def test_writes_a_new_file_in_a_new_directory(bench: Bench) -> None:
    bench("write", path="docs/deep/x.md", content="grüß\n")
    assert (bench.root / "docs/deep/x.md").read_text(encoding="utf-8") == "grüß\n"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "src/../../secret.txt",
        "/etc/passwd",
        "~/secret.txt",
        ".git/config",
        ".GIT/hooks/pre-commit",
        "src/.git/config",
        "src\\..\\..\\secret.txt",
        "src/a\x00.py",
        "src/a\nb",
        "a" * 5000,
    ],
)
@pytest.mark.parametrize("tool", ["read", "write", "edit", "list", "search"])
def test_a_path_outside_is_refused(bench: Bench, tool: str, path: str) -> None:
    arguments = {
        "read": {},
        "write": {"content": "x"},
        "edit": {"old": "h", "new": "x"},
        "list": {},
        "search": {"pattern": "."},
    }[tool]
    before = _tree(bench.root.parent)
    assert bench(tool, path=path, **arguments).startswith("error: ")
    assert _tree(bench.root.parent) == before


@pytest.mark.parametrize("tool", ["read", "write", "edit"])
def test_a_link_that_leads_out_is_refused(bench: Bench, tool: str) -> None:
    secret = bench.root.parent / "secret.txt"
    (bench.root / "file").symlink_to(secret)
    (bench.root / "dir").symlink_to(secret.parent)
    (bench.root / "dangling").symlink_to(secret.parent / "new.txt")
    (bench.root / "git").symlink_to(bench.root / ".git")
    arguments = {"read": {}, "write": {"content": "x"}, "edit": {"old": "hunter2", "new": "x"}}[tool]
    for path in ("file", "dir/secret.txt", "dangling", "git/config"):
        assert bench(tool, path=path, **arguments).startswith("error: "), path
    assert secret.read_text() == "hunter2"
    assert not (secret.parent / "new.txt").exists()
    assert (bench.root / ".git/config").read_text() == "[core]\n"


def test_a_link_inside_is_followed(bench: Bench) -> None:
    (bench.root / "link").symlink_to("src/a.py")
    assert bench("read", path="link").startswith("one")


def test_a_fifo_or_device_does_not_hang(bench: Bench) -> None:
    os.mkfifo(bench.root / "pipe")
    assert bench("read", path="pipe").startswith("error: ")
    assert bench("write", path="pipe", content="x").startswith("error: ")


def test_binary_and_huge_files_are_refused(bench: Bench) -> None:
    (bench.root / "bin").write_bytes(b"\xff\xfe\x00")
    with (bench.root / "huge").open("wb") as file:
        file.truncate(10_000_000)
    assert "not UTF-8" in bench("read", path="bin")
    assert "larger than" in bench("read", path="huge")


def test_a_long_result_keeps_both_ends(bench: Bench) -> None:
    (bench.root / "long").write_text("start" + "x" * (2 * MAX_RESULT_CHARS) + "end")
    result = bench("read", path="long")
    assert len(result) < MAX_RESULT_CHARS + 100
    assert result.startswith("start")
    assert result.endswith("end")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("not json", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ('{"path": 5}', "path"),
        ("{}", "path: Field required"),
        ('{"path": "a", "mode": "w"}', "mode: Extra inputs"),
        ('{"path": "' + "x" * MAX_ARGUMENT_CHARS + '"}', "in smaller parts"),
        ('{"path": "\\ud800"}', "error: "),
    ],
)
def test_wrong_arguments_are_told(bench: Bench, arguments: str, told: str) -> None:
    result = bench.tools.call("read", arguments)
    assert result.startswith("error: ")
    assert told in result


def test_a_lone_surrogate_is_not_written(bench: Bench) -> None:
    assert bench("write", path="x", content="\ud800").startswith("error: ")
    assert not (bench.root / "x").exists()


def test_an_unknown_tool_is_told(bench: Bench) -> None:
    assert "there is no tool 'shell'" in bench("shell", command="id")


def test_writing_stays_within_the_artifacts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, artifacts=("src/**", "README.md"))
    bench("write", path="src/x/y.py", content="")
    assert "may write: src/**, README.md" in bench("write", path="other.py", content="")
    assert not (bench.root / "other.py").exists()


def test_a_link_does_not_widen_the_artifacts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, artifacts=("src/**",))
    (bench.root / "src").mkdir()
    (bench.root / "src" / "link").symlink_to("../other.py")
    assert "may write" in bench("write", path="src/link", content="x")


def test_a_report_has_no_tool_that_writes(tmp_path: Path) -> None:
    assert Bench(tmp_path, output="report").names() == {"read", "search", "list", "finish"}


def test_run_must_be_allowed(tmp_path: Path) -> None:
    assert "run" not in Bench(tmp_path).names()
    assert "run" in Bench(tmp_path, runner={"allow_run": True}).names()


def test_a_role_may_have_fewer_tools_but_can_always_finish(tmp_path: Path) -> None:
    assert Bench(tmp_path, runner={"tools": ["read", "run"]}).names() == {"read", "finish"}


def test_finish_carries_what_was_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path, output="report")
    with pytest.raises(Finished) as ended:
        bench(
            "finish",
            summary="bad",
            handoff="Look at a.py",
            verdict="block",
            findings=[{"severity": "high", "message": "wrong", "file": "a.py", "line": 3}],
        )
    outcome = ended.value.outcome
    assert (outcome.summary, outcome.handoff, outcome.verdict) == ("bad", "Look at a.py", "block")
    assert outcome.findings[0].line == 3


def test_finish_is_refused_when_something_is_missing(tmp_path: Path) -> None:
    report = Bench(tmp_path, output="report")
    assert "is a report" in report("finish", summary="done")
    assert "handoff" in report("finish", summary="done", handoff="x" * 20_000)
    assert "verdict" in report("finish", summary="done", handoff="x", verdict="maybe")


def _tree(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
