"""Jobs for runners, and rules for the scripted model server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from agentflow.environment import Job
from agentflow.runners.scripted import Script

#: What a command needs to be found and to write its temporary files.
ENVIRON = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}


def make_job(tmp_path: Path, runner: dict[str, Any] | None = None, **changes: Any) -> Job:
    """A job in `tmp_path/workspace`, with a minute of time."""
    workspace = tmp_path / "workspace"
    workspace.mkdir(exist_ok=True)
    files = tmp_path / "attempt"
    facts: dict[str, Any] = {
        "run": "r1",
        "node": "n1",
        "role": "backend",
        "attempt": 1,
        "prompt": "# Your task (n1, role backend)\n\nDo it.",
        "instructions": "You are careful.",
        "workspace": workspace,
        "output": "change",
        "artifacts": (),
        "runner": runner or {},
        "env": ENVIRON,
        "deadline": time.monotonic() + 60,
        "log": files / "n1.1.log",
        "transcript": files / "n1.1.jsonl",
        "prompt_file": files / "n1.1.prompt.md",
    }
    return Job(**{**facts, **changes})


def one_rule(*turns: dict[str, Any], repeat: bool = False) -> Script:
    """A script with one rule, which answers every job of `make_job`."""
    rule = {"name": "only", "when": ["# Your task (n1"], "turns": list(turns), "repeat": repeat}
    return Script.model_validate({"replies": [rule]})


def finish(**arguments: Any) -> dict[str, Any]:
    """A turn that ends the conversation."""
    return {"calls": [{"finish": {"summary": "done", **arguments}}]}
