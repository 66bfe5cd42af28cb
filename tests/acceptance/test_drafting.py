"""A plan from words as a run: real Redis, worker and git, a model that is a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Cli, command_line, git, repository
from helpers.planning import GOOD, REPAIRED, WORDS, WRONG, answer, model, planned, settings
from helpers.wait import wait_until
from helpers.workers import stage

from agentflow import drafting
from agentflow.config import Config, load_config
from agentflow.drafting import Draft, PlanningError
from agentflow.errors import ConfigError, UsageError
from agentflow.local import service
from agentflow.store.client import connect
from agentflow.store.ledger import Ledger


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """One data directory, server and worker for all tests of this file."""
    with command_line(tmp_path_factory.mktemp("house")) as cli:
        yield cli


@pytest.fixture
def cli(house: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in a fresh repository; this process lives in the same house."""
    place = repository(tmp_path / "project", {"README.md": "# Shop\n", "src/a.py": "x = 1\n"})
    found = Cli(place, house.home, tmp_path)
    found.env = dict(house.env)
    for name, value in found.env.items():
        monkeypatch.setenv(name, value)
    return found


def config_of(cli: Cli, url: str, **more: Any) -> Config:
    (cli.cwd / "agentflow.yaml").write_text(json.dumps(settings(url, **more)))
    return load_config(cli.cwd)


def draft(cli: Cli, config: Config, **more: Any) -> Draft:
    return drafting.draft(WORDS, config=config, repo=cli.cwd, **more)


def ledger(config: Config) -> Ledger:
    return Ledger(connect(config.client_url()))


def test_words_become_a_spec_and_the_run_is_one_like_any_other(cli: Cli) -> None:
    told: list[str] = []
    with model({"text": WRONG}, REPAIRED) as server:
        config = config_of(cli, server.url)
        found = draft(cli, config, files=["src/a.py"], tell=told.append)
    assert (found.spec.feature, found.rounds, found.usage.calls) == ("User auth", 2, 2)
    assert [(t.id, t.role, t.needs) for t in found.spec.tasks] == [
        ("backend", "backend", ()),
        ("frontend", "frontend", ("backend",)),
        ("tests", "tester", ("backend",)),
    ]
    assert f"planning: run {found.run}" in told
    request = server.requests[0]["messages"][1]["content"]
    assert "README.md\nsrc/a.py" in request
    assert "# src/a.py (its beginning)\n\nx = 1" in request

    # Its state, its cost, its log are where those of every run are; it made no branch.
    status = cli.json("status", found.run, "--json")
    assert (status["state"], status["nodes"][0]["role"]) == ("landed", "planner")
    assert "succeeded" in cli.run("why", found.run, "plan").stdout
    assert "cycle: backend -> frontend -> backend" in cli.run("logs", found.run, "plan").stdout
    assert cli.run("watch", found.run).stdout.startswith("done: Plan: Implement user auth")
    assert git(cli.cwd, "branch", "--list", "agentflow/*") == ""


def test_a_draft_is_saved_beside_what_is_there(cli: Cli) -> None:
    with model({"text": GOOD}) as server:
        found = draft(cli, config_of(cli, server.url))
    place = drafting.file_for(found, cli.cwd)
    assert place.name == "user-auth.yaml"
    assert [drafting.save(found, place).name for _ in range(3)] == [
        "user-auth.yaml",
        "user-auth-2.yaml",
        "user-auth-3.yaml",
    ]
    assert cli.json("plan", place, "--json")["waves"] == [["backend"], ["frontend", "tests"]]
    with pytest.raises(UsageError, match="cannot write"):
        drafting.save(found, cli.cwd / "nowhere" / "x.yaml")


@pytest.mark.parametrize(
    ("turns", "said", "code"),
    [
        ([{"text": WRONG}] * 3, "cycle: backend -> frontend -> backend", "AF-PLAN-001"),
        ([{"text": GOOD, "fault": "cut"}], "answer was cut", "AF-PLAN"),
        ([{"text": GOOD, "fault": {"status": 401}}], "refused the key", "AF-PLAN"),
    ],
)
def test_no_plan_is_an_error_that_says_why_and_where_it_is_kept(
    cli: Cli, turns: list[dict[str, Any]], said: str, code: str
) -> None:
    with model(*turns) as server:
        config = config_of(cli, server.url)
        with pytest.raises(PlanningError) as caught:
            draft(cli, config)
    error = caught.value
    assert said in error.explain()
    assert (error.code, error.exit_code) == (code, 1)
    run = ledger(config).runs()[0]
    assert (run.state, f"agentflow logs {run.id} plan" in error.fix) == ("failed", True)
    log = cli.run("logs", run.id, "plan").stdout
    assert said in log
    if turns[0].get("fault") is None:
        assert log.count("answered: ") == 3


