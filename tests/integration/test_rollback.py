"""Going back to a checkpoint: the exact tree, the branch by compare-and-swap, and only what depends on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.redis_server import running_server
from helpers.repos import commit_all, git, make_repo
from helpers.stores import write
from helpers.workers import Stage, stage

from agentflow import runs
from agentflow.errors import ConflictError, RepositoryError, UsageError
from agentflow.results import RunResult
from agentflow.runs import SubmitOptions, rollback
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState
from agentflow.store.validation import validate_run

WRITES = {"command": ["sh", "-c", 'echo "$1" >> "$1.txt"; test ! -e "$0/fail-$1"']}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A Redis of its own and one worker, for all tests of this file."""
    with running_server() as server, stage(server.client_url, tmp_path_factory.mktemp("home")) as found:
        found.start()
        yield found


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"README.md": "hello\n"})


def node(place: Path, name: str, *needs: str, **fields: object) -> dict[str, object]:
    """A node that writes NAME.txt, and fails while there is a file fail-NAME."""
    script = f"test ! -e {place}/fail-{name} && echo {name} > {name}.txt; echo {name} >> {place}/made"
    runner = {"command": ["sh", "-c", f"{script}; test -e {name}.txt"]}
    return {
        "id": name, "role": "backend", "prompt": "x", "needs": list(needs), "expect": "none", "retries": 0,
        "artifacts": [f"{name}.txt"], "runner": runner, **fields,
    }  # fmt: skip


def run(
    machine: Stage, repo: Path, nodes: list[dict[str, object]], *, take: bool = True, **fields: object
) -> RunResult:
    """Run a feature to its end."""
    spec = {"feature": "Letters", "target": "letters", "tasks": nodes, **fields}
    parsed = parse_spec(json.dumps(spec), name="feature.yaml", config=machine.config)
    options = SubmitOptions(no_cache=True)
    run_id = runs.submit(parsed, config=machine.config, repo=repo, options=options)
    return to_the_end(machine, repo, run_id, take=take)


def to_the_end(machine: Stage, repo: Path, run_id: str, *, take: bool = True) -> RunResult:
    for _ in runs.follow(run_id, config=machine.config, repo=repo):
        pass
    return runs.finish(run_id, config=machine.config, take=take, repo=repo)


def back(machine: Stage, repo: Path, run_id: str, to: str = "", **more: bool) -> rollback.RolledBack:
    done = rollback.roll_back(run_id, config=machine.config, repo=repo, to=to, **more)
    assert validate(machine, run_id) == []
    return done


def validate(machine: Stage, run_id: str) -> list[Any]:
    found = validate_run(machine.ledger, run_id)
    return list(found or [])


def again(machine: Stage, repo: Path, run_id: str) -> RunResult:
    runs.resume(run_id, config=machine.config, repo=repo)
    return to_the_end(machine, repo, run_id)


def refs(repo: Path, below: str = "refs") -> dict[str, str]:
    lines = git(repo, "for-each-ref", "--format=%(refname) %(objectname)", below).splitlines()
    return dict(line.split() for line in lines)


def made(tmp_path: Path) -> str:
    """What was worked at since the last call."""
    log = tmp_path / "made"
    names = "".join(sorted(log.read_text().split())) if log.exists() else ""
    log.unlink(missing_ok=True)
    return names


def files(repo: Path, commit: str) -> set[str]:
    return set(git(repo, "ls-tree", "--name-only", commit).split()) - {"README.md"}


def test_a_landed_run_leaves_its_branch_as_it_was(machine: Stage, repo: Path, tmp_path: Path) -> None:
    git(repo, "branch", "letters")
    before = refs(repo)
    landed = run(machine, repo, [node(tmp_path, "a"), node(tmp_path, "b", "a")])
    assert landed.state == "landed"
    assert files(repo, "letters") == {"a.txt", "b.txt"}
    done = back(machine, repo, landed.run)
    assert (done.branch, done.branch_at) == ("letters", before["refs/heads/letters"])
    assert refs(repo, "refs/heads") == before
    assert (
        git(repo, "rev-parse", f"{done.ref}^{{tree}}") == git(repo, "rev-parse", "main^{tree}") == done.tree
    )
    assert machine.ledger.run(landed.run).state is RunState.CANCELLED
    assert set(done.undone) == {"a", "b"}
    assert made(tmp_path) == "ab"
    # What was undone is done again, whatever the journal knew.
    assert again(machine, repo, landed.run).state == "landed"
    assert made(tmp_path) == "ab"
    assert files(repo, "letters") == {"a.txt", "b.txt"}


