"""What is written down while the disk is full for a moment: nothing of it is taken for written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.repos import make_repo

from agentflow import runs
from agentflow.config import Config, load_config
from agentflow.recovery.journal import Journal
from agentflow.recovery.recording import Recorder
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState
from agentflow.store.ledger import Ledger
from agentflow.store.records import Event


@pytest.fixture
def config(redis_url: str, tmp_path: Path) -> Config:
    """A submitter's; no worker listens, so nothing starts."""
    return load_config(None, {"data_dir": tmp_path / "home", "redis.url": redis_url}, environ={"HOME": "/"})


class Disk:
    """Where journals are; while it is `full` nothing can be added to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.kinds: list[str] = []
        add = Journal.add

        def flaky(journal: Journal, *entries: Mapping[str, Any]) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            add(journal, *entries)
            self.kinds += [str(entry["kind"]) for entry in entries]

        monkeypatch.setattr(Journal, "add", flaky)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def submit(config: Config, repo: Path) -> tuple[Ledger, str, Journal]:
    """A run whose first generation was cancelled, and that nobody has written down."""
    task = {"id": "a", "role": "backend", "prompt": "x", "output": "report", "runner": {"type": "noop"}}
    text = json.dumps({"feature": "Letters", "budget": {"usd": 5}, "tasks": [task]})
    spec = parse_spec(text, name="feature.yaml", config=config)
    run_id = runs.submit(spec, config=config, repo=make_repo(repo, {"a": "b\n"}))
    runs.cancel(run_id, config=config)
    ledger = runs.open_ledger(config)
    ledger.reopen(run_id)
    journal = Journal(repo / ".git", run_id)
    journal.remove()
    return ledger, run_id, journal


def moved(run_id: str, kind: str = "run.paused") -> list[Event]:
    return [Event("1-0", run_id, kind, 1)]


def test_what_a_full_disk_refused_is_written_when_there_is_room(
    config: Config, tmp_path: Path, disk: Disk
) -> None:
    repo = tmp_path / "repo"
    ledger, run_id, journal = submit(config, repo)
    recorder = Recorder(ledger, config, ledger.run(run_id), repo)
    disk.full = True
    recorder.catch_up()
    recorder.take(moved(run_id))
    disk.full = False
    disk.kinds = []
    for _ in range(2):
        recorder.take(moved(run_id))
    story = journal.read()
    assert (story.run["id"], story.generation, story.budget["limit:run:usd"]) == (run_id, 2, 5 * 10**9)
    assert story.plan == ledger.plan(run_id)
    assert sorted({*disk.kinds} - {"node"}) == ["budget", "generation", "opened"]
    assert disk.kinds.count("opened") == disk.kinds.count("budget") == 1, "each is written once"
    ledger.client.flushall()
    assert runs.resume(run_id, config=config, repo=repo) is RunState.OPEN


def test_the_end_of_a_run_is_written_after_a_full_disk(config: Config, tmp_path: Path, disk: Disk) -> None:
    repo = tmp_path / "repo"
    ledger, run_id, journal = submit(config, repo)
    recorder = Recorder(ledger, config, ledger.run(run_id), repo)
    recorder.catch_up()
    runs.cancel(run_id, config=config)
    disk.full = True
    recorder.take(moved(run_id, "run.finished"))
    assert not journal.read().closing
    disk.full = False
    recorder.take(moved(run_id, "run.finished"))
    assert journal.read().closing["state"] == "cancelled"
