"""Flower from outside: what it shows of a real run, whom it lets in, and that it touches nothing."""

from __future__ import annotations

import json

import psutil
import pytest
from helpers.flower import Flower, flower
from helpers.wait import wait_until
from helpers.workers import ROOT, Stage, noop_plan, stage

USER = "ann:secret"


@pytest.fixture
def scene(redis_url, tmp_path):
    with stage(redis_url, tmp_path) as found:
        yield found


def run_one_good_one_bad(scene: Stage) -> None:
    """Two nodes; `bad` misses its deadline and is not tried again."""
    plan = noop_plan({"good": [], "bad": []}, seconds={"bad": 30})
    hasty = [
        n.model_copy(update={"timeout_s": 0.1, "retries": 0}) if n.id == "bad" else n for n in plan.nodes
    ]
    scene.submit(plan.model_copy(update={"nodes": tuple(hasty)}))
    scene.wait_closed()


def test_the_list_names_role_run_and_node_and_shows_failures(scene, tmp_path):
    scene.start()
    with flower(scene, tmp_path / "flower.log", user=USER) as found:
        found.wait_for_worker("w1@test")
        run_one_good_one_bad(scene)

        def shown() -> dict[str, tuple[str, str, str]]:
            return {row["name"]: (row["args"], row["state"], row["worker"]) for row in found.listed()}

        wait_until(lambda: shown().get("implementer bad", ("", ""))[1] == "FAILURE", timeout=15)
        assert shown()["implementer bad"] == ("(run-1, bad)", "FAILURE", "w1@test")
        assert shown()["implementer good"] == ("(run-1, good)", "SUCCESS", "w1@test")
        (bad,) = [row for row in found.listed() if row["name"] == "implementer bad"]
        assert "NodeFailed" in found.ask(f"/task/{bad['uuid']}")[1]
        states = {t["name"]: t["state"] for t in json.loads(found.ask("/api/tasks")[1]).values()}
        assert states["implementer bad"] == "FAILURE"


def test_nobody_comes_in_without_the_password(scene, tmp_path):
    with flower(scene, tmp_path / "flower.log", user=USER) as found:
        stranger = Flower(found.url)
        for path in ("/", "/workers", "/tasks", "/api/tasks", "/api/workers", "/broker"):
            assert stranger.ask(path)[0] == 401, path
            assert stranger.ask(path, user="ann:guess")[0] == 401, path
        assert found.ask("/workers")[0] == 200


def test_the_api_is_closed_until_a_password_is_set_and_it_listens_on_this_machine_only(scene, tmp_path):
    with flower(scene, tmp_path / "flower.log") as found:
        assert found.ask("/workers")[0] == 200
        assert found.ask("/api/tasks")[0] == 401
        assert found.ask("/api/worker/shutdown/w1@test", {})[0] == 401
        port = int(found.url.rpartition(":")[2])
        sockets = [c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == port and not c.raddr]
        assert sockets == ["127.0.0.1"]


#: Everything of Flower's that would change something.
ACTIONS = (
    ("/api/worker/shutdown/w1@test", {}),
    ("/api/worker/pool/restart/w1@test", {}),
    ("/api/worker/pool/grow/w1@test", {"n": "1"}),
    ("/api/worker/pool/shrink/w1@test", {"n": "1"}),
    ("/api/worker/pool/autoscale/w1@test", {"min": "1", "max": "2"}),
    ("/api/worker/queue/add-consumer/w1@test", {"queue": "x"}),
    ("/api/worker/queue/cancel-consumer/w1@test", {"queue": "implementer"}),
    ("/api/task/revoke/some-id", {"terminate": "true"}),
    ("/api/task/timeout/agentflow.role.implementer", {"workername": "w1@test", "hard": "1"}),
    ("/api/task/rate-limit/agentflow.role.implementer", {"workername": "w1@test", "ratelimit": "1"}),
    ("/api/task/apply/agentflow.role.implementer", {}),
    ("/api/task/async-apply/agentflow.role.implementer", {}),
    ("/api/task/send-task/agentflow.role.implementer", {}),
    ("/api/task/abort/some-id", {}),
)


def test_it_only_looks(scene, tmp_path):
    worker = scene.start()
    with flower(scene, tmp_path / "flower.log", user=USER) as found:
        found.wait_for_worker("w1@test")
        refused = {path: found.ask(path, data)[0] for path, data in ACTIONS}
        assert refused == {path: 403 for path, _ in ACTIONS}
        assert worker.process.poll() is None
        page = found.ask("/worker/w1@test")[1]
        assert "w1@test" in page
        assert "Shut Down" not in page


def test_who_wants_the_buttons_says_so(scene, tmp_path):
    worker = scene.start()
    with flower(scene, tmp_path / "flower.log", "--read-only=false", user=USER) as found:
        found.wait_for_worker("w1@test")
        wait_until(lambda: found.ask("/api/worker/shutdown/w1@test", {})[0] == 200, timeout=20)
        assert worker.process.wait(30) == 0


def test_every_action_that_flower_has_is_in_the_list_above():
    from flower.urls import handlers

    paths = {spec.matcher.regex.pattern.rstrip("$") for spec in handlers if hasattr(spec, "matcher")}
    changing = {p for p in paths if p.startswith("/api/") and any(w in p for w in ("worker/", "task/"))}
    looking = ("/api/task/info", "/api/task/result", "/api/task/types")
    left = {
        p
        for p in changing
        if not p.startswith(looking) and not any(path.startswith(p.partition("/(")[0]) for path, _ in ACTIONS)
    }
    assert not left


def test_the_settings_are_shipped():
    text = (ROOT / "pyproject.toml").read_text()
    assert '"flowerconfig.py" = "agentflow/flowerconfig.py"' in text
