"""The commands that start no run, as processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from helpers.cli import Cli, command_line, repository, write

FEATURE = """\
feature: A feature
tasks:
  - {id: a, role: backend, prompt: write it}
  - {id: b, role: docs, prompt: describe it, needs: [a]}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with command_line(tmp_path) as found:
        repository(found.cwd, {"feature.yaml": FEATURE})
        yield found


def test_help_names_every_command_and_imports_nothing_heavy(cli: Cli) -> None:
    cli.env["PYTHONPROFILEIMPORTTIME"] = "1"
    done = cli.run("--help")
    named = set(re.findall(r"^  ([a-z]+)  ", done.stdout, re.MULTILINE))
    commands = (
        "init plan run runs status watch events logs diff why cancel resume land gc down doctor config "
        "schema demo pause drain kill failures retry"
    )
    assert named >= set(commands.split())
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert not imported & {"celery", "redis", "openai", "pydantic", "rich", "yaml"}


def test_the_version_is_one_line(cli: Cli) -> None:
    assert re.fullmatch(r"agentflow \d+\.\d+\.\d+\n", cli.run("--version").stdout)


def test_a_misspelt_command_is_a_usage_error_with_a_proposal(cli: Cli) -> None:
    done = cli.run("stauts", code=2)
    assert not done.stdout
    assert "status" in done.stderr


def test_plan_prints_data_on_stdout_only(cli: Cli) -> None:
    done = cli.run("plan")
    assert not done.stderr
    assert "chord([b], integrate)" in done.stdout
    assert cli.json("plan", "--json")["waves"] == [["a"], ["b"]]
    assert cli.run("plan", "--mermaid").stdout.startswith("flowchart TD\n")
    assert cli.run("plan", "--dot").stdout.startswith("digraph")
    assert cli.run("plan", "--only", "a", "--canvas").stdout.splitlines()[1:] == [
        "  at once: a",
        "  chord([a], integrate)",
    ]
    assert cli.run("run", "--dry-run").stdout == cli.run("plan").stdout


def test_two_forms_at_once_are_refused(cli: Cli) -> None:
    done = cli.run("plan", "--dot", "--json", code=2)
    assert "--mermaid, --dot, --canvas, --json" in done.stderr


def test_all_problems_of_a_file_are_told_and_the_code_is_3(cli: Cli) -> None:
    write(cli.cwd, {"bad.yaml": "feature: x\ntasks:\n  - {id: a, role: bakend}\n  - {id: b, needs: [c]}\n"})
    done = cli.run("plan", "bad.yaml", code=3)
    assert not done.stdout
    assert len(re.findall(r"^bad\.yaml:\d+:\d+: AF-SPEC-\d+: ", done.stderr, re.MULTILINE)) >= 2
    assert "did you mean 'backend'?" in done.stderr


def test_a_missing_file_is_a_usage_error(cli: Cli) -> None:
    (cli.cwd / "feature.yaml").unlink()
    done = cli.run("plan", code=2)
    assert "agentflow init" in done.stderr


def test_the_schema_accepts_what_the_reader_accepts(cli: Cli) -> None:
    jsonschema.validate(yaml.safe_load(FEATURE), cli.json("schema"))


def test_init_writes_files_that_plan_and_leaves_yours_alone(cli: Cli) -> None:
    done = cli.run("init")
    assert done.stdout == "wrote agentflow.yaml\n"
    assert (cli.cwd / "feature.yaml").read_text() == FEATURE
    (cli.cwd / "feature.yaml").unlink()
    assert cli.run("init").stdout == "wrote feature.yaml\n"
    assert cli.json("plan", "--json")["critical_path"][0] == "code"


def test_init_outside_a_repository_says_how_to_make_one(cli: Cli, tmp_path: Path) -> None:
    cli.cwd = tmp_path
    assert "git init" in cli.run("init", code=2).stderr


def test_config_show_tells_where_each_value_comes_from(cli: Cli) -> None:
    write(cli.cwd, {"agentflow.yaml": "slots: 3\n"})
    shown = cli.run("--redis-url", "redis://localhost:1/0", "config", "show", "--origin").stdout
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert f"project {cli.cwd / 'agentflow.yaml'}:1" in rows["slots"]
    assert "env AGENTFLOW_HOME" in rows["data_dir"]
    assert "flag --redis-url" in rows["redis.url"]
    assert "default" in rows["idle_minutes"]
    assert cli.json("config", "show", "--json")["slots"] == 3


def test_a_wrong_configuration_names_file_and_line(cli: Cli) -> None:
    write(cli.cwd, {"agentflow.yaml": "slotz: 3\n"})
    done = cli.run("runs", code=3)
    assert "agentflow.yaml:1:1: AF-CONFIG-" in done.stderr
    assert "did you mean 'slots'?" in done.stderr


def test_doctor_is_content_with_this_machine(cli: Cli) -> None:
    checks = {check["name"]: check for check in cli.json("doctor", "--json")}
    assert set(checks) >= {"python", "git", "configuration", "redis", "data directory", "socket path", "disk"}
    assert all(check["ok"] or check["hint"] for check in checks.values())
    assert not cli.home.exists()


def test_doctor_says_how_to_mend_what_is_missing(cli: Cli) -> None:
    tools = cli.cwd / "bin"
    tools.mkdir()
    cli.env |= {"PATH": str(tools), "AGENTFLOW_HOME": "/proc/nowhere", "XDG_RUNTIME_DIR": ""}
    done = cli.run("doctor", code=4)
    failed = re.findall(r"^FAIL  (.+?)  .*\n      fix: (.+)$", done.stdout, re.MULTILINE)
    assert dict(failed).keys() >= {"git", "data directory"}
    assert "AGENTFLOW_HOME" in dict(failed)["data directory"]


def test_doctor_looks_at_a_configured_redis(cli: Cli) -> None:
    done = cli.run("--redis-url", "redis://127.0.0.1:1/0", "doctor", code=4)
    assert re.search(r"^FAIL  redis ", done.stdout, re.MULTILINE)


def test_looking_at_nothing_says_what_to_do_and_leaves_when_told(cli: Cli) -> None:
    assert "agentflow run FILE" in cli.run("runs").stderr
    assert cli.json("runs", "--json") == []
    overview = cli.json("status", "--json")
    assert overview["local"]["server"] > 0
    assert overview["workers"] == []
    assert "agentflow run FILE" in cli.run("watch", code=2).stderr
    assert "agentflow runs" in cli.run("status", "nosuchrun", code=2).stderr
    assert cli.run("down").stderr == "down\n"
    assert cli.run("down").stderr == "nothing is running\n"


def test_down_does_not_touch_a_redis_that_is_not_ours(cli: Cli) -> None:
    assert "not agentflow's to stop" in cli.run("--redis-url", "redis://x:1/0", "down", code=2).stderr


def test_output_is_ascii_where_the_terminal_asks_for_it(cli: Cli) -> None:
    cli.env["PYTHONIOENCODING"] = "ascii"
    shown = cli.run("plan").stdout
    assert "  a -> b\n" in shown
    assert shown.isascii()


def test_directory_and_data_directory_can_be_given(cli: Cli, tmp_path: Path) -> None:
    project, cli.cwd = cli.cwd, tmp_path
    assert cli.json("-C", project, "plan", "--json")["feature"] == "A feature"
    given = tmp_path / "elsewhere"
    shown = cli.json("-C", project, "--data-dir", "elsewhere", "config", "show", "--json")
    assert shown["data_dir"] == str(given)
