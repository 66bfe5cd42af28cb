"""The setup cache: made once for a key, linked into workspaces, read-only, left out of commits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.repos import git
from helpers.stores import environ, make_bench, write

from agentflow.environment import Stop
from agentflow.errors import AttemptCancelled, AttemptError, AttemptTimeout, InfraError
from agentflow.workspace import commit, setup
from agentflow.workspace.commands import Terms


@dataclass(frozen=True)
class Wanted:
    commands: tuple[tuple[str, ...], ...]
    key: tuple[str, ...] = ("lock.txt",)
    keep: tuple[str, ...] = ("deps", "web/node_modules")


def terms(**options) -> Terms:
    given = {"env": environ(), "deadline": time.monotonic() + 60, "stop": Stop()}
    return Terms(**(given | options))


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, {"lock.txt": "1\n", "other.txt": "1\n", "web/app.js": "x\n"})


@pytest.fixture
def wanted(tmp_path):
    made = "mkdir -p deps/in web/node_modules; cp lock.txt deps/in; pwd > deps/where; touch left"
    script = f"echo x >> {tmp_path}/count; {made}"
    return Wanted(commands=(("sh", "-c", script),))


def provide(bench, wanted, workspace, **options):
    return setup.provide(
        bench.store,
        wanted,
        workspace.base,
        workspace.root,
        data_dir=bench.place / "data",
        terms=terms(**options),
    )


def count(bench) -> int:
    return len((bench.place / "count").read_text().split())


def test_what_is_kept_is_linked_and_what_is_not_is_gone(bench, wanted):
    workspace = bench.workspace()
    provide(bench, wanted, workspace)
    root = workspace.root
    assert (root / "deps/in/lock.txt").read_text() == "1\n"
    assert (root / "web/node_modules").is_dir()
    assert (root / "web/app.js").is_file()
    made_in = (root / "deps/where").read_text().strip()
    assert str((root / "deps").resolve()) == f"{made_in}/deps", "it stays where it was made"
    left = {path.relative_to(made_in).as_posix() for path in Path(made_in).glob("**/*")}
    assert {name for name in left if not name.startswith("deps/")} == {"deps", "web", "web/node_modules"}
    assert (root / "deps/in/lock.txt").stat().st_mode & 0o222 == 0
    assert (root / "deps").stat().st_mode & 0o222 == 0
    assert git(root, "status", "--porcelain") == ""
    write(root, {"other.txt": "2\n"})
    assert commit.record(bench.store, workspace, message="m", exclude=wanted.keep).paths == ("other.txt",)


def test_it_is_made_again_only_when_the_key_changes(bench, wanted):
    first = provide(bench, wanted, bench.workspace())
    assert provide(bench, wanted, bench.workspace(bench.commit({"other.txt": "2\n"}))) == first
    assert count(bench) == 1
    assert provide(bench, wanted, bench.workspace(bench.commit({"lock.txt": "2\n"}))) != first
    assert count(bench) == 2
    missing = Wanted(wanted.commands, key=("nowhere.txt",))
    assert provide(bench, missing, bench.workspace()) != first


def test_many_at_once_make_it_once(bench, wanted):
    workspaces = [bench.workspace() for _ in range(6)]
    threads = [threading.Thread(target=provide, args=(bench, wanted, w)) for w in workspaces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(bench) == 1
    assert all((w.root / "deps/in").is_dir() for w in workspaces)


def test_one_that_was_interrupted_is_made_again(bench, wanted):
    with pytest.raises(AttemptTimeout):
        provide(
            bench,
            Wanted((("sh", "-c", "mkdir deps; sleep 600"),)),
            bench.workspace(),
            deadline=time.monotonic() + 0.5,
        )
    provide(bench, wanted, bench.workspace())
    for marker in (bench.place / "data" / "setup").rglob("ready"):
        marker.unlink()
    provide(bench, wanted, bench.workspace())
    assert count(bench) == 2


def test_failures_are_told_and_not_kept(bench):
    broken = Wanted((("sh", "-c", "echo no network; exit 5"),))
    for _ in range(2):
        with pytest.raises(AttemptError, match="exit code 5") as caught:
            provide(bench, broken, bench.workspace())
        assert caught.value.feedback == "no network\n"
    with pytest.raises(AttemptError, match="did not make what it is to keep: deps"):
        provide(bench, Wanted((("true",),)), bench.workspace())


def test_waiting_for_somebody_elses_setup_can_be_stopped(bench, tmp_path):
    slow = Wanted((("sh", "-c", f"touch {tmp_path}/up; sleep 600"),))
    first, second = Stop(), Stop()
    errors: list[BaseException] = []

    def attempt(stop: Stop) -> None:
        try:
            provide(bench, slow, workspaces.pop(), stop=stop)
        except AttemptCancelled as error:
            errors.append(error)

    workspaces = [bench.workspace(), bench.workspace()]
    threads = [threading.Thread(target=attempt, args=[s]) for s in (first, second)]
    for thread in threads:
        thread.start()
    second.set("cancelled")
    threads[1].join(20)
    first.set("cancelled")
    threads[0].join(20)
    assert len(errors) == 2


def test_what_the_repository_has_itself_is_not_hidden(bench):
    with pytest.raises(InfraError, match="which the repository has itself"):
        provide(bench, Wanted((("true",),), keep=("web",)), bench.workspace())


def test_without_a_setup_there_is_nothing_to_do(bench):
    workspace = bench.workspace()
    assert provide(bench, None, workspace) == ""
