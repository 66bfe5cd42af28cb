"""Celery's own commands on agentflow: worker, inspect, flower."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.ledgers import states
from helpers.wait import wait_until
from helpers.workers import ROOT, Stage, noop_plan, stage


@pytest.fixture
def scene(redis_url, tmp_path):
    with stage(redis_url, tmp_path) as found:
        yield found


def surroundings(scene: Stage) -> dict[str, str]:
    return {**os.environ, **scene.env, "PYTHONPATH": str(ROOT), "FLOWER_UNAUTHENTICATED_API": "true"}


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


@contextmanager
def flower(scene: Stage, log: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "agentflow", "flower"),
                *(f"--port={port}", "--address=127.0.0.1"),
            ],
            cwd=scene.home, env=surroundings(scene), stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own loopback address
            return answer.read().decode()
    except OSError:
        return ""


def test_flower_shows_nodes_by_name_and_failures_as_failures(scene, tmp_path):
    scene.start()
    plan = noop_plan({"good": [], "bad": []}, seconds={"bad": 30})
    hasty = [
        n.model_copy(update={"timeout_s": 0.1, "retries": 0}) if n.id == "bad" else n for n in plan.nodes
    ]
    with flower(scene, tmp_path / "flower.log") as url:
        wait_until(lambda: "w1@test" in get(f"{url}/workers?json=1"), timeout=30)
        scene.submit(plan.model_copy(update={"nodes": tuple(hasty)}))
        scene.wait_closed()

        def shown() -> dict[str, tuple[str, str]]:
            tasks = json.loads(get(f"{url}/api/tasks") or "{}")
            return {t["name"]: (t["state"], t["args"]) for t in tasks.values()}

        wait_until(lambda: shown().get("implementer bad") == ("FAILURE", "(run-1, bad)"), timeout=15)
        assert shown()["implementer good"] == ("SUCCESS", "(run-1, good)")
