"""A landing and a rollback that are typed in two terminals at once: the ledger lets one of them go first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.redis_server import running_server
from helpers.repos import git, make_repo
from helpers.workers import Stage, stage

from agentflow import failpoints, runs
from agentflow.errors import UsageError
from agentflow.runs import rollback
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState
from agentflow.store import keys, restoring, verified
from agentflow.store.steering import LANDING_MS
from agentflow.store.validation import validate_run


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A Redis of its own and one worker, for all tests of this file."""
    with running_server() as server, stage(server.client_url, tmp_path_factory.mktemp("home")) as found:
        found.start()
        yield found


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"README.md": "hello\n"})


def finished(machine: Stage, repo: Path) -> str:
    """A run that is ready to land."""
    node = {
        "id": "a", "role": "backend", "prompt": "x", "expect": "none", "artifacts": ["a.txt"],
        "runner": {"command": ["sh", "-c", "echo a > a.txt"]},
    }  # fmt: skip
    text = json.dumps({"feature": "Letters", "target": "letters", "tasks": [node]})
    spec = parse_spec(text, name="feature.yaml", config=machine.config)
    run_id = runs.submit(spec, config=machine.config, repo=repo)
    machine.wait_closed(run_id)
    assert machine.ledger.run(run_id).state is RunState.READY_TO_LAND
    return run_id


def back(machine: Stage, repo: Path, run_id: str) -> rollback.RolledBack:
    return rollback.roll_back(run_id, config=machine.config, repo=repo)


def tip(repo: Path) -> str:
    return git(repo, "for-each-ref", "--format=%(objectname)", "refs/heads/letters")


def at_point(monkeypatch: pytest.MonkeyPatch, point: str, deed: Callable[[], object]) -> None:
    """Do something else, once, when a landing comes to this point."""
    todo = [deed]

    def here(name: str, _subject: str = "") -> None:
        if name == point and todo:
            todo.pop()()

    monkeypatch.setattr(failpoints, "at", here)


def refused(deed: Callable[[], object], told: str) -> None:
    with pytest.raises(UsageError, match=told) as found:
        deed()
    assert found.value.code == "AF-ROLLBACK-002"


@pytest.mark.parametrize("point", ["land.begun", "land.published", "land.moved"])
def test_a_run_is_not_rolled_back_while_its_branch_moves(
    machine: Stage, repo: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    run_id = finished(machine, repo)
    at_point(monkeypatch, point, lambda: refused(lambda: back(machine, repo, run_id), "it is being landed"))
    result = runs.land(run_id, config=machine.config, repo=repo)
    assert (result.state, tip(repo)) == ("landed", result.commit)
    assert not machine.ledger.is_landing(run_id)
    assert back(machine, repo, run_id).branch == "letters"
    assert tip(repo) == ""


def test_a_run_that_was_rolled_back_and_resumed_does_not_land(
    machine: Stage, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another terminal is faster than the landing that has only read the run's state so far."""
    run_id = finished(machine, repo)
    publish = runs.finishing._publish
    opened = []

    def slow(*args: object) -> object:
        done = publish(*args)  # type: ignore[arg-type]
        if not opened:
            machine.ledger.pause("fleet", "so that it stays open")
            back(machine, repo, run_id)
            opened.append(runs.resume(run_id, config=machine.config, repo=repo))
        return done

    monkeypatch.setattr(runs.finishing, "_publish", slow)
    try:
        with pytest.raises(UsageError, match="cannot land: it is open"):
            runs.land(run_id, config=machine.config, repo=repo)
        assert (opened, tip(repo)) == ([RunState.OPEN], "")
    finally:
        machine.ledger.unpause("fleet")
    runs.cancel(run_id, config=machine.config)
    machine.wait_closed(run_id)


def test_a_run_that_has_landed_meanwhile_is_not_rolled_back_as_if_it_had_not(
    machine: Stage, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = finished(machine, repo)
    monkeypatch.setattr(verified, "forget", lambda *_: runs.land(run_id, config=machine.config, repo=repo))
    refused(lambda: back(machine, repo, run_id), "it is landed by now")
    assert tip(repo) == machine.ledger.run(run_id).result
    assert validate_run(machine.ledger, run_id) == []


def test_a_landing_that_was_killed_is_finished_or_given_up(machine: Stage, repo: Path) -> None:
    run_id = finished(machine, repo)
    result = machine.ledger.run(run_id).result
    assert machine.ledger.begin_landing(run_id, "killed", result)
    git(repo, "switch", "--quiet", "--create", "letters")
    for moved_ms, is_landing in ((0, True), (2 * LANDING_MS, False)):
        since = machine.ledger.now_ms() - moved_ms
        machine.ledger.client.hset(keys.run(run_id), "landing", f"killed:{since}")
        with pytest.raises(Exception, match="checked out"):
            runs.land(run_id, config=machine.config, repo=repo)
        assert machine.ledger.is_landing(run_id) is is_landing, "whoever gives up a landing has looked"
    git(repo, "switch", "--quiet", "main")
    assert machine.ledger.begin_landing(run_id, "killed", result)
    assert runs.land(run_id, config=machine.config, repo=repo).state == "landed"
    assert not machine.ledger.is_landing(run_id)


def test_only_what_was_read_is_landed(machine: Stage, repo: Path) -> None:
    run_id = finished(machine, repo)
    assert not machine.ledger.begin_landing(run_id, "me", "0" * 40), "it has another result"
    assert not machine.ledger.begin_landing("nobody", "me", "")
    assert not machine.ledger.is_landing(run_id)


def test_what_lands_is_neither_undone_nor_opened_again(machine: Stage, repo: Path) -> None:
    """Nor by those who had looked before it began."""
    run_id = finished(machine, repo)
    ledger = machine.ledger
    run = ledger.run(run_id)
    assert ledger.begin_landing(run_id, "me", run.result)
    assert ledger.begin_landing(run_id, "another", run.result)
    ledger.give_up_landing(run_id, "another")
    assert ledger.reopen(run_id, onto=run.base) is None
    assert restoring.undo(ledger, run_id, ["a"], [], reason="r", state=RunState.CANCELLED) is None
    ledger.give_up_landing(run_id, "me")
    assert restoring.undo(ledger, run_id, ["a"], [], reason="r", state=RunState.CANCELLED)
