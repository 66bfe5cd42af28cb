"""Coming from `*.ax.yaml` workflows: the files run as they are, and a failure can be gone on from.

Two workflows, of 12 and of 7 tasks. The agent is a script that writes a file for its task; it stands in
agentflow.yaml where a real one would. Deploy tasks are ordinary nodes here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Cli, command_line, git, repository, write

WORKFLOWS = Path(__file__).parent / "workflows"
AGENT = """\
import pathlib, sys
task, sick = sys.argv[1], pathlib.Path(sys.argv[2])
if sick.exists() and sick.read_text() == task:
    sys.exit(f"{task}: the staging server does not answer")
pathlib.Path(f"{task}.md").write_text(f"{task} is done\\n")
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A repository with both workflows and the configuration."""
    with command_line(tmp_path) as found:
        words = ["{python}", str(tmp_path / "agent.py"), "{task}", str(tmp_path / "sick")]
        configuration = {"default_runner": "script", "runners": {"script": {"command": words}}}
        repository(found.cwd, {"README.md": "# A project\n", "agentflow.yaml": json.dumps(configuration)})
        write(tmp_path, {"agent.py": AGENT})
        for workflow in WORKFLOWS.glob("*.ax.yaml"):
            shutil.copy(workflow, found.cwd)
        yield found


def test_twelve_tasks_of_which_one_fails_and_the_run_goes_on(cli: Cli, tmp_path: Path) -> None:
    # The order is that of the dependencies; what does not depend on each other runs together.
    plan = cli.json("plan", "social-platform.ax.yaml", "--json")
    assert plan["waves"] == [
        ["user-management", "post-system"],
        ["comment-system", "user-ui", "post-ui"],
        ["comment-ui", "database-migrations", "api-documentation"],
        ["e2e-tests"],
        ["performance-tests"],
        ["staging-deploy"],
        ["production-deploy"],
    ]

    # One task cannot do its work: the run ends with exit code 1 and says which one, and what it kept back.
    (tmp_path / "sick").write_text("e2e-tests")
    failed = cli.json("run", "social-platform.ax.yaml", "-j", "4", "--json", code=1)
    assert (failed["reason"], failed["failed_nodes"]) == ("failed: e2e-tests", ["e2e-tests"])
    said = cli.run("logs", failed["run"], "e2e-tests").stdout
    assert "the staging server does not answer" in said
    states = {name: node["state"] for name, node in failed["nodes"].items()}
    skipped = {"performance-tests", "staging-deploy", "production-deploy"}
    assert {name for name, state in states.items() if state == "skipped"} == skipped
    assert git(cli.cwd, "branch", "--list", "agentflow/*") == ""

    # When the cause is gone, `resume` does what is left, and only that.
    (tmp_path / "sick").unlink()
    result = cli.json("resume", "--json")
    assert (result["state"], result["completed"], result["total"]) == ("landed", 12, 12)
    attempts = {name: node["attempts"] for name, node in result["nodes"].items()}
    assert {name for name, count in attempts.items() if count > 1} == {"e2e-tests"}
    files = git(cli.cwd, "ls-tree", "--name-only", result["branch"]).split()
    assert {f"{name}.md" for name in states} <= set(files)


def test_seven_tasks(cli: Cli) -> None:
    result = cli.json("run", "feature.ax.yaml", "-j", "4", "--json")
    assert (result["state"], result["completed"]) == ("landed", 7)
    roles = {name: node["role"] for name, node in result["nodes"].items()}
    assert roles["design"] == "architect"
    assert roles["integration-tests"] == "tester"
    assert roles["deploy"] == "devops"
