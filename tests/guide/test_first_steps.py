"""The first steps of a user, in order, on a small repository: read it as a tutorial.

The agent is a script, so that no model is needed. It stands in `agentflow.yaml` where a real one would.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Cli, command_line, git, repository, write

# Any program can be an agent: it finds its task in {prompt_file}, works in its current directory, and
# is judged by what it leaves there.
AGENT = """\
import pathlib, sys
task, prompt_file, sick = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
prompt = pathlib.Path(prompt_file).read_text()
print("working on", task)
if sick.exists():
    sys.exit("the agent is not well today")
if task == "code":
    assert "Write greet(name)" in prompt
    pathlib.Path("greeting.py").write_text('def greet(name):\\n    return f"Hello, {name}!"\\n')
if task == "tests":
    pathlib.Path("tests").mkdir(exist_ok=True)
    pathlib.Path("tests/test_greeting.py").write_text(
        "from greeting import greet\\n\\n\\ndef test_greet():\\n    assert greet('Ada') == 'Hello, Ada!'\\n"
    )
if task == "docs":
    with open("README.md", "a") as readme:
        readme.write("`greet(name)` greets.\\n")
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """`agentflow` typed in a repository with one commit, set up as in the first two steps."""
    with command_line(tmp_path) as found:
        repository(found.cwd, {"README.md": "# A project\n", ".gitignore": "__pycache__/\n"})
        write(tmp_path, {"agent.py": AGENT})
        found.run("init")
        words = ["{python}", str(tmp_path / "agent.py"), "{task}", "{prompt_file}", str(tmp_path / "sick")]
        configuration = {"default_runner": "script", "runners": {"script": {"command": words}}}
        write(found.cwd, {"agentflow.yaml": json.dumps(configuration)})
        yield found


def test_from_a_feature_file_to_a_tested_branch(cli: Cli) -> None:
    # `agentflow init` has written agentflow.yaml (who does the work; ours is changed) and feature.yaml
    # (what is to be built). `agentflow plan` checks the file and shows what would run, in which order.
    plan = cli.json("plan", "--json")
    assert plan["waves"] == [["code"], ["tests", "docs"]]

    # `agentflow run` does it. The private Redis and the worker come up by themselves.
    before = (git(cli.cwd, "rev-parse", "main"), git(cli.cwd, "status", "--porcelain"))
    result = cli.json("run", "--json", "--progress", "quiet")
    assert (result["state"], result["branch"]) == ("landed", "agentflow/greeting")
    assert {name: node["state"] for name, node in result["nodes"].items()} == dict.fromkeys(
        ["code", "tests", "docs"], "succeeded"
    )

    # What came out is a branch. The checkout, its files and the branch that it is on are untouched.
    assert git(cli.cwd, "show", "agentflow/greeting:greeting.py").startswith("def greet(name):")
    assert git(cli.cwd, "show", "agentflow/greeting:README.md").endswith("`greet(name)` greets.\n")
    assert (git(cli.cwd, "rev-parse", "main"), git(cli.cwd, "status", "--porcelain")) == before
    assert not (cli.cwd / "greeting.py").exists()

    # Afterwards everything can be looked at; a run is named by the beginning of its id, or not at all.
    assert "landed" in cli.run("runs").stdout
    assert "succeeded" in cli.run("status", result["run"][:8]).stdout
    assert "+def greet(name):" in cli.run("diff").stdout
    assert "test_greeting.py" not in cli.run("diff", "docs").stdout
    assert "working on code" in cli.run("logs", "code").stdout
    assert "succeeded in attempt 1" in cli.run("why", "tests").stdout
    kinds = [json.loads(line)["kind"] for line in cli.run("events").stdout.splitlines()]
    assert (kinds[0], kinds[-1]) == ("run.opened", "run.finished")

    # Nothing is left running once it is told to go.
    assert cli.run("down").stderr == "down\n"


def test_a_detached_run_lands_when_it_is_told_to(cli: Cli) -> None:
    # `--detach` returns at once and prints the run's id; `watch` follows it from any terminal.
    run = cli.run("run", "--detach").stdout.strip()
    cli.run("watch", run, "--no-land")
    assert "ready to land" in cli.run("status", run).stdout.replace("_", " ")
    assert not git(cli.cwd, "branch", "--list", "agentflow/*")

    # `land` moves the branch, all or nothing. Saying it twice is harmless.
    for _ in range(2):
        assert "agentflow/greeting" in cli.run("land", run).stdout
    assert git(cli.cwd, "show", "agentflow/greeting:greeting.py")


def test_a_run_that_failed_says_why_and_goes_on_when_it_is_resumed(cli: Cli, tmp_path: Path) -> None:
    # The agent fails each of its three attempts, so `code` fails and what needs it is skipped: exit code 1.
    write(tmp_path, {"sick": ""})
    result = cli.json("run", "--json", "--progress", "quiet", code=1)
    assert (result["state"], result["failed_nodes"]) == ("failed", ["code"])
    assert result["skipped"] == 2
    assert "not well today" in cli.run("logs", "code").stdout
    assert "failed" in cli.run("why", "code").stdout

    # Once the reason is gone `resume` tries again what did not succeed, and the run lands.
    (tmp_path / "sick").unlink()
    result = cli.json("resume", "--json", "--progress", "quiet")
    assert (result["state"], result["completed"]) == ("landed", 3)
