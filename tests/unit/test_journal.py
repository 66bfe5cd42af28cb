"""A journal survives what a crash does to a file, and says the same as was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.recovery.journal import Journal, known_runs


def node(name: str, state: str = "succeeded", place: int = 1) -> dict[str, object]:
    return {"kind": "node", "node": name, "fields": {"state": state}, "text": "ü\n", "place": place}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    found = Journal(tmp_path, "run-1")
    found.add({"kind": "opened", "run": {"id": "run-1"}, "plan": {"feature": "f"}})
    return found


def test_what_was_written_is_read(journal: Journal) -> None:
    journal.add(node("a"), node("b", place=2))
    journal.add({"kind": "generation", "generation": 3}, node("a", "failed"))
    journal.add({"kind": "closed", "fields": {"state": "failed"}}, {"kind": "of later versions"})
    story = journal.read()
    assert story.run == {"id": "run-1"}
    assert story.plan == {"feature": "f"}
    assert (story.generation, story.closing, story.torn) == (3, {"state": "failed"}, 0)
    assert {name: facts["fields"]["state"] for name, facts in story.nodes.items()} == {
        "b": "succeeded",
        "a": "failed",
    }


def test_a_run_that_goes_on_is_not_closed(journal: Journal) -> None:
    journal.add({"kind": "closed", "fields": {"state": "failed"}}, {"kind": "generation", "generation": 2})
    assert journal.read().closing == {}


def test_what_was_undone_is_left_out(journal: Journal) -> None:
    journal.add(node("a"), node("b"), {"kind": "undone", "nodes": ["a"]})
    assert set(journal.read().nodes) == {"b"}
    journal.add(node("a"))
    assert set(journal.read().nodes) == {"a", "b"}


@given(cut=st.integers(2, 200))
def test_a_torn_tail_costs_its_own_line_alone(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    journal = Journal(tmp_path_factory.mktemp("torn"), "run-1")
    journal.add(node("a"))
    whole = journal.path.read_bytes()
    journal.add(node("b"))
    torn = journal.path.read_bytes()
    journal.path.write_bytes(torn[: max(len(whole), len(torn) - cut)])
    assert set(journal.read().nodes) == {"a"}
    journal.add(node("c"))
    assert set(journal.read().nodes) == {"a", "c"}


def test_a_changed_line_is_not_believed(journal: Journal) -> None:
    journal.add(node("a", "failed"))
    journal.path.write_text(journal.path.read_text().replace("failed", "succeeded"))
    story = journal.read()
    assert (set(story.nodes), story.torn) == (set(), 1)


@pytest.mark.parametrize("line", ["", "[]", "7", "null", "{", '{"sum": 1}', "\x00\x00", '{"kind": "node"}'])
def test_anything_else_is_passed_over(journal: Journal, line: str) -> None:
    with journal.path.open("a") as stream:
        stream.write(f"{line}\n")
    assert journal.read().plan == {"feature": "f"}


def test_runs_with_a_journal_are_known(journal: Journal, tmp_path: Path) -> None:
    (journal.path.parent / "x.y z.ndjson").touch()
    assert known_runs(tmp_path) == ["run-1"]
    journal.remove()
    assert known_runs(tmp_path) == []
    assert journal.read().plan == {}
