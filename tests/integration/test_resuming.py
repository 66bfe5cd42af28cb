"""What resuming and rolling back leave alone: limits that were taken away, other budgets, what goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.repos import make_repo

from agentflow import runs
from agentflow.canvas.spending import parse_changes
from agentflow.config import Config, load_config
from agentflow.errors import UsageError
from agentflow.runs import SubmitOptions, rollback
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState
from agentflow.store import restoring, verified
from agentflow.store.budgets import Change


@pytest.fixture
def config(redis_url: str, tmp_path: Path) -> Config:
    """A submitter's; no worker listens, so nothing starts."""
    return load_config(None, {"data_dir": tmp_path / "home", "redis.url": redis_url}, environ={"HOME": "/"})


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"README.md": "hello\n"})


def submit(config: Config, repo: Path, **options: Any) -> str:
    task = {"id": "a", "role": "backend", "prompt": "x", "output": "report", "runner": {"type": "noop"}}
    text = json.dumps({"feature": "Letters", "budget": {"usd": 5, "tokens": 900}, "tasks": [task]})
    spec = parse_spec(text, name="feature.yaml", config=config)
    return runs.submit(spec, config=config, repo=repo, options=SubmitOptions(**options))


def limits(config: Config, run_id: str) -> set[str]:
    facts = restoring.budget_facts(runs.open_ledger(config).client, run_id)
    return {name for name in facts if name.startswith("limit:")}


def test_a_limit_that_was_taken_away_stays_away(config: Config, repo: Path) -> None:
    run_id = submit(config, repo)
    assert limits(config, run_id) == {"limit:run:usd", "limit:run:tokens"}
    runs.open_ledger(config).grant(run_id, "", [Change("run:usd", "none")])
    assert runs.resume(run_id, config=config, repo=repo) is RunState.OPEN
    assert limits(config, run_id) == {"limit:run:tokens"}


def test_a_run_is_resumed_with_more_for_its_day(config: Config, repo: Path) -> None:
    run_id = submit(config, repo)
    words = parse_changes(["day.usd=20", "usd=+1"], config)
    runs.resume(run_id, config=config, repo=repo, budget=words)
    ledger = runs.open_ledger(config)
    assert ledger.day(ledger.run(run_id).project).limit_usd == 20
    assert ledger.purses(run_id)["run"].limit_usd == 6
    assert limits(config, run_id) == {"limit:run:usd", "limit:run:tokens"}


@pytest.mark.parametrize("word", ["usd=+-5", "usd=++5", "tokens=+-5", "+-5"])
def test_an_amount_has_one_sign(config: Config, word: str) -> None:
    with pytest.raises(UsageError, match="no amount"):
        parse_changes([word], config)


def test_a_budget_of_a_node_that_is_not_there_is_refused(config: Config, repo: Path) -> None:
    words = parse_changes(["node:nope.usd=1"], config)
    with pytest.raises(UsageError, match="no node 'nope'"):
        submit(config, repo, budget=tuple(words))
    run_id = submit(config, repo)
    with pytest.raises(UsageError, match="no node 'nope'"):
        runs.resume(run_id, config=config, repo=repo, budget=words)


def test_a_run_that_is_resumed_meanwhile_is_not_rolled_back(
    config: Config, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = submit(config, repo)
    assert runs.cancel(run_id, config=config) is RunState.CANCELLED
    ledger = runs.open_ledger(config)
    monkeypatch.setattr(verified, "forget", lambda *_: ledger.reopen(run_id))
    with pytest.raises(UsageError, match="it is open") as refused:
        rollback.roll_back(run_id, config=config, repo=repo)
    assert refused.value.code == "AF-ROLLBACK-002"


def test_after_the_loss_of_everything_the_newest_run_is_the_one_journaled_last(
    config: Config, repo: Path
) -> None:
    with pytest.raises(UsageError, match="no run is known here"):
        runs.find(None, config=config, repo=repo)
    run_id = submit(config, repo)
    runs.open_ledger(config).client.flushall()
    assert runs.find(None, config=config, repo=repo) == run_id
    assert runs.resume(run_id, config=config, repo=repo) is RunState.OPEN