def test_plan_with_words_shows_and_saves_a_feature_file(cli: Cli) -> None:
    with model({"text": WRONG}, REPAIRED) as server:
        config_of(cli, server.url)
        done = cli.run("plan", WORDS)
    assert done.stdout.startswith("# Planned by scripted, 2 answers, from the words:\n# " + WORDS)
    assert "saved user-auth.yaml" in done.stderr
    assert (cli.cwd / "user-auth.yaml").read_text() == done.stdout
    assert cli.json("plan", "user-auth.yaml", "--json")["waves"] == [["backend"], ["frontend", "tests"]]


def test_run_with_words_runs_the_plan_when_it_is_told_to(cli: Cli) -> None:
    with model({"text": GOOD}) as server:
        config_of(cli, server.url)
        refused = cli.run("run", WORDS, code=2)
        assert "agentflow run user-auth.yaml" in refused.stderr
        assert git(cli.cwd, "branch", "--list", "agentflow/*") == ""
        result = cli.json("run", WORDS, "--yes", "--json", "--progress", "quiet")
    assert (result["state"], result["completed"]) == ("landed", 3)
    assert git(cli.cwd, "show", "agentflow/user-auth:tests.txt") == "by tests\n"


def test_words_that_no_plan_comes_of_leave_with_1(cli: Cli) -> None:
    with model(*({"text": WRONG},) * 3) as server:
        config_of(cli, server.url)
        done = cli.run("plan", WORDS, code=1)
    assert "error[AF-PLAN-001]" in done.stderr
    assert "cycle: backend -> frontend -> backend" in done.stderr
    assert not list(cli.cwd.glob("user-auth*"))


def test_a_worker_with_other_roles_plans_with_those_of_the_submitter(cli: Cli) -> None:
    with model({"text": answer(planned("app", "ios"))}) as server:
        config = config_of(
            cli, server.url, roles={"mobile": {"aliases": ["ios"], "instructions": "You build apps."}}
        )
        found = draft(cli, config)
    assert [t.role for t in found.spec.tasks] == ["mobile"]
    assert "- mobile: You build apps." in server.requests[0]["messages"][0]["content"]


def test_the_model_of_the_planner_goes_first(cli: Cli) -> None:
    with model({"text": GOOD}, {"text": GOOD}) as server:
        config = config_of(cli, server.url, planner={"runner": "mind", "model": "larger", "max_tasks": 3})
        draft(cli, config)
    assert server.requests[0]["model"] == "larger"
    assert "At most 3 tasks" in server.requests[0]["messages"][1]["content"]


def test_a_large_plan_arrives_whole(cli: Cli) -> None:
    text = answer(*(planned(f"t{n}", "backend", prompt="Write it. " * 250) for n in range(30)))
    with model({"text": text}) as server:
        found = draft(cli, config_of(cli, server.url))
    assert len(found.yaml) > 70_000
    assert len(found.spec.tasks) == 30


def test_without_a_model_nothing_starts(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGENTFLOW_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    config = config_of(cli, "http://127.0.0.1:9/v1", planner={"runner": "script"})
    with pytest.raises(ConfigError, match="cannot plan") as caught:
        draft(cli, config)
    assert "planner.runner" in caught.value.fix
    assert "--template" in caught.value.fix
    (cli.cwd / "agentflow.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="planning from words needs a model") as caught:
        draft(cli, load_config(cli.cwd))
    assert "model" in caught.value.fix
    with pytest.raises(UsageError, match="no words"):
        drafting.draft("  \n", config=config, repo=cli.cwd)


def test_a_worker_of_a_team_plans_without_the_submitters_files(redis_url: str, tmp_path: Path) -> None:
    place = repository(tmp_path / "project", {"README.md": "# Shop\n"})
    with model({"text": GOOD}) as server, stage(redis_url, tmp_path / "worker") as team:
        (tmp_path / "worker").mkdir(exist_ok=True)
        team.start()
        (place / "agentflow.yaml").write_text(json.dumps(settings(server.url, redis={"url": redis_url})))
        found = drafting.draft(WORDS, config=load_config(place), repo=place)
        assert team.ledger.run(found.run).transport == "packs"
    assert len(found.spec.tasks) == 3
    assert "# Shop" in server.requests[0]["messages"][1]["content"]


def test_an_interrupted_plan_is_cancelled(cli: Cli) -> None:
    program = (
        "from pathlib import Path\nfrom agentflow import drafting\nfrom agentflow.config import load_config\n"
        f"drafting.draft({WORDS!r}, config=load_config(Path('.')), repo=Path('.'))"
    )
    with model({"text": GOOD, "fault": "stall"}) as server:
        config = config_of(cli, server.url)
        service.ensure(config)
        known = {run.id for run in ledger(config).runs()}
        process = start(cli, program)

        def new() -> list[str]:
            return [run.id for run in ledger(config).runs() if run.id not in known]

        (run,) = wait_until(new, timeout=40, what="the plan is a run")
        wait_until(lambda: ledger(config).node(run, "plan").state == "running", timeout=40)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
        wait_until(lambda: ledger(config).run(run).state == "cancelled", timeout=40)


def start(cli: Cli, program: str) -> subprocess.Popen[str]:
    """A Python program with the command line's environment."""
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=cli.cwd, env=cli.environ(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
