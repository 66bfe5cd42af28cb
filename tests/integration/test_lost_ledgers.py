"""A team's Redis loses a run while its submitter is attached; nobody at work has the submitter's files."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers.repos import git, make_repo
from helpers.wait import wait_until
from helpers.workers import Stage, stage

from agentflow import runs
from agentflow.config import Config, load_config
from agentflow.errors import InfraError
from agentflow.recovery.journal import Journal
from agentflow.results import RunResult
from agentflow.spec.reader import parse_spec
from agentflow.states import NodeState
from agentflow.store import keys
from agentflow.store.reading import RunNotFoundError


@pytest.fixture
def machine(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A machine of the team, without a worker yet."""
    (tmp_path / "machine").mkdir()
    with stage(redis_url, tmp_path / "machine") as found:
        yield found


@pytest.fixture
def ann(redis_url: str, tmp_path: Path) -> Config:
    """The submitter's configuration: another data directory."""
    return load_config(None, {"data_dir": tmp_path / "ann", "redis.url": redis_url}, environ={"HOME": "/"})


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"README.md": "hello\n"})


def submit(ann: Config, repo: Path, place: Path, held: str = "") -> str:
    """a and b, c on top of both, d after it; the node `held` waits for the file `gate`."""
    tasks = []
    for name, needs in {"a": [], "b": [], "c": ["a", "b"], "d": ["c"]}.items():
        wait = f"until test -e {place}/gate; do sleep 0.05; done; " if name == held else ""
        script = f"echo {name} >> {place}/made; {wait}echo {name} > {name}.txt"
        tasks.append(
            {
                "id": name, "role": "backend", "prompt": "x", "needs": needs, "expect": "none",
                "artifacts": [f"{name}.txt"], "runner": {"command": ["sh", "-c", script]},
            }
        )  # fmt: skip
    text = json.dumps({"feature": "Letters", "target": "letters", "tasks": tasks})
    return runs.submit(parse_spec(text, name="feature.yaml", config=ann), config=ann, repo=repo)


@contextmanager
def attached(ann: Config, repo: Path, run_id: str) -> Iterator[list[Exception]]:
    """Somebody follows the run while the block runs; what ended that is in the list."""
    errors: list[Exception] = []

    def follow() -> None:
        try:
            for _ in runs.follow(run_id, config=ann, repo=repo):
                pass
        except Exception as error:  # noqa: BLE001 (whatever it is, the test looks at it)
            errors.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    yield errors
    thread.join(60)
    assert not thread.is_alive()


def journaled(repo: Path, run_id: str) -> set[str]:
    story = Journal(repo / ".git", run_id).read()
    return {n for n, facts in story.nodes.items() if facts["fields"]["state"] == "succeeded"}


def to_the_end(ann: Config, repo: Path, run_id: str) -> RunResult:
    for _ in runs.follow(run_id, config=ann, repo=repo):
        pass
    return runs.finish(run_id, config=ann, repo=repo)


def made(place: Path) -> str:
    return "".join(sorted((place / "made").read_text().split()))


def check_landed(result: RunResult, repo: Path) -> None:
    assert result.state == "landed"
    assert set(git(repo, "ls-tree", "--name-only", "letters").split()) == {
        "README.md", "a.txt", "b.txt", "c.txt", "d.txt",
    }  # fmt: skip


def test_packs_and_ledger_come_again_from_the_repository(
    machine: Stage, ann: Config, repo: Path, tmp_path: Path
) -> None:
    old = machine.start("old")
    run_id = submit(ann, repo, tmp_path, held="c")
    with attached(ann, repo, run_id) as errors:
        wait_until(lambda: journaled(repo, run_id) >= {"a", "b"}, timeout=60, what="a and b are written down")
        wait_until(lambda: "c" in made(tmp_path), timeout=60, what="c is at work")
        machine.ledger.client.flushall()
    assert [type(error) for error in errors] == [runs.DataLostError]
    # Another machine goes on: it has no object of before, so base and work must come again.
    old.kill()
    shutil.rmtree(tmp_path / "machine" / "runs")
    shutil.rmtree(tmp_path / "machine" / "pools")
    (tmp_path / "gate").touch()
    told: list[str] = []
    runs.resume(run_id, config=ann, repo=repo, tell=told.append)
    assert told == ["restored from the journal: 2 settled nodes"]
    machine.start("new")
    check_landed(to_the_end(ann, repo, run_id), repo)
    assert made(tmp_path) == "abccd"


def test_a_worker_of_the_life_before_settles_nothing(
    machine: Stage, ann: Config, repo: Path, tmp_path: Path
) -> None:
    """It is still at work when the run is put back, and the node is done by somebody else meanwhile."""
    machine.start("old")
    run_id = submit(ann, repo, tmp_path, held="c")
    with attached(ann, repo, run_id):
        wait_until(lambda: journaled(repo, run_id) >= {"a", "b"}, timeout=60, what="a and b are written down")
        wait_until(lambda: "c" in made(tmp_path), timeout=60, what="c is at work")
        before = machine.ledger.node(run_id, "c").fence
        machine.ledger.client.flushall()
    runs.resume(run_id, config=ann, repo=repo)
    late = machine.ledger.settle(run_id, "c", before, NodeState.SUCCEEDED, commit="e" * 40)
    assert late.head[0] == "superseded"
    (tmp_path / "gate").touch()
    check_landed(to_the_end(ann, repo, run_id), repo)
    assert made(tmp_path).replace("c", "") == "abd"
    assert machine.ledger.generation(run_id) == 2