def test_a_branch_that_landing_made_is_gone_again(machine: Stage, repo: Path, tmp_path: Path) -> None:
    landed = run(machine, repo, [node(tmp_path, "a")])
    done = back(machine, repo, landed.run, keep_successful=True)
    assert (done.branch, done.branch_at, done.undone, done.kept) == ("letters", "", (), ("a",))
    assert set(refs(repo, "refs/heads")) == {"refs/heads/main"}
    assert files(repo, done.ref) == {"a.txt"}
    made(tmp_path)
    assert again(machine, repo, landed.run).commit == landed.commit
    assert made(tmp_path) == ""


def test_a_branch_that_moved_on_is_left_alone(machine: Stage, repo: Path, tmp_path: Path) -> None:
    landed = run(machine, repo, [node(tmp_path, "a")])
    git(repo, "switch", "--quiet", "letters")
    with pytest.raises(RepositoryError, match="checked out") as refused:
        back(machine, repo, landed.run)
    assert refused.value.code == "AF-REPO-012"
    write(repo, {"mine.txt": "mine\n"})
    tip = commit_all(repo, "mine")
    git(repo, "switch", "--quiet", "main")
    with pytest.raises(ConflictError, match="no longer at") as moved:
        back(machine, repo, landed.run)
    assert moved.value.code == "AF-ROLLBACK-003"
    assert git(repo, "rev-parse", "letters") == tip
    assert machine.ledger.run(landed.run).state is RunState.LANDED
    assert machine.ledger.node(landed.run, "a").commit


@pytest.mark.parametrize("keep", [False, True], ids=["exactly", "keep-successful"])
def test_back_to_a_node(machine: Stage, repo: Path, tmp_path: Path, *, keep: bool) -> None:
    line = [node(tmp_path, "a"), node(tmp_path, "b", "a"), node(tmp_path, "c", "b"), node(tmp_path, "x")]
    first = run(machine, repo, line, take=False)
    made(tmp_path)
    done = back(machine, repo, first.run, "b", keep_successful=keep)
    if keep:
        assert (done.undone, set(done.kept)) == (("c",), {"a", "b", "x"})
        assert files(repo, done.ref) == {"a.txt", "b.txt", "x.txt"}
    else:
        assert (done.undone, set(done.kept)) == (("c", "x"), {"a", "b"})
        assert done.commit == first.nodes["b"].commit == git(repo, "rev-parse", done.ref)
    gone = {f"refs/agentflow/runs/{first.run}/nodes/{name}" for name in done.undone}
    assert not gone & set(refs(repo))
    last = again(machine, repo, first.run)
    assert made(tmp_path) == ("c" if keep else "cx")
    assert last.state == "landed"
    assert files(repo, "letters") == {"a.txt", "b.txt", "c.txt", "x.txt"}


def test_before_a_node_and_what_nobody_knows(machine: Stage, repo: Path, tmp_path: Path) -> None:
    first = run(machine, repo, [node(tmp_path, "a"), node(tmp_path, "b", "a")], take=False)
    points = {p.name: p.commit for p in rollback.list_checkpoints(first.run, config=machine.config)}
    assert list(points) == ["start", "before:a", "a", "before:b", "b", "result"]
    assert points["start"] == points["before:a"] == first.base
    assert points["before:b"] == points["a"] == first.nodes["a"].commit
    for name, commit in points.items():
        ref = {"before": f"checkpoints/before/{name[7:]}", "start": "checkpoints/start", "result": "result"}
        where = ref.get(name.split(":")[0], f"nodes/{name}")
        assert git(repo, "rev-parse", f"refs/agentflow/runs/{first.run}/{where}") == commit
    with pytest.raises(UsageError, match="no checkpoint"):
        back(machine, repo, first.run, "nobody")
    whole = back(machine, repo, first.run, "result")
    assert (whole.undone, whole.kept, whole.commit) == ((), ("a", "b"), first.commit)
    assert "result" not in [p.name for p in rollback.list_checkpoints(first.run, config=machine.config)]
    with pytest.raises(UsageError, match="no checkpoint"):
        back(machine, repo, first.run, "result")
    done = back(machine, repo, first.run, "before:b")
    assert (done.undone, done.commit) == (("b",), points["before:b"])
    with pytest.raises(UsageError, match="b is no checkpoint of this run: it has not succeeded"):
        back(machine, repo, first.run, "b")


