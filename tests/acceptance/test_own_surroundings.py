"""Attempts that run at the same time: each with a HOME, temporary files, ports and a name of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import git, repository
from helpers.house import House

#: Serves its first port until the other does too, and tells what it was given.
AGENT = """
import json, os, pathlib, socket, sys, tempfile, time

gate, task, other = pathlib.Path(sys.argv[1]), sys.argv[2], {"a": "b", "b": "a"}[sys.argv[2]]
home = pathlib.Path.home()
left = sorted(path.name for path in home.iterdir())
(home / "own").write_text(task)
with tempfile.NamedTemporaryFile() as file, socket.create_server(("", int(os.environ["AGENTFLOW_PORT"]))):
    found = {**os.environ, "left": left, "file": file.name}
    (gate / task).write_text("")
    while not (gate / other).exists():
        time.sleep(0.02)
pathlib.Path(task + ".txt").write_text(json.dumps(found))
"""
#: Sees the same, after the agent.
ACCEPTANCE = """
import json, os, pathlib, socket, sys

given = json.loads(pathlib.Path(sys.argv[1] + ".txt").read_text())
for name in ("HOME", "TMPDIR", "AGENTFLOW_PORTS", "AGENTFLOW_NAMESPACE"):
    assert os.environ[name] == given[name], name
assert pathlib.Path.home().joinpath("own").read_text() == sys.argv[1]
socket.create_server(("", int(os.environ["AGENTFLOW_PORT"]))).close()
"""
SETUP = "import os; os.mkdir('deps'); open('deps/home', 'w').write(os.environ['HOME'])"


@pytest.fixture
def project(house: House, tmp_path: Path) -> House:
    """A repository with the two programs, and a HOME of the worker's with something in it."""
    files = {"agent.py": AGENT, "check.py": ACCEPTANCE, ".gitignore": "deps\n"}
    house.cwd = repository(tmp_path / "project", files)
    home = tmp_path / "ann"
    home.mkdir()
    (home / ".logged-in").write_text("yes")
    (tmp_path / "gate").mkdir()
    house.env["HOME"] = str(home)
    return house


def ran(house: House, **runner: Any) -> dict[str, dict[str, Any]]:
    """What each of two tasks at once was given; the run has landed and its workspaces are gone."""
    gate = house.cwd.parent / "gate"
    command = {"command": ["{python}", "{workspace}/agent.py", str(gate), "{task}"], **runner}
    tasks = [
        {
            "id": name, "role": "backend", "prompt": "x", "artifacts": [f"{name}.txt"], "runner": command,
            "acceptance": [["{python}", "check.py", name]] if not runner else [], "retries": 0,
        }
        for name in ("a", "b")
    ]  # fmt: skip
    spec = {
        "feature": "Two at once", "tasks": tasks,
        "validate": [["{python}", "-c", "import os; os.environ['AGENTFLOW_PORT']"]],
        "setup": {"commands": [["{python}", "-c", SETUP]], "keep": ["deps"]},
    }  # fmt: skip
    (house.cwd / "feature.yaml").write_text(yaml.safe_dump(spec))
    result = house.finished("run", "feature.yaml")
    assert not list(house.home.glob("runs/*/work/*"))
    return {n: json.loads(git(house.cwd, "show", f"{result['branch']}:{n}.txt")) for n in ("a", "b")}


def test_two_at_once_have_nothing_in_common(project):
    found = ran(project)
    a, b = found["a"], found["b"]
    for name in ("HOME", "TMPDIR", "AGENTFLOW_PORT", "AGENTFLOW_PORTS", "AGENTFLOW_NAMESPACE"):
        assert a[name] != b[name]
    ports = [
        range(int(x.split("-")[0]), int(x.split("-")[1]) + 1)
        for x in (a["AGENTFLOW_PORTS"], b["AGENTFLOW_PORTS"])
    ]
    assert not set(ports[0]) & set(ports[1])
    home = project.env["HOME"]
    for one in (a, b):
        assert one["left"] == [], "an empty HOME"
        assert one["file"].startswith(one["TMPDIR"])
        assert one["AGENTFLOW_WORKER_HOME"] == home
        assert not Path(one["HOME"]).exists()
    assert [path.name for path in Path(home).iterdir()] == [".logged-in"]
    (made,) = project.home.glob("setup/*/*/tree/deps/home")
    assert made.read_text() == home, "what is made once for all attempts is made with the worker's HOME"


def test_an_agent_that_is_logged_in_keeps_its_users_home(project):
    found = ran(project, pass_env=["HOME"])
    assert {one["HOME"] for one in found.values()} == {project.env["HOME"]}
    assert ".logged-in" in found["a"]["left"]
    assert found["a"]["TMPDIR"] != found["b"]["TMPDIR"]


def test_who_runs_a_worker_can_leave_everybody_its_home(project, tmp_path):
    config = tmp_path / "config" / "agentflow"
    config.mkdir(parents=True)
    (config / "agentflow.yaml").write_text("worker: {own_home: false}\n")
    project.env["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    found = ran(project, env={"X": "1"})
    assert {one["HOME"] for one in found.values()} == {project.env["HOME"]}
    assert "AGENTFLOW_WORKER_HOME" not in found["a"]
