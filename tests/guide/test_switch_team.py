"""Coming from a Redis team: three workers, and a chain architect -> implementer -> tester for each module.

Each item of `for_each` is a shard: its chain runs in order, different shards at the same time, and the tasks
of a shard prefer the worker that has done the one before. The agent is a script; it stands in agentflow.yaml
where a real one would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Cli, command_line, git, repository, write
from helpers.wait import wait_until

SPEC = """\
feature: Three modules
for_each: [money, dates, words]
chain:
  - id: design
    role: architect
    output: report
    prompt: Say which functions {item} needs.
  - id: build
    role: implementer
    prompt: Write {item}.py.
    artifacts: ["{item}.py"]
  - id: check
    role: tester
    prompt: Test {item}.py.
    artifacts: ["test_{item}.py"]
    acceptance: ["{python} -m pytest -q test_{item}.py"]
tasks:
  - id: notes
    role: docs
    needs: [check]            # of every item
    artifacts: [NOTES.md]
validate: ["{python} -m pytest -q"]
"""
AGENT = """\
import os, pathlib, sys
kind, _, item = sys.argv[1].partition("-")
if kind == "design":
    pathlib.Path(os.environ["AGENTFLOW_REPORT"]).write_text(f"{item} needs double(x)")
if kind == "build":
    assert f"{item} needs double(x)" in pathlib.Path(sys.argv[2]).read_text()
    pathlib.Path(f"{item}.py").write_text("def double(x):\\n    return 2 * x\\n")
if kind == "check":
    test = f"from {item} import double\\n\\n\\ndef test_double():\\n    assert double(2) == 4\\n"
    pathlib.Path(f"test_{item}.py").write_text(test)
if kind == "notes":
    pathlib.Path("NOTES.md").write_text(", ".join(sorted(p.stem for p in pathlib.Path().glob("test_*.py"))))
"""


@pytest.fixture
def ann(tmp_path: Path, redis_url: str) -> Iterator[Cli]:
    """The submitter, in a repository with the spec; the team's Redis stands in her environment."""
    with command_line(tmp_path) as found:
        words = ["{python}", str(tmp_path / "agent.py"), "{task}", "{prompt_file}"]
        configuration = {"default_runner": "script", "runners": {"script": {"command": words}}}
        files = {
            "agentflow.yaml": json.dumps(configuration),
            "modules.yaml": SPEC,
            ".gitignore": "__pycache__\n",
        }
        repository(found.cwd, files)
        write(tmp_path, {"agent.py": AGENT})
        found.env["AGENTFLOW_REDIS_URL"] = redis_url
        yield found
        found.env.pop("AGENTFLOW_REDIS_URL")


@pytest.fixture
def machines(tmp_path: Path, redis_url: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Three machines, each with a worker: `agentflow worker --redis URL` is all that is typed there."""
    started = []
    for number in (1, 2, 3):
        place = tmp_path / f"machine{number}"
        place.mkdir()
        machine = Cli(place, place / "home", Path(tempfile.gettempdir()))
        log = (place / "log").open("w")
        with log:
            started.append(
                machine.start(
                    "worker",
                    "--redis",
                    redis_url,
                    "--name",
                    f"w{number}",
                    "--slots",
                    "2",
                    stdout=log,
                    stderr=log,
                )
            )
    yield started
    for worker in started:
        os.killpg(worker.pid, signal.SIGTERM)
    for worker in started:
        worker.wait(30)


def test_three_workers_and_a_chain_for_each_module(ann: Cli, machines: list[subprocess.Popen[str]]) -> None:
    # The workers sign a register; their slots are what the team has.
    wait_until(lambda: len(ann.json("workers", "--json")["workers"]) == len(machines), timeout=40)

    # The plan shows what the file comes to: a chain for each item, and one task that needs them all.
    plan = ann.json("plan", "modules.yaml", "--json")
    assert plan["waves"][0] == ["design-money", "design-dates", "design-words"]
    assert plan["waves"][-1] == ["notes"]

    result = ann.json("run", "modules.yaml", "--distributed", "--json", timeout=150)
    assert (result["state"], result["completed"], result["total"]) == ("landed", 10, 10)
    assert git(ann.cwd, "show", f"{result['branch']}:NOTES.md") == "test_dates, test_money, test_words"

    # More than one machine has worked, and the chains were kept in order.
    nodes = {node["id"]: node for node in ann.json("status", result["run"], "--json")["nodes"]}
    assert len({node["worker"] for node in nodes.values() if node.get("worker")}) > 1
    events = [json.loads(line) for line in ann.run("events", result["run"]).stdout.splitlines()]
    settled = [e["node"] for e in events if e["kind"] == "node.settled"]
    for item in ("money", "dates", "words"):
        chain = [f"{kind}-{item}" for kind in ("design", "build", "check")]
        assert [node for node in settled if node in chain] == chain
