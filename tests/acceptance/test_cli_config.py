"""`agentflow config`: what holds here and why, its schema, and files of older systems."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from helpers.cli import Cli, command_line, repository, write

OLD = Path(__file__).parents[1] / "unit" / "foreign" / "config.yaml"


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with command_line(tmp_path) as found:
        repository(found.cwd, {"README.md": "# Here\n"})
        yield found


def test_set_is_the_flag_of_every_key(cli: Cli) -> None:
    write(cli.cwd, {"agentflow.yaml": "worker: {slots: 2, queues: [docs]}\n"})
    shown = cli.run("--set", "worker.slots=9", "config", "show", "--origin").stdout
    assert [line.split() for line in shown.splitlines() if line.startswith("worker.")][:2] == [
        ["worker.slots", "flag", "--set", "worker.slots", "9"],
        ["worker.queues", "project", f"{cli.cwd}/agentflow.yaml:1", '["docs"]'],
    ]
    assert cli.json("--set", "limits.roles=qa=3", "config", "show", "--json")["limits"]["roles"] == {
        "tester": 3
    }


def test_set_without_a_value_is_a_usage_error(cli: Cli) -> None:
    assert "--set slots is not KEY=VALUE" in cli.run("--set", "slots", "config", "show", code=2).stderr
    done = cli.run("--set", "slot=3", "config", "show", code=3)
    assert "flag --set slot: AF-CONFIG-010: unknown key 'slot'" in done.stderr
    assert "did you mean 'slots'?" in done.stderr


def test_what_is_written_goes_to_stdout_and_everything_else_does_not(cli: Cli) -> None:
    done = cli.run("config", "schema")
    assert not done.stderr
    jsonschema.validate({"slots": 3, "limits": {"fleet": 4}}, json.loads(done.stdout))


def test_an_older_systems_file_becomes_ours(cli: Cli) -> None:
    write(cli.cwd, {"config.yaml": OLD.read_text()})
    dry = cli.run("config", "import", "config.yaml", "--dry-run")
    assert not (cli.cwd / "agentflow.yaml").exists()
    assert yaml.safe_load(dry.stdout)["limits"]["fleet"] == 80
    done = cli.run("config", "import", "config.yaml")
    assert done.stdout == "wrote agentflow.yaml\n"
    assert (cli.cwd / "agentflow.yaml").read_text() == dry.stdout
    table = {line.split()[0]: line for line in done.stderr.splitlines() if "." in line.split()[0]}
    assert "limits.fleet" in table["orchestrator.max_workers"]
    assert "budget.day.usd" in table["budgets.daily_usd"]
    assert yaml.safe_load(dry.stdout)["budget"]["day"] == {"usd": 20}
    assert "not-to-be-copied" not in done.stderr + dry.stdout
    assert done.stderr.splitlines()[-2].endswith("not")
    assert cli.json("config", "show", "--json")["project"] == "checkout-swarm"


def test_nothing_is_overwritten(cli: Cli) -> None:
    write(cli.cwd, {"config.yaml": OLD.read_text(), "agentflow.yaml": "slots: 3\n"})
    done = cli.run("config", "import", "config.yaml", code=2)
    assert "agentflow.yaml is there already" in done.stderr
    assert (cli.cwd / "agentflow.yaml").read_text() == "slots: 3\n"
    cli.run("config", "import", "config.yaml", "--out", "other.yaml")
    assert (cli.cwd / "other.yaml").exists()


@pytest.mark.parametrize(
    ("text", "code", "what"),
    [
        (
            "services: {}\n",
            2,
            "error[AF-CONFIG-050]: old.yaml is not a configuration that agentflow can read",
        ),
        ("slots: 3\n", 2, "error[AF-CONFIG-051]: old.yaml is in agentflow's own form already"),
        ("a: [\n", 3, "old.yaml:2:1: AF-CONFIG-004: not YAML"),
        ("", 3, "AF-CONFIG-006: the file is empty"),
    ],
)
def test_a_file_that_is_none_of_them(cli: Cli, text: str, code: int, what: str) -> None:
    write(cli.cwd, {"old.yaml": text})
    done = cli.run("config", "import", "old.yaml", code=code)
    assert not done.stdout
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there(cli: Cli) -> None:
    assert "AF-CONFIG-001: cannot read the file" in cli.run("config", "import", "gone.yaml", code=3).stderr