def test_a_run_that_had_ended_is_known_again(machine: Stage, ann: Config, repo: Path, tmp_path: Path) -> None:
    machine.start()
    run_id = submit(ann, repo, tmp_path)
    first = to_the_end(ann, repo, run_id)
    machine.ledger.client.flushall()
    assert runs.find(run_id[:-2], config=ann, repo=repo) == run_id
    assert runs.resume(run_id, config=ann, repo=repo) == "landed"
    again = to_the_end(ann, repo, run_id)
    assert (again.commit, again.branch, again.completed) == (first.commit, "letters", 4)
    assert {n: (node.commit, node.attempts) for n, node in again.nodes.items()} == {
        n: (node.commit, node.attempts) for n, node in first.nodes.items()
    }
    check_landed(again, repo)


def test_what_nobody_wrote_down_is_done_again_and_what_nobody_knows_is_told(
    machine: Stage, ann: Config, repo: Path, tmp_path: Path
) -> None:
    machine.start()
    run_id = submit(ann, repo, tmp_path)
    first = to_the_end(ann, repo, run_id)
    machine.ledger.client.flushall()
    git(repo, "branch", "-D", "letters")
    journal = Journal(repo / ".git", run_id)
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    journal.remove()
    with pytest.raises(InfraError, match="its journal is not in the repository") as lost:
        runs.resume(run_id, config=ann, repo=repo)
    assert lost.value.code == "AF-INFRA-011"
    with pytest.raises(RunNotFoundError, match="there is no run 'nobody'"):
        runs.resume("nobody", config=ann, repo=repo)
    # A journal that has lost the end of the run, and a commit that is gone from the repository.
    for line in lines:
        line.pop("sum")
        if line.get("node") == "d":
            line["fields"]["commit"] = "d" * 40
        if line["kind"] != "closed":
            journal.add(line)
    told: list[str] = []
    runs.resume(run_id, config=ann, repo=repo, tell=told.append)
    assert told == ["restored from the journal: 3 settled nodes, 1 lost"]
    again = to_the_end(ann, repo, run_id)
    check_landed(again, repo)
    assert made(tmp_path) == "abcdd"
    assert again.nodes["a"].commit == first.nodes["a"].commit


def test_a_run_whose_journal_does_not_say_what_it_is(
    machine: Stage, ann: Config, repo: Path, tmp_path: Path
) -> None:
    run_id = submit(ann, repo, tmp_path)
    machine.ledger.client.flushall()
    journal = Journal(repo / ".git", run_id)
    journal.path.write_bytes(journal.path.read_bytes()[:-50])
    with pytest.raises(InfraError, match="does not say what it is"):
        runs.resume(run_id, config=ann, repo=repo)
    assert not machine.ledger.client.exists(keys.run(run_id))
    with suppress(FileNotFoundError):
        journal.remove()


def test_a_plan_of_another_version_is_told(machine: Stage, ann: Config, repo: Path, tmp_path: Path) -> None:
    run_id = submit(ann, repo, tmp_path)
    machine.ledger.client.flushall()
    journal = Journal(repo / ".git", run_id)
    story = journal.read()
    journal.add({"kind": "opened", "run": story.run, "plan": {**story.plan, "of_tomorrow": 1}})
    with pytest.raises(InfraError, match="not one of this version") as told:
        runs.resume(run_id, config=ann, repo=repo)
    assert "of_tomorrow" in told.value.why
    assert not machine.ledger.client.exists(keys.run(run_id))


def test_a_commit_that_cannot_be_had_does_not_stop_the_journal(
    machine: Stage, ann: Config, repo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its node waits to be written down, told once; the others go on, and it follows when it can be had."""
    machine.start()
    run_id = submit(ann, repo, tmp_path, held="c")
    wait_until(lambda: machine.ledger.node(run_id, "c").attempt > 0, timeout=60, what="a and b have settled")
    client = machine.ledger.client
    pack = f"af:pack:{run_id}:{machine.ledger.node(run_id, 'a').commit}"
    assert client.exists(pack)
    client.rename(pack, f"{pack}:away")
    with attached(ann, repo, run_id):
        wait_until(lambda: "b" in journaled(repo, run_id), timeout=20, what="b is written down")
        assert "a" not in journaled(repo, run_id)
        client.rename(f"{pack}:away", pack)
        wait_until(lambda: "a" in journaled(repo, run_id), timeout=60, what="a is written down too")
        (tmp_path / "gate").touch()
    told = [r.getMessage() for r in caplog.records if r.name == "agentflow.journal"]
    assert len([line for line in told if "a is not written down yet" in line]) == 1, told
    check_landed(runs.finish(run_id, config=ann, repo=repo), repo)
    assert journaled(repo, run_id) >= set("abcd")
