"""Celery's own commands on agentflow: worker and inspect (flower: test_flower.py)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.ledgers import states
from helpers.workers import ROOT, Stage, noop_plan, stage


@pytest.fixture
def scene(redis_url, tmp_path):
    with stage(redis_url, tmp_path) as found:
        yield found


def surroundings(scene: Stage) -> dict[str, str]:
    return {**os.environ, **scene.env, "PYTHONPATH": str(ROOT)}


def celery(scene: Stage, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "agentflow", *words],
        cwd=scene.home, env=surroundings(scene), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def test_every_role_is_a_registered_task_with_a_queue_of_its_own(scene):
    scene.start()
    registered = celery(scene, "inspect", "--timeout", "5", "registered")
    queues = celery(scene, "inspect", "--timeout", "5", "active_queues")
    for role in ("backend", "docs", "reviewer"):
        assert f"agentflow.role.{role}" in registered
        assert f"'name': '{role}'" in queues
    assert "agentflow.integrate" in registered


def test_a_worker_for_some_roles_always_serves_the_system_queue(scene):
    scene.start(options=["-Q", "implementer,docs"])
    scene.submit(noop_plan({"a": [], "b": ["a"]}))
    scene.wait_closed(seconds=20)
    (worker,) = scene.ledger.workers()
    assert worker.roles == ("docs", "implementer")
    assert set(states(scene.ledger, "run-1").values()) == {"succeeded"}
