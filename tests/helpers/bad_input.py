"""A small project for runs that go wrong, with what must hold after each of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from helpers.house import House
from helpers.repos import git, make_repo, untouched

from agentflow.store.events import EventLog
from agentflow.store.records import Event

TARGET = "agentflow/answer"
FILES = {
    "app.py": "def answer():\n    return 41\n",
    "check.py": "import app\n\nassert app.answer() == 42, f'the answer is {app.answer()}'\n",
    ".gitignore": "*.local\n*_local.py\n__pycache__/\n",
}
RIGHT = "def answer():\n    return 42\n"
CHECK = "{python} check.py"
#: An agent that does what it should.
GOOD = {"command": ["{python}", "-c", f"open('app.py', 'w').write({RIGHT!r})"]}


class Project:
    """A repository below `place`, and a house whose commands are typed in it."""

    def __init__(self, house: House, place: Path) -> None:
        self.house = house
        self.place = place
        self.repo = make_repo(place / "project", FILES)

    def feature(
        self, runner: dict[str, Any] | None = None, *, spec: dict[str, Any] | None = None, **task: Any
    ) -> Path:
        """A feature file beside the repository with one task, `fix`."""
        node = {"id": "fix", "role": "implementer", "prompt": "Let check.py pass.", "acceptance": [CHECK]}
        node |= {"runner": runner or GOOD, "retries": 0, **task}
        file = self.place / "feature.yaml"
        whole = {"feature": "The answer", "target": TARGET, **(spec or {}), "tasks": [node]}
        file.write_text(yaml.safe_dump(whole))
        return file

    def run(self, file: Path, *words: str, code: int) -> dict[str, Any]:
        """Run a feature file to its end; its result, with what was said on stderr."""
        self.house.cwd = self.repo
        return self.house.finished("run", file, *words, code=code)

    def start(self, file: Path) -> subprocess.Popen[str]:
        """Start a run of the feature file and leave it going."""
        self.house.cwd = self.repo
        return self.house.start("run", file, "--json")

    def resume(self, run_id: str) -> dict[str, Any]:
        """Type `agentflow resume RUN`; it must land what was asked for, once."""
        result = self.house.finished("resume", run_id)
        self.check_landed(result)
        return result

    def check_landed(self, result: dict[str, Any], branch: str = TARGET) -> None:
        """The branch holds the right answer."""
        assert (result["state"], result["branch"]) == ("landed", branch)
        assert git(self.repo, "show", f"{branch}:app.py") == RIGHT.strip()

    def failed(self, file: Path, *, what: str, why: str = "", fix: str = "") -> dict[str, Any]:
        """Run what must fail, in words that help; nothing may be lost and nothing touched."""
        before = untouched(self.repo)
        result = self.run(file, code=1)
        assert untouched(self.repo) == before
        assert (result["state"], result["failed_nodes"]) == ("failed", ["fix"])
        assert result["branch"] == ""
        node = result["nodes"]["fix"]
        assert what in node["reason"]
        assert fix in node["fix"]
        assert why in self.house.ledger().node(result["run"], "fix").feedback
        return result

    def runs(self) -> list[str]:
        """The runs that were ever opened here."""
        return [run.id for run in self.house.ledger().runs() if run.root == str(self.repo)]

    def refused(
        self, file: Path, *, code: str, what: str, why: str = "", fix: str = "", exit_code: int = 3
    ) -> None:
        """Run what must be refused at once: a message, no run, nothing touched."""
        self.house.cwd = self.repo
        done = self.house.run("run", file, "--json", code=exit_code)
        assert done.stdout == ""
        first, *more = done.stderr.splitlines()
        assert first.startswith(f"error[{code}]: ")
        assert what in first
        lines = dict(line.strip().split(": ", 1) for line in more)
        assert why in lines.get("why", "")
        assert fix in lines.get("fix", "")
        assert "Traceback" not in done.stderr
        if (self.repo / ".git").exists():
            assert git(self.repo, "for-each-ref", "refs/agentflow") == ""
        assert self.runs() == []

    def events(self, result: dict[str, Any]) -> list[Event]:
        """Every transition of a run."""
        return EventLog(self.house.ledger().client).read(result["run"], count=10_000)

    def project_id(self) -> str:
        """What the project's store is named after: the first commit."""
        return git(self.repo, "rev-list", "--max-parents=0", "HEAD")[:12]

    def log(self, result: dict[str, Any], ending: str) -> str:
        """One of the logs of an attempt at `fix`."""
        return (self.house.home / "runs" / result["run"] / "logs" / f"fix.{ending}").read_text()

    def transcript(self, result: dict[str, Any], attempt: int = 1) -> list[dict[str, Any]]:
        """What was said between agentflow and the model."""
        return [json.loads(line) for line in self.log(result, f"{attempt}.transcript.jsonl").splitlines()]