def test_a_report_is_a_checkpoint_too(machine: Stage, repo: Path, tmp_path: Path) -> None:
    """It has no commit: its tree is what it looked at."""
    look = {"id": "look", "role": "reviewer", "prompt": "x", "needs": ["a"], "output": "report"}
    look["runner"] = {"command": ["echo", "fine"]}
    first = run(machine, repo, [node(tmp_path, "a"), look, node(tmp_path, "b", "look")], take=False)
    points = {p.name: p.commit for p in rollback.list_checkpoints(first.run, config=machine.config)}
    assert list(points) == ["start", "before:a", "a", "before:look", "look", "before:b", "b", "result"]
    assert points["look"] == first.nodes["a"].commit
    assert git(repo, "rev-parse", f"refs/agentflow/runs/{first.run}/nodes/look") == points["look"]
    done = back(machine, repo, first.run, "look")
    assert (done.undone, done.commit) == (("b",), points["look"])


def test_a_run_that_goes_on_is_not_rolled_back(machine: Stage, repo: Path, tmp_path: Path) -> None:
    spec = {"feature": "Letters", "target": "letters", "tasks": [node(tmp_path, "a")]}
    spec["tasks"][0]["runner"] = {"command": ["sleep", "600"]}
    parsed = parse_spec(json.dumps(spec), name="feature.yaml", config=machine.config)
    run_id = runs.submit(parsed, config=machine.config, repo=repo)
    with pytest.raises(UsageError, match="it is open") as refused:
        back(machine, repo, run_id)
    assert refused.value.code == "AF-ROLLBACK-002"
    runs.cancel(run_id, config=machine.config)
    machine.wait_closed(run_id)


STAGES = [{"stage": "build", "agents": ["backend"]}, {"stage": "check", "agents": ["tester"]}]


def staged(tmp_path: Path) -> list[dict[str, object]]:
    some = [node(tmp_path, "a"), node(tmp_path, "b"), node(tmp_path, "t"), node(tmp_path, "u")]
    for one in some[2:]:
        one["role"] = "tester"
    return some


def test_back_to_a_stage(machine: Stage, repo: Path, tmp_path: Path) -> None:
    first = run(machine, repo, staged(tmp_path), stages=STAGES)
    points = {p.name: p for p in rollback.list_checkpoints(first.run, config=machine.config)}
    build = points["stage:build"].commit
    # It was made once: what the next stage started from is the checkpoint itself.
    assert first.nodes["t"].base == first.nodes["u"].base == build
    assert git(repo, "rev-parse", f"refs/agentflow/runs/{first.run}/checkpoints/stages/build") == build
    assert files(repo, build) == {"a.txt", "b.txt"}
    done = back(machine, repo, first.run, "build")
    assert (done.to, done.commit, done.undone) == ("stage:build", build, ("t", "u"))
    assert "refs/heads/letters" not in refs(repo)
    made(tmp_path)
    assert again(machine, repo, first.run).state == "landed"
    assert made(tmp_path) == "tu"


def test_a_failed_run_leaves_nothing_when_it_says_so(machine: Stage, repo: Path, tmp_path: Path) -> None:
    (tmp_path / "fail-b").touch()
    before = refs(repo)
    nodes = [node(tmp_path, "a"), node(tmp_path, "b", "a"), node(tmp_path, "c", "b")]
    first = run(machine, repo, nodes, policy={"on_failure": "rollback"})
    assert first.state == "failed"
    assert first.failed_nodes == ("b",)
    assert refs(repo) == before
    assert [machine.ledger.node(first.run, name).commit for name in "abc"] == ["", "", ""]
    assert validate(machine, first.run) == []
    (tmp_path / "fail-b").unlink()
    made(tmp_path)
    assert again(machine, repo, first.run).state == "landed"
    assert made(tmp_path) == "abc"


def test_a_failed_pipeline_goes_back_to_its_last_whole_stage(
    machine: Stage, repo: Path, tmp_path: Path
) -> None:
    (tmp_path / "fail-u").touch()
    fields = {"stages": STAGES, "policy": {"on_failure": "rollback"}}
    first = run(machine, repo, staged(tmp_path), **fields)
    assert first.state == "failed"
    kept = {name.rpartition("/")[2] for name in refs(repo, f"refs/agentflow/runs/{first.run}/nodes")}
    assert kept == {"a", "b"}
    stages = refs(repo, f"refs/agentflow/runs/{first.run}/checkpoints/stages")
    assert [files(repo, commit) for commit in stages.values()] == [{"a.txt", "b.txt"}]
    (tmp_path / "fail-u").unlink()
    made(tmp_path)
    assert again(machine, repo, first.run).state == "landed"
    assert made(tmp_path) == "tu"
