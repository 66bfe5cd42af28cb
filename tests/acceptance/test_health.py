"""`agentflow health`: real workers that work, are stopped, hang, or never came."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.wait import wait_until
from helpers.workers import ROOT, Stage, noop_plan, stage

from agentflow.monitor import progress
from agentflow.monitor.progress import Progress
from agentflow.store.fleet import Fleet

STUCK = (
    "w9@test has free slots and takes nothing from the queue implementer: "
    "a of run run-1 waits there (2 in all)"
)


@pytest.fixture
def scene(redis_url, tmp_path) -> Iterator[Stage]:
    with stage(redis_url, tmp_path) as found:
        yield found


def health(scene: Stage, *words: str, **env: str) -> tuple[int, str]:
    """The exit code of the command, and all that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "agentflow.cli.main", "health", *words],
        cwd=scene.home, env={**os.environ, **scene.env, "PYTHONPATH": str(ROOT), **env},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).strip()


def test_a_worker_that_works_and_one_that_waits_are_healthy(scene):
    assert health(scene) == (1, f"no worker of the host {socket.gethostname()} is on the register")
    scene.start("w1")
    scene.start("w2")
    scene.submit(noop_plan({"a": []}, seconds=30))
    wait_until(lambda: any(worker.busy for worker in scene.ledger.workers()))
    code, told = health(scene, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(told)
    assert found == {"ok": True, "workers": ["w1@test", "w2@test"], "wrong": [], "unknown": ""}
    assert health(scene, "w2") == (0, "w2@test makes progress")
    assert health(scene, "w2@test") == (0, "w2@test makes progress")
    assert health(scene, "w3") == (1, "no worker called w3 is on the register")


def test_a_redis_that_is_away_is_not_the_workers_fault_but_a_wrong_password_is(scene, redis_client):
    code, told = health(scene, AGENTFLOW_REDIS_URL=f"unix://{scene.home}/nothing.sock?db=0")
    assert code == 0
    assert told.startswith("the worker cannot be judged: ")
    redis_client.config_set("requirepass", "word")
    try:
        code, told = health(scene)
        assert code == 1
        assert "AF-INFRA" in told
    finally:
        redis_client.auth("word")
        redis_client.config_set("requirepass", "")


def test_a_worker_that_was_stopped_is_found_by_the_register_and_by_its_leases(scene, monkeypatch):
    """SIGSTOP: the process lives, and nothing of it moves."""
    worker = scene.start(env={"AGENTFLOW_LEASE_TTL_MS": "600000"})
    scene.submit(noop_plan({"a": []}, seconds=300))
    wait_until(lambda: any(worker.busy for worker in scene.ledger.workers()))
    monkeypatch.setattr(progress, "STALE_MS", 1000)
    assert Progress(scene.config).judge().ok
    worker.process.send_signal(signal.SIGSTOP)
    try:
        (wrong,) = wait_until(lambda: Progress(scene.config).judge().wrong, timeout=20)
        assert wrong.startswith("w1@test has not signed the register for ")
        # Had it signed, its lease would still tell.
        monkeypatch.setattr(progress, "STALE_MS", 60_000)
        monkeypatch.setattr(progress, "OVERDUE_MS", -3_600_000)
        (wrong,) = Progress(scene.config).judge().wrong
        assert wrong.startswith("w1@test has not renewed its lease of a in run run-1 for ")
    finally:
        worker.process.send_signal(signal.SIGCONT)


def test_a_worker_that_was_killed_is_not_its_successors_fault(scene, monkeypatch):
    """Its record stays for a minute; one that hangs beside a live one is still found."""
    scene.start("w1").kill()
    second, _ = scene.start("w2"), scene.start("w3")
    monkeypatch.setattr(progress, "STALE_MS", 2500)
    client = scene.ledger.client
    wait_until(lambda: scene.ledger.now_ms() - int(client.hget("af:worker:w1@test", "seen_ms")) > 2500)
    found = Progress(scene.config).judge()
    assert (found.workers, found.wrong) == (("w2@test", "w3@test"), ())
    assert Progress(scene.config).judge("w1").wrong[0].startswith("w1@test has not signed the register")
    # The same name of the host, another container: it cannot be looked for.
    client.hset("af:worker:w1@test", "place", "elsewhere")
    assert Progress(scene.config).judge().ok
    second.process.send_signal(signal.SIGSTOP)
    try:
        (wrong,) = wait_until(lambda: Progress(scene.config).judge().wrong, timeout=20)
        assert wrong.startswith("w2@test has not signed the register for ")
    finally:
        second.process.send_signal(signal.SIGCONT)


def test_a_worker_that_signs_and_takes_nothing_is_stuck(scene):
    """Nobody but a signature: what a consumer that hangs looks like to everybody else."""
    fleet = Fleet(scene.ledger.client)

    def sign(_seconds: float = 0.0, state: str = "idle") -> None:
        fleet.register(
            "w9@test", pid=1, host=socket.gethostname(), slots=4, roles=["implementer"], busy=0,
            now_ms=scene.ledger.now_ms(), facts={"state": state},
        )  # fmt: skip

    sign()
    assert Progress(scene.config).judge().ok
    scene.submit(noop_plan({"a": [], "b": []}))
    assert Progress(scene.config).judge(patience_s=0.2, wait=sign).wrong == (STUCK,)

    sign(state="draining")
    assert Progress(scene.config).judge(patience_s=0.2).ok
    sign()

    def serve(_seconds: float) -> None:
        """Somebody takes what lies there while it is being looked at."""
        sign()
        if not scene.workers:
            scene.start()
            scene.wait_closed()

    assert Progress(scene.config).judge("w9", patience_s=60, wait=serve).ok


def test_a_busy_worker_may_let_messages_wait(scene):
    scene.start(slots=1)
    scene.submit(noop_plan({"a": [], "b": [], "c": []}, seconds=30))
    wait_until(lambda: any(worker.busy for worker in scene.ledger.workers()))
    assert Progress(scene.config).judge(patience_s=0.5).ok
