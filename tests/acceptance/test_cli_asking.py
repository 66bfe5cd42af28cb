"""What `run` and `plan` are asked for: a file, a role with words, a line, words; with real runs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Cli, command_line, git, repository
from helpers.planning import GOOD, WORDS, model, settings

FILES = {
    "README.md": "hello\n",
    "auth.py": "secret = 1\n",
    "src/a.py": "a\n",
    "src/b.py": "b\n",
    "docs/x.md": "x\n",
}
#: An agent that tells its prompt: as its report, or in a file of its task's name.
TELLS = ["sh", "-c", 'cat "$2" > "$1.said"; cat "$2"', "sh", "{task}", "{prompt_file}"]
REPORTS = ["sh", "-c", 'cat "$1"', "sh", "{prompt_file}"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """One data directory, server and worker for all tests of this file."""
    with command_line(tmp_path_factory.mktemp("house")) as cli:
        yield cli


@pytest.fixture
def cli(house: Cli, tmp_path: Path) -> Cli:
    """The command line in a fresh repository whose agents tell what they were asked."""
    found = Cli(repository(tmp_path / "project", FILES), house.home, tmp_path)
    found.env = dict(house.env)
    configure(found)
    return found


def configure(cli: Cli, **more: object) -> None:
    runners = {"tells": {"command": TELLS}, "reports": {"command": REPORTS}}
    roles = {
        "reviewer": {"runner": "reports"},
        "mobile": {"instructions": "You build apps.", "aliases": ["app"]},
    }
    data = {"default_runner": "tells", "runners": runners, "roles": roles, **more}
    (cli.cwd / "agentflow.yaml").write_text(json.dumps(data))


def said(cli: Cli, result: dict[str, object], node: str) -> str:
    return git(cli.cwd, "show", f"{result['branch']}:{node}.said")


def test_a_line_is_run_part_beside_part(cli: Cli) -> None:
    line = 'review "security issues" auth.py AND test auth.py AND docs src'
    result = cli.json("run", line, "--json")
    assert (result["state"], result["feature"]) == ("landed", line)
    assert {name: node["role"] for name, node in result["nodes"].items()} == {
        "review": "reviewer", "test": "tester", "docs": "docs",
    }  # fmt: skip
    assert "auth.py" in said(cli, result, "test")
    assert "src/**" in said(cli, result, "docs")
    changed = git(cli.cwd, "diff", "--name-only", "main", result["branch"]).split()
    assert changed == ["docs.said", "test.said"]
    report = cli.run("logs", result["run"], "review").stdout
    assert "Review: security issues" in report
    # Parts of a line are not ordered; a strategy orders them.
    plan = cli.json("run", line, "--strategy", "pipeline", "--dry-run", "--json")
    assert {node["id"]: node["needs"] for node in plan["nodes"]} == {
        "test": [],
        "docs": [],
        "review": ["test"],
    }


def test_a_role_with_words_is_one_node_also_a_role_of_the_configuration(cli: Cli) -> None:
    result = cli.json("run", "app", "Add a start screen", "README.md", "--no-parallel", "--json")
    assert {name: node["role"] for name, node in result["nodes"].items()} == {"mobile": "mobile"}
    prompt = said(cli, result, "mobile")
    assert "You build apps." in prompt
    assert "Add a start screen" in prompt
    assert "README.md" in prompt


def test_shards_of_the_command_line_split_the_files(cli: Cli) -> None:
    (cli.cwd / "feature.yaml").write_text(
        "feature: Two halves\nchain:\n"
        "- {id: build, role: backend, prompt: Build it., artifacts: ['build-{shard}.said']}\n"
        "- {id: test, role: tester, prompt: Test it., artifacts: ['test-{shard}.said']}\n"
    )
    options = ("--shards", "2", "--files", "src,docs/x.md", "-j", "4", "--runner", "tells")
    plan = cli.json("plan", "--json", *options[:4])
    assert {node["id"]: (node["needs"], node["shard"]) for node in plan["nodes"]} == {
        "build-1": ([], "1"), "build-2": ([], "2"),
        "test-1": (["build-1"], "1"), "test-2": (["build-2"], "2"),
    }  # fmt: skip
    result = cli.json("run", "feature.yaml", *options, "--json")
    assert result["state"] == "landed"
    first, second = said(cli, result, "build-1"), said(cli, result, "test-2")
    assert "Do this for: src/a.py src/b.py" in first
    assert "docs/x.md" not in first
    assert "docs/x.md" in second


def test_words_are_planned_shown_saved_and_run_after_a_yes(cli: Cli) -> None:
    with model({"text": GOOD}) as server:
        (cli.cwd / "agentflow.yaml").write_text(json.dumps(settings(server.url)))
        refused = cli.run("run", WORDS, code=2)
        assert "feature: User auth" in refused.stderr
        assert "nobody is there to be asked" in refused.stderr
        assert "`agentflow run user-auth.yaml`" in refused.stderr
        assert cli.json("plan", "user-auth.yaml", "--json")["feature"] == "User auth"
        result = cli.json("run", WORDS, "--yes", "--json")
        shown = cli.run("plan", WORDS)
    assert result["state"] == "landed"
    assert set(result["nodes"]) == {"backend", "frontend", "tests"}
    assert shown.stdout == (cli.cwd / "user-auth-3.yaml").read_text()
    assert "saved user-auth-3.yaml" in shown.stderr
    assert sorted(path.name for path in cli.cwd.glob("*.yaml")) == [
        "agentflow.yaml", "user-auth-2.yaml", "user-auth-3.yaml", "user-auth.yaml",
    ]  # fmt: skip


def test_on_a_terminal_the_plan_is_asked_about(cli: Cli) -> None:
    with model({"text": GOOD}) as server:
        (cli.cwd / "agentflow.yaml").write_text(json.dumps(settings(server.url)))
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            cli.argv("run", WORDS), cwd=cli.cwd, env=cli.environ(),
            stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        while b"run it? [y/N]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"n\n")
        assert process.wait(30) == 2
        process.communicate()
        os.close(ours)
    assert b"feature: User auth" in shown


def test_the_words_of_a_run_are_kept_with_it(cli: Cli) -> None:
    result = cli.json("run", "test auth.py", "--json")
    kept = (cli.home / "runs" / str(result["run"]) / "spec.yaml").read_text()
    assert kept.startswith("# From the line: test auth.py\n")
    assert "reads: [auth.py]" in kept
