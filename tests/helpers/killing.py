"""Features whose workers and commands are killed at named points, and what must be the same afterwards.

A real model's tool loop (the model is a script), real workers, a real landing, a real repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.cli import git, repository
from helpers.nursery import Nursery, nursery
from helpers.workers import ROOT, Stage, stage

from agentflow import failpoints, runs
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer
from agentflow.spec.reader import parse_spec
from agentflow.store.validation import validate_run

Task = Mapping[str, Any]
USED = {"prompt_tokens": 900, "completion_tokens": 100}
#: Of one call: a dollar for a million tokens of input, ten for output.
CALL_USD = 0.0019
PRICES = {"input": 1.0, "output": 10.0}
#: A lost attempt is noticed soon; one that only seems to be lost on a busy machine changes nothing either.
SOON = {"AGENTFLOW_LEASE_TTL_MS": "800", "AGENTFLOW_RENEW_MS": "200", "AGENTFLOW_SCAN_MS": "100"}
#: Seconds that a run may take on a machine that has other things to do.
PATIENCE_S = 180.0


def points(*groups: str) -> list[str]:
    """Every point that the source names; with `groups` those that begin so."""
    sources = [path.read_text("utf-8") for path in sorted((ROOT / "agentflow").rglob("*.py"))]
    found = {name for text in sources for name in re.findall(r'failpoints\.at\(\s*"([^"]+)"', text)}
    return sorted(name for name in found if not groups or name.split(".")[0] in groups)


def turns(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a model does that writes these files and says so."""
    writes = [{"write": {"path": path, "content": content}} for path, content in files.items()]
    return [
        {"calls": writes, "usage": USED},
        {"calls": [{"finish": {"summary": f"wrote {', '.join(files)}"}}], "usage": USED},
    ]


def of_node(node: str) -> str:
    """What the prompt of a node begins with."""
    return f"# Your task ({node},"


@dataclass
class Scene:
    """A stage, a nursery, a repository and a model."""

    stage: Stage
    nursery: Nursery
    repo: Path
    model: ScriptedServer
    number: int = 0

    def submit(self, tasks: Sequence[Task], **fields: Any) -> str:
        """Start a feature; each run has a target of its own."""
        self.number += 1
        runner = {"type": "openai", "base_url": self.model.url, "model": "scripted", "prices": PRICES}
        text = json.dumps({
            "feature": f"feature {self.number}", "target": f"made/{self.number}", "budget": {"usd": 100},
            "runner": runner, "tasks": list(tasks), **fields,
        })  # fmt: skip
        spec = parse_spec(text, name="feature.yaml", config=self.stage.config)
        return runs.submit(spec, config=self.stage.config, repo=self.repo)

    def worker(self, armed: str = "") -> int:
        """A worker; `armed`: where it dies."""
        name = f"w{self.number}{'-doomed' if armed else ''}"
        return self.nursery.worker(name, self._armed(armed))

    def command(self, *words: str, armed: str = "") -> int:
        """A command as its user types it, in the repository."""
        name = f"{words[0]}{self.number}"
        return self.nursery.start(name, ["agentflow", *words, "--json"], self._armed(armed), cwd=self.repo)

    def _armed(self, point: str) -> dict[str, str]:
        """The environment of a process that dies there, and notes it."""
        self._mark.unlink(missing_ok=True)
        return {failpoints.VARIABLE: point, failpoints.MARK_VARIABLE: str(self._mark) if point else ""}

    @property
    def _mark(self) -> Path:
        return self.stage.home / "struck"

    def wait_killed(self, pid: int) -> None:
        """Until the process that was armed last is gone; it must have come to its point."""
        self.nursery.wait_dead(pid)
        assert self._mark.exists(), "it ended without having come to the point"

    def wait_closed(self, run_id: str) -> None:
        """Until the run has ended; then no worker is left."""
        self.stage.wait_closed(run_id, PATIENCE_S)
        self.nursery.kill()

    def outcome(self, run_id: str, requests: int) -> dict[str, Any]:
        """What must be the same: trees, states, what each node used, whether each call was paid once.
        `requests`: the calls that the model had before the run.
        """
        ledger = self.stage.ledger
        run, nodes = ledger.run(run_id), ledger.nodes(run_id)
        assert validate_run(ledger, run_id) == []
        purse = ledger.purses(run_id)["run"]
        over = round(purse.spent.usd - (len(self.model.requests) - requests) * CALL_USD, 9)
        # A call that was under way when its worker died has no bill: it counts with its estimate, never less.
        is_paid = over >= 0 if ledger.unbilled(run_id) else over == 0
        return {
            "state": run.state.value,
            "tree": self.tree(f"refs/heads/{run.branch}") if run.branch else "",
            "refs": self.refs(run_id),
            "states": {node.id: node.state.value for node in nodes.values()},
            "failures": {node.id: node.failures for node in nodes.values() if node.failures},
            "used": {node.id: node.usage.get("cost_usd") for node in nodes.values()},
            "paid": is_paid,
            "reserved": purse.held.usd,
        }

    def tree(self, name: str) -> str:
        """The tree of a commit."""
        return git(self.repo, "rev-parse", f"{name}^{{tree}}").strip()

    def refs(self, run_id: str) -> dict[str, str]:
        """The run's hidden refs, below its own place, and their trees."""
        below = f"refs/agentflow/runs/{run_id}/"
        lines = git(self.repo, "for-each-ref", "--format=%(refname) %(tree)", below).splitlines()
        return {name.removeprefix(below): tree for name, tree in map(str.split, lines)}


@contextmanager
def scene(
    url: str, home: Path, rules: Sequence[Mapping[str, Any]], files: Mapping[str, str]
) -> Iterator[Scene]:
    """A scene on an empty Redis; `rules`: the model's, `files`: what is in the repository."""
    repo = repository(home / "project", dict(files))
    script = Script.model_validate({"replies": list(rules)})
    with (
        ScriptedServer(script, record=True) as model,
        stage(url, home, SOON) as found,
        nursery(found) as forks,
    ):
        found.ledger.client.flushall()
        yield Scene(found, forks, repo, model)
