"""What Redis had is gone while somebody was attached: `resume` goes on from what was settled."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import redis
import yaml
from helpers.cli import git, repository
from helpers.house import House
from helpers.wait import wait_until

from agentflow.local import server
from agentflow.recovery.journal import Journal
from agentflow.store.ledger import Ledger


def agent(script: str) -> dict[str, object]:
    """An agent that is a shell script; `$1` is the task's id."""
    return {"command": ["sh", "-c", script, "sh", "{task}"]}


def counted(place: Path, gate: Path | None = None) -> dict[str, object]:
    """An agent that notes each of its attempts, and waits for a file before it writes."""
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done; " if gate else ""
    return agent(f'echo "$1" >> {place}/attempts; {wait}echo "by $1" > "$1.txt"')


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def project(house: House, tmp_path: Path, gate: Path) -> House:
    """Two nodes that settle, one that waits for the gate on top of them, and one after it."""
    free, held = counted(tmp_path), counted(tmp_path, gate)
    tasks = [
        {"id": "a", "artifacts": ["a.txt"], "runner": free},
        {"id": "b", "runner": free},
        {"id": "c", "needs": ["a", "b"], "artifacts": ["c.txt"], "runner": held},
        {"id": "d", "needs": ["c"], "artifacts": ["d.txt"], "runner": free},
    ]
    spec = {"feature": "Letters", "tasks": [{"role": "backend", "expect": "none"} | t for t in tasks]}
    repository(house.cwd, {"README.md": "hello\n", "feature.yaml": yaml.safe_dump(spec)})
    return house


def attempts(tmp_path: Path) -> list[str]:
    return sorted((tmp_path / "attempts").read_text().split())


def settled(house: House, run_id: str) -> set[str]:
    """What the journal of a run has."""
    story = Journal(house.cwd / ".git", run_id).read()
    return {node for node, facts in story.nodes.items() if facts["fields"]["state"] == "succeeded"}


def wait_for_journal(house: House, *nodes: str) -> str:
    run_id = house.new_run()
    wait_until(lambda: settled(house, run_id) >= set(nodes), timeout=60, what=f"{nodes} are written down")
    return run_id


def started(house: House, run_id: str, node: str) -> None:
    wait_until(lambda: house.ledger().node(run_id, node).attempt > 0, timeout=60, what=f"{node} runs")


def ledger_of(house: House) -> Ledger:
    return Ledger(server.client(house.config.socket_path()))


def check_landed(house: House, result: dict[str, object], tmp_path: Path) -> None:
    assert result["state"] == "landed"
    for name in "abcd":
        assert git(house.cwd, "show", f"agentflow/letters:{name}.txt") == f"by {name}\n"
    # Everything was merged once, and what had settled was not done again.
    made = attempts(tmp_path)
    assert made.count("a") == made.count("b") == made.count("d") == 1
    commits = git(house.cwd, "log", "--no-merges", "--format=%s", "main..agentflow/letters").splitlines()
    assert sorted(line.split(":")[0] for line in commits) == ["a", "b", "c", "d"]


def test_a_run_goes_on_after_redis_was_emptied(project: House, gate: Path, tmp_path: Path) -> None:
    running = project.start("run", "--json")
    run_id = wait_for_journal(project, "a", "b")
    started(project, run_id, "c")
    before = {n.id: n for n in project.ledger().nodes(run_id).values()}
    with redis.Redis.from_url(project.config.client_url()) as client:
        client.flushall()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 4, (out, err)
    assert f"agentflow resume {run_id}" in err
    gate.touch()
    result = project.finished("resume", run_id)
    assert "restored from the journal: 2 settled nodes" in result["stderr"]
    assert result["run"] == run_id
    check_landed(project, result, tmp_path)
    ledger = ledger_of(project)
    assert ledger.generation(run_id) == 2
    after = ledger.nodes(run_id)
    assert all(after[name].fence > node.fence for name, node in before.items())
    assert after["a"].commit == before["a"].commit


def test_everything_dies_and_the_data_of_redis_is_removed(project: House, gate: Path, tmp_path: Path) -> None:
    running = project.start("run", "--json")
    run_id = wait_for_journal(project, "a", "b")
    started(project, run_id, "c")
    running.send_signal(signal.SIGKILL)
    running.communicate()
    end_all(project)
    shutil.rmtree(project.home / "redis")
    gate.touch()
    assert f"agentflow resume {run_id}" in project.run("status", run_id, code=4).stderr
    result = project.finished("resume", run_id[:-2])
    check_landed(project, result, tmp_path)


def end_all(house: House) -> None:
    """SIGKILL for supervisor, server, worker and agents at once."""
    for process in house.processes():
        house.kill(process.pid)
    wait_until(lambda: not house.processes(), what="nobody lives")


def test_a_ledger_that_is_older_than_the_journal_is_brought_up_to_date(
    project: House, gate: Path, tmp_path: Path
) -> None:
    """Redis was killed and came back without the end of its append-only file."""
    project.start("run", "--detach").communicate(timeout=60)
    run_id = project.new_run()
    started(project, run_id, "c")
    # The server only adds to its file, and does without a last line that is torn.
    log = project.home / "redis"
    older = tmp_path / "older"
    shutil.copytree(log, older)
    gate.touch()
    watching = project.start("watch", run_id, "--no-land", "--json")
    assert project.result_of(watching)["state"] == "ready_to_land"
    end_all(project)
    shutil.rmtree(log)
    shutil.copytree(older, log)
    result = project.finished("resume", run_id)
    assert "restored from the journal: 2 settled nodes" in result["stderr"]
    check_landed(project, result, tmp_path)
    assert attempts(tmp_path).count("c") == 1
