"""Limits and budgets by a feature's name: durable, for its open runs and for each further one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from helpers.cli import Cli, command_line, repository

#: What a command may take on a busy machine.
SECONDS = 150


@pytest.fixture
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("house")
    with command_line(folder) as house:
        found = Cli(repository(folder / "repository", {"README.md": "hello\n"}), house.home, folder)
        found.env = dict(house.env)
        yield found


def test_what_is_set_for_a_feature_holds_for_its_open_runs_and_for_further_ones(cli: Cli) -> None:
    spends = {"role": "backend", "output": "report", "runner": {"type": "noop", "usd": 0.4}}
    tasks = [{**spends, "id": "a", "prompt": "x"}, {**spends, "id": "b", "prompt": "y", "needs": ["a"]}]
    (cli.cwd / "feature.yaml").write_text(yaml.safe_dump({"feature": "Money", "budget": 9, "tasks": tasks}))

    assert cli.json("limits", "set", "--feature", "Money", "all=1", "backend=4", "--json") == {
        "all": 1, "backend": 4,
    }  # fmt: skip
    cli.run("budget", "set", "--feature", "Money", "usd=0.5")
    assert "run  $0.50" in cli.run("budget", "show", "--feature", "Money").stdout
    assert "ceiling: $0.50" in cli.run("plan").stdout
    assert cli.json("limits", "--feature", "Other", "--json") == {}

    held = cli.json("run", "--no-cache", "--json", code=5, timeout=SECONDS)
    assert held["reason"] == "budget: run: $0.40 of $0.50 spent, $0.40 more wanted"
    assert cli.json("limits", "--run", held["run"], "--json") == {"all": 1, "backend": 4}
    status = cli.run("status", held["run"]).stdout
    assert "paused" in status
    assert "budget: run" in status
    cli.run("limits", "set", "--feature", "Money", "backend=2", "all=none")
    assert cli.json("limits", "--run", held["run"], "--json") == {"all": 1, "backend": 2}
    cli.run("budget", "set", "--feature", "Money", "usd=0.8")
    ended = cli.json("watch", held["run"], "--json", timeout=SECONDS)
    assert ended["state"] == "landed", "the open run had the new amount at once"

    cli.run("budget", "set", "--feature", "Money", "usd=0.1")
    own = cli.json("run", "--no-cache", "--budget", "5", "--json", timeout=SECONDS)
    assert own["budget"]["run"]["limit_usd"] == 5, "what the command line says goes before"
    cli.run("budget", "set", "--feature", "Money", "usd=none")
    own = cli.json("run", "--no-cache", "--json", timeout=SECONDS)
    assert own["budget"]["run"]["limit_usd"] == 9, "the spec's own again"

    refused = cli.run("budget", "set", "--feature", "Money", "usd=+5", code=2)
    assert "cannot be changed so for a feature" in refused.stderr
    assert "class:low, class:medium" in cli.run("limits", "set", "class:large=2", code=2).stderr
    assert cli.json("limits", "set", "class:high=2", "--json") == {"class:high": 2}
