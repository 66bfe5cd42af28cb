"""A model that plans, by a script: replies are chosen by what the request says, never by who asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer

#: What is asked for in most tests.
WORDS = "Implement user auth with frontend, backend and tests"


def planned(name: str, role: str, *needs: str, **more: Any) -> dict[str, Any]:
    """A task as strict structured output writes it; it makes one file of its name."""
    return {
        "id": name,
        "role": role,
        "prompt": f"Write {name}.txt.",
        "needs": list(needs),
        "output": "change",
        "artifacts": [f"{name}.txt"],
        "acceptance": [f"test -f {name}.txt"],
        **more,
    }


def answer(*tasks: dict[str, Any], feature: str = "User auth") -> str:
    """A plan as the model says it."""
    return json.dumps({"feature": feature, "goal": "Users log in.", "validate": [], "tasks": list(tasks)})


GOOD = answer(
    planned("backend", "backend"),
    planned("frontend", "frontend", "backend"),
    planned("tests", "qa", "backend"),
)
#: A circle, and a role that is not there.
WRONG = answer(planned("backend", "backnd", "frontend"), planned("frontend", "frontend", "backend"))
#: The good answer is given only to who tells what was wrong.
REPAIRED = {"when": ["cycle: backend -> frontend -> backend", "there is no such role"], "text": GOOD}


@contextmanager
def model(*turns: dict[str, Any], when: Sequence[str] = (WORDS,)) -> Iterator[ScriptedServer]:
    """A server whose model answers with these turns whoever asks for `when`."""
    rule = {"name": "plan", "when": list(when), "turns": list(turns)}
    with ScriptedServer(Script.model_validate({"replies": [rule]}), record=True) as server:
        yield server


def settings(url: str, **more: Any) -> dict[str, Any]:
    """agentflow.yaml with that model for the planner and a shell script for everybody else."""
    script = {"command": ["sh", "-c", 'echo "by $1" > "$1.txt"', "sh", "{task}"]}
    mind = {"type": "openai", "base_url": url, "model": "scripted", "backoff_s": 0.01, "max_retries": 1}
    runners = {"script": script, "mind": mind}
    return {"default_runner": "script", "runners": runners, "planner": {"runner": "mind"}, **more}
