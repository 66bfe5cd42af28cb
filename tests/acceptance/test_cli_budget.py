"""Budgets from the command line: told before, kept while it runs, exit code 5, raised, gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import Cli, command_line, repository

#: What a command may take on a busy machine.
SECONDS = 150


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """One data directory, server and worker for all tests of this file."""
    with command_line(tmp_path_factory.mktemp("house")) as cli:
        yield cli


@pytest.fixture
def cli(house: Cli, tmp_path: Path) -> Cli:
    """The command line in a fresh repository."""
    found = Cli(repository(tmp_path / "project", {"README.md": "hello\n"}), house.home, tmp_path)
    found.env = dict(house.env)
    return found


def feature(cli: Cli, *tasks: dict[str, Any], **fields: Any) -> None:
    """Report tasks of a backend."""
    full = [{"role": "backend", "prompt": "x", "output": "report"} | task for task in tasks]
    (cli.cwd / "feature.yaml").write_text(yaml.safe_dump({"feature": "Money", **fields, "tasks": full}))


def spends(usd: float, calls: int = 1) -> dict[str, Any]:
    return {"type": "noop", "usd": usd, "calls": calls}


def test_a_run_ends_at_its_budget_and_goes_on_when_it_is_raised(cli: Cli) -> None:
    feature(
        cli,
        {"id": "a", "runner": spends(0.4)},
        {"id": "b", "needs": ["a"], "runner": spends(0.4, calls=2)},
        budget=1,
    )
    done = cli.run("run", code=5, timeout=SECONDS)
    told = done.stderr.splitlines()
    estimate = next(i for i, line in enumerate(told) if line.startswith("estimate: about $1.20"))
    assert "ceiling: $1.00" in told[estimate]
    assert estimate < next(i for i, line in enumerate(told) if " running" in line)
    assert "paused: Money (budget: run: $0.80 of $1.00 spent, $0.40 more wanted)" in done.stdout
    run = done.stdout.split("agentflow resume ")[1].split()[0]
    assert f"agentflow resume {run} --budget +N" in done.stdout
    assert "budget: run" in cli.run("why", run, "b").stdout

    shown = cli.json("budget", "show", run, "--json")
    assert shown["budgets"]["run"]["spent_usd"] == pytest.approx(0.8)
    assert shown["budgets"]["run"]["reserved_usd"] == 0
    assert shown["budgets"]["node:b"]["spent_usd"] == pytest.approx(0.4)
    assert shown["budgets"]["day"]["spent_usd"] == pytest.approx(0.8)

    refused = cli.run("resume", run, "--budget", "tokens=+5", code=2)
    assert "the budget run has no limit in tokens that could be raised" in refused.stderr
    ended = cli.json("resume", run, "--budget", "+5", "--json", timeout=SECONDS)
    assert (ended["state"], ended["exit_code"]) == ("landed", 0)
    assert ended["budget"]["run"]["limit_usd"] == 6
    # What the refused attempt had paid for is paid for.
    assert ended["cost_usd"] == pytest.approx(1.6)
    assert ended["budget"]["run"]["spent_usd"] == pytest.approx(1.6)
    assert ended["budget"]["estimate"]["ceiling_usd"] == 1


def test_a_node_that_spends_its_own_budget_fails_with_5(cli: Cli) -> None:
    feature(
        cli, {"id": "a", "runner": spends(0.3, calls=9), "budget": 0.5}, {"id": "b", "runner": spends(0.1)}
    )
    ended = cli.json("run", "--json", code=5, timeout=SECONDS)
    assert ended["state"] == "failed"
    assert ended["nodes"]["a"]["code"] == "AF-BUDGET-001"
    assert ended["nodes"]["a"]["reason"].startswith("budget: node: $0.30 of $0.50 spent")
    assert ended["nodes"]["a"]["attempts"] == 1
    assert ended["nodes"]["b"]["state"] == "succeeded"
    again = cli.json("resume", ended["run"], "--budget", "node:a.usd=+5", "--json", timeout=SECONDS)
    assert again["state"] == "landed"


def test_a_role_that_has_spent_its_budget_goes_on_with_what_is_told(cli: Cli) -> None:
    feature(
        cli,
        {"id": "d", "role": "docs", "runner": spends(0.2)},
        {"id": "e", "role": "docs", "runner": spends(0.1), "needs": ["d"], "budget": 0.05},
        budget={"roles": {"docs": {"usd": 0.1}}},
    )
    done = cli.run("run", code=5, timeout=SECONDS)
    told = done.stdout.split("next: agentflow ")[1].strip()
    run = told.split()[1]
    assert told == f"resume {run} --budget docs.usd=+N"
    assert f"`agentflow {told}` goes on" in done.stderr
    assert f"next: agentflow {told}" in cli.run("status", run).stdout
    # The same of a node's own budget, which is what is in the way next.
    done = cli.run(*told.replace("+N", "+5").split(), code=5, timeout=SECONDS)
    told = done.stdout.split("next: agentflow ")[1].strip()
    assert told == f"resume {run} --budget node:e.usd=+N"
    assert f"fix: `agentflow {told}`" in done.stdout
    cli.run(*told.replace("+N", "+5").split(), timeout=SECONDS)


def test_another_failure_beside_it_is_no_matter_of_budgets(cli: Cli) -> None:
    fails = {"command": ["false"]}
    feature(
        cli,
        {"id": "a", "runner": spends(1), "budget": 0.5},
        {"id": "b", "runner": fails, "retries": 0},
    )
    cli.run("run", code=1, timeout=SECONDS)


def test_a_command_line_agent_tells_what_it_spent(cli: Cli) -> None:
    told = '{"usd": 0.25, "input_tokens": 900, "output_tokens": 100, "model": "theirs"}'
    agent = {"command": ["sh", "-c", f"echo '{told}' > $AGENTFLOW_USAGE; echo done"]}
    silent = {"command": ["echo", "done"]}
    feature(
        cli,
        {"id": "a", "runner": agent},
        {"id": "b", "runner": silent, "budget": 0.5, "needs": ["a"]},
        budget={"usd": 1, "roles": {"backend": {"tokens": 5000}}},
    )
    ended = cli.json("run", "--json", timeout=SECONDS)
    assert ended["nodes"]["a"]["usage"]["models"]["theirs"]["cost_usd"] == 0.25
    budget = ended["budget"]
    assert (budget["node:a"]["spent_usd"], budget["role:backend"]["spent_tokens"]) == (0.25, 1000)
    assert budget["node:b"]["spent_usd"] == 0.5, "one that says nothing is charged what was reserved for it"
    assert budget["run"]["reserved_usd"] == 0


def test_the_day_is_set_for_the_project(cli: Cli) -> None:
    feature(cli, {"id": "a", "runner": spends(0.4)}, {"id": "b", "runner": spends(0.4), "needs": ["a"]})
    set_ = cli.json("budget", "set", "day.usd=0.5", "--json")
    assert set_["budgets"]["day"]["limit_usd"] == 0.5
    assert "ceiling: $0.50 left of the day" in cli.run("plan").stdout
    done = cli.run("run", code=5, timeout=SECONDS)
    assert "(budget: day: $0.40 of $0.50 spent, $0.40 more wanted)" in done.stdout
    first, second = done.stdout.split("next: ")[1].strip().split("; ")
    assert first == "agentflow budget set day.usd=+N"
    cli.run("budget", "set", "day.usd=+0.01")
    ended = cli.json(*second.split()[1:], "--json", code=5, timeout=SECONDS)
    assert ended["reason"] == "budget: day: $0.40 of $0.51 spent, $0.40 more wanted"
    cli.run("budget", "set", "day.usd=none")
    again = cli.json("watch", ended["run"], "--json", timeout=SECONDS)
    assert again["state"] == "landed", "taking the limit away is enough"


def test_a_plan_that_costs_more_than_may_be_spent_says_so(cli: Cli) -> None:
    feature(cli, {"id": "a", "runner": spends(0.4, calls=3)}, budget=1)
    assert "warning: the estimate is above what may be spent (run: $1.00)" in cli.run("plan").stdout
    cli.run("budget", "set", "org.usd=1.1")
    try:
        assert "(run: $1.00; org: $" in cli.run("plan").stdout
        shown = cli.json("budget", "show", "--json")
        assert shown["budgets"]["org"]["limit_usd"] == 1.1
    finally:
        cli.run("budget", "set", "org.usd=none")
    feature(cli, {"id": "a", "runner": spends(0.4, calls=2)}, budget=1)
    assert "warning" not in cli.run("plan").stdout


def test_what_is_no_change_is_refused(cli: Cli) -> None:
    for word, why in {
        "usd": "no change", "euro=5": "neither usd nor tokens", "usd=much": "no amount",
        "bakcend.usd=1": "backend", "usd=1e9": "out of bounds", "tokens=1.5": "no amount",
    }.items():  # fmt: skip
        done = cli.run("resume", "--budget", word, code=2)
        assert why in done.stderr, (word, done.stderr)
    done = cli.run("resume", "--role", "backend", "--budget", "+5", code=2)
    assert "agentflow resume RUN --budget backend.usd=+5" in done.stderr
    done = cli.run("budget", "set", "letters-1", code=2)
    assert "what is to be changed of letters-1?" in done.stderr
