"""SIGKILL at each named point of an attempt, a settlement, an integration, a landing: nothing changes.

A small feature over git with a real model's tool loop (the model is a script), real workers, a real landing.
After each kill another worker (or the same command, typed again) goes on, and the tree, the states, what the
nodes used and what the budget has spent are those of the run that nobody disturbed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import git, repository
from helpers.nursery import Nursery, nursery
from helpers.workers import ROOT, Stage, stage

from agentflow import failpoints, runs
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer
from agentflow.spec.reader import parse_spec
from agentflow.store.validation import validate_run

USED = {"prompt_tokens": 900, "completion_tokens": 100}
#: Of one call: a dollar for a million tokens of input, ten for output.
CALL_USD = 0.0019
#: one -> (two, three): a fork, and a join before the integration.
NODES = {"one": [], "two": ["one"], "three": ["one"]}
#: A lost attempt is noticed soon; one that only seems to be lost on a busy machine changes nothing either.
SOON = {"AGENTFLOW_LEASE_TTL_MS": "800", "AGENTFLOW_RENEW_MS": "200", "AGENTFLOW_SCAN_MS": "100"}
#: At which node a worker dies; the other points know runs only.
SUBJECTS = {"attempt": "two", "settle": "two", "continue": "one"}


def points() -> list[str]:
    """Every point that the source names."""
    sources = [path.read_text("utf-8") for path in sorted((ROOT / "agentflow").rglob("*.py"))]
    return sorted({name for text in sources for name in re.findall(r'failpoints\.at\(\s*"([^"]+)"', text)})


IN_WORKERS = [point for point in points() if point.split(".")[0] in (*SUBJECTS, "integrate")]
IN_LANDING = [point for point in points() if point.split(".")[0] == "land"]
IN_JOURNAL = [point for point in points() if point.split(".")[0] == "journal"]


def script() -> Script:
    """A model that writes one file for each node."""
    replies = []
    for node in NODES:
        write = {"write": {"path": f"{node}.txt", "content": f"made by {node}\n"}}
        finish = {"finish": {"summary": f"wrote {node}.txt"}}
        turns: list[dict[str, Any]] = [{"calls": [write], "usage": USED}, {"calls": [finish], "usage": USED}]
        replies.append({"name": node, "when": [f"# Your task ({node},"], "turns": turns})
    return Script.model_validate({"replies": replies})


@dataclass
class Scene:
    """A stage, a nursery, a repository and a model."""

    stage: Stage
    nursery: Nursery
    repo: Path
    model: ScriptedServer
    number: int = 0

    def submit(self) -> str:
        """Start the feature; each run has a target of its own."""
        self.number += 1
        runner = {"type": "openai", "base_url": self.model.url, "model": "scripted",
                  "prices": {"input": 1.0, "output": 10.0}}  # fmt: skip
        text = json.dumps({
            "feature": f"feature {self.number}", "target": f"made/{self.number}", "budget": {"usd": 100},
            "runner": runner,
            "tasks": [
                {"id": node, "role": "implementer", "needs": needs, "prompt": f"Write {node}.txt",
                 "artifacts": [f"{node}.txt"], "acceptance": [f"test -f {node}.txt"]}
                for node, needs in NODES.items()
            ],
        })  # fmt: skip
        spec = parse_spec(text, name="feature.yaml", config=self.stage.config)
        return runs.submit(spec, config=self.stage.config, repo=self.repo)

    def outcome(self, run_id: str, requests: int) -> dict[str, Any]:
        """What must be the same: tree, states, what each node used, whether each call was paid once."""
        ledger = self.stage.ledger
        run, nodes = ledger.run(run_id), ledger.nodes(run_id)
        assert validate_run(ledger, run_id) == []
        purse = ledger.purses(run_id)["run"]
        over = round(purse.spent.usd - (len(self.model.requests) - requests) * CALL_USD, 9)
        # A call that was under way when its worker died has no bill: it counts with its estimate, never less.
        is_paid = over >= 0 if ledger.unbilled(run_id) else over == 0
        return {
            "state": run.state.value,
            "tree": git(self.repo, "rev-parse", f"refs/heads/{run.branch}^{{tree}}").strip(),
            "states": {node.id: node.state.value for node in nodes.values()},
            "used": {node.id: node.usage.get("cost_usd") for node in nodes.values()},
            "paid": is_paid,
            "reserved": purse.held.usd,
        }


@pytest.fixture(scope="module")
def scene(redis_server, tmp_path_factory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("failpoints")
    repo = repository(home / "project", {"README": "a project\n"})
    with (
        ScriptedServer(script(), record=True) as model,
        stage(redis_server.client_url, home, SOON) as found,
        nursery(found) as forks,
    ):
        found.ledger.client.flushall()
        yield Scene(found, forks, repo, model)


@pytest.fixture(scope="module")
def undisturbed(scene) -> dict[str, Any]:
    run_id, requests = run_to_its_end(scene)
    runs.land(run_id, config=scene.stage.config)
    found = scene.outcome(run_id, requests)
    assert found["state"] == "landed"
    assert set(found["states"].values()) == {"succeeded"}
    assert found["paid"]
    assert found["reserved"] == 0
    return found


def run_to_its_end(scene: Scene) -> tuple[str, int]:
    """A run that is ready to land, and the calls that the model had before it."""
    requests = len(scene.model.requests)
    run_id = scene.submit()
    scene.nursery.worker(f"w{scene.number}")
    scene.stage.wait_closed(run_id)
    scene.nursery.kill()
    return run_id, requests


@pytest.mark.parametrize("point", IN_WORKERS)
def test_a_worker_killed_there_changes_nothing(scene, undisturbed, point):
    requests = len(scene.model.requests)
    subject = SUBJECTS.get(point.split(".")[0], "")
    armed = f"{point}@{subject}" if subject else point
    run_id = scene.submit()
    doomed = scene.nursery.worker(f"doomed{scene.number}", {failpoints.VARIABLE: armed})
    scene.nursery.wait_dead(doomed)
    scene.nursery.worker(f"second{scene.number}")
    scene.stage.wait_closed(run_id)
    scene.nursery.kill()
    runs.land(run_id, config=scene.stage.config)
    assert scene.outcome(run_id, requests) == undisturbed


@pytest.mark.parametrize("point", IN_LANDING)
def test_a_landing_killed_there_changes_nothing(scene, undisturbed, point):
    run_id, requests = run_to_its_end(scene)
    words = ["agentflow", "land", run_id, "--json"]
    doomed = scene.nursery.start(f"land{scene.number}", words, {failpoints.VARIABLE: point})
    scene.nursery.wait_dead(doomed)
    runs.land(run_id, config=scene.stage.config)
    assert scene.outcome(run_id, requests) == undisturbed


@pytest.mark.parametrize("point", IN_JOURNAL)
def test_a_submitter_killed_there_and_then_redis_lost_changes_nothing(scene, undisturbed, point):
    run_id = scene.submit()
    doomed = scene.nursery.start(
        f"watch{scene.number}", ["agentflow", "watch", run_id], {failpoints.VARIABLE: point}
    )
    scene.nursery.worker(f"w{scene.number}")
    scene.nursery.wait_dead(doomed)
    scene.nursery.kill()
    scene.stage.ledger.client.flushall()
    runs.resume(run_id, config=scene.stage.config, repo=scene.repo)
    scene.nursery.worker(f"again{scene.number}")
    scene.stage.wait_closed(run_id)
    scene.nursery.kill()
    runs.land(run_id, config=scene.stage.config)
    # What Redis has forgotten of the spending nobody knows: work that was not written down is paid again.
    assert scene.outcome(run_id, 0) | {"paid": True} == undisturbed


def test_every_point_is_tried():
    assert sorted([*IN_WORKERS, *IN_LANDING, *IN_JOURNAL]) == points()
    assert {point.split(".")[0] for point in points()} == {*SUBJECTS, "integrate", "land", "journal"}
