"""What `run` and `plan` cannot be asked for, and what they show without running anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.cli import repository
from typer.testing import CliRunner

from agentflow.cli.main import app


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as the working directory, with a runner that needs nothing."""
    files = {"README.md": "hello\n", "auth.py": "secret = 1\n", "docs/x.md": "x\n"}
    place = repository(tmp_path / "project", files)
    (place / "agentflow.yaml").write_text("runners: {tells: {command: agent}}\ndefault_runner: tells\n")
    monkeypatch.chdir(place)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGENTFLOW_MODEL", raising=False)
    return place


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["nofile.yaml"], 2, "there is no file nofile.yaml"),
        (["review"], 2, "it says too little to plan from"),
        (["review auht.py AND test auth.py"], 2, "the repository has no file 'auht.py'"),
        (["review a/auth.py AND test auth.py"], 2, "did you mean 'auth.py'?"),
        (["reviw auth.py AND test auth.py"], 2, "'reviw' is neither a verb nor a role"),
        (["review auth.py AND"], 2, "nothing stands on one side of AND"),
        (["review AND test auth.py"], 2, "'review' has nothing to work on"),
        (["test auth.py", "--files", "gone.py"], 2, "the repository has no file 'gone.py'"),
        (["test auth.py", "--runner", "telsl"], 2, "did you mean 'tells'?"),
        (["test auth.py", "--strategy", "fast"], 2, "'fast' is not one of"),
        (["test auth.py", "--shards", "0"], 2, "greater than or equal to 1"),
        (["test auth.py", "-j", "3", "--no-parallel"], 2, "--no-parallel and -j 3 exclude each other"),
        (["test auth.py", "--strategy", "hybrid"], 3, "a hybrid needs rules"),
        (["Build a login page"], 3, "planning from words needs a model"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_starts(
    project: Path, words: list[str], code: int, expected: str
) -> None:
    done = CliRunner().invoke(app, ["run", *words])
    assert (done.exit_code, done.stdout) == (code, "")
    assert expected in done.stderr
    assert not (project.parent / "home").exists()


@pytest.mark.parametrize(
    ("name", "nodes"), [("fullstack", 8), ("microservices", 13), ("refactor", 5), ("bugfix", 4)]
)
def test_a_template_needs_no_model(project: Path, name: str, nodes: int) -> None:
    shown = CliRunner().invoke(app, ["plan", "--template", name, 'Shop: "checkout"'])
    file = project / "shop-checkout.yaml"
    assert shown.exit_code == 0
    assert shown.stdout == file.read_text()
    assert 'feature: "Shop: \\"checkout\\""\n' in shown.stdout
    assert "next: agentflow run shop-checkout.yaml" in shown.stderr
    view = json.loads(CliRunner().invoke(app, ["plan", file.name, "--json"]).stdout)
    assert len(view["nodes"]) == nodes


def test_there_is_no_such_template(project: Path) -> None:
    done = CliRunner().invoke(app, ["plan", "--template", "bugfx", "x"])
    assert (done.exit_code, list(project.glob("*.yaml"))) == (2, [project / "agentflow.yaml"])
    assert "did you mean 'bugfix'?" in done.stderr


def test_a_plan_shows_order_groups_stages_and_shards(project: Path) -> None:
    (project / "feature.yaml").write_text(
        "feature: f\nstrategy: pipeline\nqueue: gpu\n"
        "tasks: [{id: b, role: backend, prompt: x, for_each: [k]}, {id: t, role: qa, prompt: x}]\n"
    )
    shown = CliRunner().invoke(app, ["plan"]).stdout
    assert "  b-k  (backend, stage implement, shard k, queue gpu)\n" in shown
    assert "wave 2\n  t  (tester, stage test, queue gpu)  needs b-k\n" in shown
    assert "order\n  b-k, t\n" in shown
