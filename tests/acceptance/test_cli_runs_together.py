"""What happens around a run: others beside it, a red validation, cleaning up afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml
from helpers.cli import Cli, command_line, git, repository
from helpers.wait import wait_until

from agentflow.config import load_config

WRITES = {"command": ["sh", "-c", 'echo "by $1" > "$1.txt"', "sh", "{task}"]}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with command_line(tmp_path_factory.mktemp("house")) as cli:
        yield cli


@pytest.fixture
def cli(house: Cli, tmp_path: Path) -> Cli:
    return another(house, tmp_path / "project")


def another(house: Cli, place: Path) -> Cli:
    """The same user in a repository of its own."""
    found = Cli(repository(place, {"README.md": f"{place}\n"}), house.home, place)
    found.env = dict(house.env)
    return found


def write_feature(cli: Cli, *ids: str, runner: dict[str, object] | None = None, **fields: object) -> None:
    tasks = [
        {"id": i, "artifacts": [f"{i}.txt"], "role": "backend", "expect": "none", "runner": runner or WRITES}
        for i in ids
    ]
    (cli.cwd / "feature.yaml").write_text(yaml.safe_dump({"feature": "Files", **fields, "tasks": tasks}))


def test_two_repositories_run_at_once_on_one_server_and_worker(cli: Cli, house: Cli, tmp_path: Path) -> None:
    other = another(house, tmp_path / "other")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    # Each agent leaves only when it has seen the other one: that needs both runs at the same time.
    script = (
        f'touch {meeting}/$0; while [ "$(ls {meeting} | wc -l)" -lt 2 ]; do sleep 0.05; done; echo x > a.txt'
    )
    for number, one in enumerate((cli, other)):
        write_feature(one, "a", runner={"command": ["sh", "-c", script, f"run{number}"]})
    first, second = cli.start("run", "--json"), other.start("run", "--json")
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert '"state": "landed"' in out
    assert len({line.split()[0] for line in cli.run("runs").stdout.splitlines()[1:]}) >= 2


def test_a_red_validation_keeps_the_merged_tree_and_says_how_to_look(cli: Cli) -> None:
    write_feature(cli, "a", "b", validate=[["sh", "-c", "test ! -f b.txt"]])
    done = cli.run("run", code=1)
    assert "validation:" in done.stdout
    found = re.search(r"git worktree add --detach ../merged (refs/agentflow/runs/\S+/merged)", done.stdout)
    assert found
    ref = found[1]
    assert git(cli.cwd, "show", f"{ref}:a.txt") == "by a\n"
    assert git(cli.cwd, "branch", "--format=%(refname:short)").split() == ["main"]
    # The validation alone is done again; what succeeded is kept.
    again = cli.json("resume", "--json", code=1)
    assert [n["attempts"] for n in again["nodes"].values()] == [1, 1]


def test_a_dirty_checkout_is_told_of_and_left_alone(cli: Cli) -> None:
    write_feature(cli, "a")
    (cli.cwd / "README.md").write_text("my own change\n")
    done = cli.run("run")
    assert "uncommitted changes are not part of the run" in done.stderr
    assert (cli.cwd / "README.md").read_text() == "my own change\n"
    assert git(cli.cwd, "show", "agentflow/files:README.md") != "my own change\n"


def test_a_run_ends_at_its_timeout_with_its_agents(cli: Cli, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    write_feature(cli, "a", runner={"command": ["sh", "-c", f"echo $$ > {mark}; exec sleep 600"]})
    result = cli.json("run", "--timeout", "3s", "--json", code=1)
    assert result["state"] == "failed"
    assert "timeout" in result["reason"]
    pid = int(mark.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_gc_takes_what_a_closed_run_left_and_no_branch(cli: Cli) -> None:
    write_feature(cli, "a")
    run = cli.json("run", "--json")["run"]
    assert run in git(cli.cwd, "for-each-ref")
    wait_until(lambda: run in cli.run("gc", "--older-than", "1s", "--dry-run").stdout)
    assert run in git(cli.cwd, "for-each-ref")
    assert run in cli.run("gc", "--older-than", "1s").stdout
    assert run not in git(cli.cwd, "for-each-ref")
    assert not (cli.home / "runs" / run).exists()
    assert "no run" in cli.run("status", run, code=2).stderr
    assert git(cli.cwd, "show", "agentflow/files:a.txt") == "by a\n"


def test_a_run_that_redis_has_lost_is_told_with_the_way_to_run_it_again(cli: Cli) -> None:
    write_feature(cli, "a")
    run = cli.json("run", "--json")["run"]
    config = load_config(None, environ=cli.environ())
    with redis.Redis.from_url(config.client_url()) as client:
        client.flushall()
    said = cli.run("status", run, code=4).stderr
    assert "the ledger has no run" in said
    assert f"agentflow resume {run}" in said
    assert f"agentflow run {cli.home}/runs/{run}/spec.yaml" in said
    assert "there is no run 'nobody'" in cli.run("resume", "nobody", code=2).stderr
