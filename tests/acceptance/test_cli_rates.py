"""`agentflow rates`, typed: what providers allow, seen and changed while everything runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Cli

from agentflow.store.client import connect
from agentflow.store.governor import Call, Governor, windows_of


@pytest.fixture
def cli(tmp_path: Path, redis_url: str) -> Iterator[Cli]:
    """A machine of a team: no private server here."""
    runtime = Path(tempfile.mkdtemp(prefix="aff-"))
    (tmp_path / "home").mkdir()
    found = Cli(tmp_path, tmp_path / "home", runtime)
    found.env |= {"AGENTFLOW_REDIS_URL": redis_url}
    try:
        yield found
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


def test_rates_are_shown_set_and_taken_back(cli: Cli, redis_url: str) -> None:
    assert "nothing is limited, and nothing is closed" in cli.run("rates").stderr
    words = ("openai.rpm=500", "role:qa.tpm=9000", "models.example.com.refill_rate=2.5")
    assert cli.run("rates", "set", *words).stdout.splitlines() == [
        "host:models.example.com  refill_rate 2.5",
        "role:tester  tpm 0/9,000",
        "runner:openai  rpm 0/500",
    ]
    governor = Governor(connect(redis_url))
    call = Call(windows_of("host", "m", runner="openai", role="tester"), node="n", fence=1)
    assert governor.enter(call, 1200, bound_ms=60_000).verdict == "granted"
    governor.told(call, 30_000, "asks for a pause")
    assert governor.enter(Call(call.windows, node="m"), 1, bound_ms=60_000).verdict == "wait"
    rows = cli.run("rates").stdout.splitlines()
    assert rows[1:3] == ["role:tester  tpm 1,200/9,000", "runner:openai  rpm 1/500"]
    assert rows[3].startswith("at:host/m  1 attempt in its line  closed for ")
    assert rows[3].endswith("s: host/m asks for a pause")
    told = {row["window"]: row for row in cli.json("rates", "set", "openai.rpm=none", "--json")}
    assert "runner:openai" not in told
    assert told["role:tester"]["allowed"] == {"tpm": 9000}
    assert told["role:tester"]["tokens"] == 1200


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("openai.rps=5", "is no limit of a provider"),
        ("rpm=5", "is no limit of a provider"),
        ("openai.rpm=many", "is no number"),
        ("openai.rpm=nan", "cannot be nan"),
        ("openai.rpm=-1", "cannot be -1"),
        ("openai.rpm=1.5", "cannot be 1.5"),
        ("openia.rpm=5", "neither a runner nor a host"),
    ],
)
def test_a_word_that_means_nothing_changes_nothing(cli: Cli, redis_url: str, word: str, what: str) -> None:
    assert what in cli.run("rates", "set", "openai.tpm=7", word, code=2).stderr
    assert not Governor(connect(redis_url)).rates()
