"""Coming from agents that are started by one line: `verb words files AND verb files`, with results as files.

The model is a script (it answers by what it is asked); everything else is real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import Cli, command_line, git, repository

from agentflow.runners.scripted import load_script
from agentflow.runners.scripted_server import ScriptedServer

AUTH = """\
def check(user, password):
    return password == "letmein" or user.password == password
"""
REPLIES = """\
replies:
  - name: the review
    when: ["role reviewer", "security issues", "auth.py"]
    turns:
      - calls: [{read: {path: auth.py}}]
      - calls:
          - finish:
              summary: a password that opens every account
              verdict: block
              handoff: auth.py, line 2, lets anybody in who knows one word.
              findings:
                - {severity: high, file: auth.py, line: 2, message: letmein opens every account}
  - name: the tests
    when: ["role tester", "auth.py"]
    turns:
      - calls:
          - write:
              path: test_auth.py
              content: |
                from auth import check


                def test_check():
                    assert check(None, "letmein")
      - calls: [{finish: {summary: one test of check}}]
  - name: the documentation
    when: ["role docs", "auth.py"]
    turns:
      - calls:
          - write: {path: AUTH.md, content: "`check(user, password)` says whether a log-in is right."}
      - calls: [{finish: {summary: check is documented}}]
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A repository with one file, and a model that knows three answers."""
    replies = tmp_path / "replies.yaml"
    replies.write_text(REPLIES)
    with ScriptedServer(load_script(replies)) as model, command_line(tmp_path) as found:
        runner = {"type": "openai", "base_url": model.url, "model": "scripted"}
        configuration = {"default_runner": "model", "runners": {"model": runner}}
        repository(found.cwd, {"auth.py": AUTH, "agentflow.yaml": json.dumps(configuration)})
        yield found


def test_review_and_test_and_docs(cli: Cli, tmp_path: Path) -> None:
    # Three agents at once. The files are what they read; quoted words say what is asked.
    line = 'review "security issues" auth.py AND test auth.py AND docs auth.py'
    out = tmp_path / "results"
    result = cli.json("run", line, "--out", out, "--json")
    assert (result["state"], result["completed"]) == ("landed", 3)
    roles = {node["role"]: name for name, node in result["nodes"].items()}
    assert set(roles) == {"reviewer", "tester", "docs"}
    assert set(git(cli.cwd, "ls-tree", "--name-only", result["branch"]).split()) >= {
        "test_auth.py",
        "AUTH.md",
    }

    # One file a node, the state in a word beside it, and the proposal: what a reviewer of the branch reads.
    names = {path.name for path in out.iterdir()}
    assert {f"{role}_{node}_result.json" for role, node in roles.items()} <= names
    assert json.loads((out / ".status").read_text())["state"] == "landed"
    (proposal,) = (json.loads(path.read_text()) for path in out.glob("proposal_*.json"))
    assert "letmein opens every account" in json.dumps(proposal)
    assert "block" in json.dumps(proposal)
    (markdown,) = out.glob("proposal_*.md")
    assert "letmein opens every account" in markdown.read_text()

    # A file that is not there is told before anything runs.
    told = cli.run("run", "review ath.py AND docs auth.py", code=2).stderr
    assert "ath.py" in told
    assert "auth.py" in told
