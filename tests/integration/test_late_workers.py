"""Workers that are killed in the middle of a paid call, or stand still past their lease and then go on.

Real processes, real git, and a provider with books of its own that can hold its answers back. Whatever the
late one does (settle, close, bring a bill), the node is the other one's by then.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from helpers.cli import git, repository
from helpers.metered import Allowed, Books, provider
from helpers.nursery import Nursery, nursery
from helpers.redis_server import RedisServer
from helpers.wait import wait_until
from helpers.workers import Stage, stage

from agentflow import failpoints, runs
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState
from agentflow.store.budgets import Amount
from agentflow.store.events import EventLog
from agentflow.store.records import INTEGRATE
from agentflow.store.validation import validate_run

#: US dollars of a token in, of a token out; what the run may spend: four calls and a little.
INPUT_USD, OUTPUT_USD, CEILING_USD = 1e-6, 1e-5, 0.02
SOON = {"AGENTFLOW_LEASE_TTL_MS": "800", "AGENTFLOW_RENEW_MS": "200", "AGENTFLOW_SCAN_MS": "100"}
NEAR = 1e-6


@dataclass
class Scene:
    """A stage, a nursery, a repository and a provider."""

    stage: Stage
    nursery: Nursery
    repo: Path
    books: Books
    url: str
    run: str = ""

    def submit(self, target: str, nodes: dict[str, list[str]]) -> None:
        """Start a run of these nodes; each writes a file."""
        prices = {"input": INPUT_USD * 1e6, "output": OUTPUT_USD * 1e6}
        text = json.dumps({
            "feature": target, "target": target, "budget": {"usd": CEILING_USD},
            "runner": {"type": "openai", "base_url": self.url, "model": "metered", "prices": prices,
                       "max_output_tokens": 200},
            "tasks": [
                {"id": node, "role": "implementer", "needs": needs, "prompt": f"Write p/{node}.txt",
                 "artifacts": [f"p/{node}.txt"], "acceptance": [f"test -f p/{node}.txt"]}
                for node, needs in nodes.items()
            ],
        })  # fmt: skip
        spec = parse_spec(text, name="feature.yaml", config=self.stage.config)
        self.run = runs.submit(spec, config=self.stage.config, repo=self.repo)

    def worker(self, name: str, failpoint: str = "") -> int:
        """A worker, armed or not; its process id."""
        return self.nursery.worker(name, {failpoints.VARIABLE: failpoint} if failpoint else None)

    def wait_running(self, node: str, attempt: int) -> None:
        """Until this attempt at the node has begun."""
        ledger = self.stage.ledger
        wait_until(
            lambda: (n := ledger.node(self.run, node)).state == "running" and n.attempt == attempt,
            timeout=60, what=f"attempt {attempt} at {node}",
        )  # fmt: skip

    def wait_idle(self, pid: int) -> None:
        """Until the worker says again that it is there, and that nothing is under way in it."""
        wait_until(
            lambda: any(w.pid == pid and not w.busy for w in self.stage.ledger.workers()),
            timeout=60, what="the late worker has given up",
        )  # fmt: skip

    def paid(self) -> float:
        """US dollars that the provider has answered for."""
        sent, received = self.books.tokens()
        return sent * INPUT_USD + received * OUTPUT_USD

    def check(self) -> Counter[tuple[str, str]]:
        """The run has ended and is whole; how often what has happened to which node."""
        ledger = self.stage.ledger
        assert validate_run(ledger, self.run) == []
        purse = ledger.purses(self.run)["run"]
        assert purse.held == Amount()
        assert purse.spent.usd <= CEILING_USD
        events = EventLog(ledger.client).read(self.run, count=10_000)
        counts = Counter((event.kind, event.node) for event in events)
        assert all(count == 1 for (kind, _), count in counts.items() if kind == "node.settled")
        assert counts["run.finished", ""] == 1
        return counts


@pytest.fixture(scope="module")
def forks(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stage, Nursery]]:
    """A stage and what starts its workers."""
    home = tmp_path_factory.mktemp("late")
    with stage(redis_server.client_url, home, SOON) as found, nursery(found) as children:
        yield found, children


@pytest.fixture
def scene(forks: tuple[Stage, Nursery], redis_url: str, tmp_path: Path) -> Iterator[Scene]:
    """Each answer of the provider has a content of its own: one attempt's work is told from another's."""
    assert redis_url
    numbers = itertools.count(1)
    allowed = Allowed(calls=1000, tokens=10**9, at_once=100, window_s=60.0)
    books = Books(allowed, lambda node: f"{node}, answer {next(numbers)}\n", answer_s=0.0)
    repo = repository(tmp_path / "project", {"README": "a project\n"})
    found, children = forks
    with provider(books) as url:
        yield Scene(found, children, repo, books, url)
        children.kill()


def stopped(pid: int) -> None:
    """Wait until the process stands still."""
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, timeout=60)


@pytest.mark.parametrize("is_stopped", [False, True], ids=["killed", "stopped"])
def test_a_worker_lost_in_the_middle_of_a_paid_call(scene: Scene, is_stopped: bool) -> None:  # noqa: FBT001
    """Its call counts with its estimate; the bill of one that was only stopped takes the estimate's place."""
    ledger, books = scene.stage.ledger, scene.books
    books.going.clear()
    scene.submit("paid", {"n0": []})
    doomed = scene.worker("doomed")
    wait_until(lambda: len(books.calls) == 1, timeout=60, what="the call is under way")
    reserved = ledger.purses(scene.run)["run"].held.usd
    assert reserved > 0
    os.kill(doomed, signal.SIGSTOP if is_stopped else signal.SIGKILL)
    scene.worker("second")
    wait_until(lambda: len(books.calls) == 2, timeout=60, what="another one asks")
    purse = ledger.purses(scene.run)["run"]
    assert purse.spent.usd == pytest.approx(reserved, abs=NEAR)
    assert purse.spent.usd + purse.held.usd <= CEILING_USD
    books.going.set()
    scene.stage.wait_closed(scene.run)
    if is_stopped:
        os.kill(doomed, signal.SIGCONT)
        wait_until(lambda: not ledger.unbilled(scene.run), timeout=60, what="the late bill is there")
    assert ledger.unbilled(scene.run) == (0 if is_stopped else 1)
    spent = ledger.purses(scene.run)["run"].spent.usd
    # The one that was stopped has read its answer, or has cut the call off when it saw that its node is lost.
    first = books.calls[0].tokens_in * INPUT_USD + books.calls[0].tokens_out * OUTPUT_USD
    possible = [0.0, reserved - first] if is_stopped else [reserved]
    assert any(spent == pytest.approx(scene.paid() + more, abs=NEAR) for more in possible)
    assert len([call for call in books.calls if call.answered]) == (3 if is_stopped else 2)
    assert ledger.node(scene.run, "n0").attempt == 2
    scene.check()


def test_a_late_settlement_is_refused_and_its_commit_does_not_land(scene: Scene) -> None:
    """The late one settles while the other one is at work: only the token tells them apart."""
    ledger, books = scene.stage.ledger, scene.books
    scene.submit("late", {"n0": [], "n1": ["n0"]})
    late = scene.worker("late", "settle.before@n0:stop")
    stopped(late)
    books.going.clear()
    scene.worker("second")
    scene.wait_running("n0", 2)
    os.kill(late, signal.SIGCONT)
    scene.wait_idle(late)
    assert ledger.node(scene.run, "n0").state == "running"
    books.going.set()
    scene.stage.wait_closed(scene.run)
    runs.land(scene.run, config=scene.stage.config)
    assert git(scene.repo, "show", "late:p/n0.txt").strip() == "n0, answer 2"
    assert ledger.node(scene.run, "n0").attempt == 2
    log = git(scene.repo, "log", "--format=%H", "late", "--", "p/n0.txt").split()
    assert ledger.node(scene.run, "n0").commit in log
    assert len(log) == 1
    scene.check()


@pytest.mark.parametrize("point", ["settle.recorded@n0", "continue.arrived@n0", "integrate.settled"])
def test_a_worker_that_settled_and_then_stood_still_does_nothing_twice(scene: Scene, point: str) -> None:
    """What it settled stands, others send or close what follows, and it finds nothing left to do."""
    scene.submit("settled", {"n0": [], "n1": ["n0"]})
    late = scene.worker("late", f"{point}:stop")
    stopped(late)
    scene.worker("second")
    scene.stage.wait_closed(scene.run)
    os.kill(late, signal.SIGCONT)
    scene.wait_idle(late)
    runs.land(scene.run, config=scene.stage.config)
    assert git(scene.repo, "show", "settled:p/n0.txt").strip() == "n0, answer 1"
    assert scene.paid() == pytest.approx(scene.stage.ledger.purses(scene.run)["run"].spent.usd, abs=NEAR)
    assert len(scene.books.calls) == 4
    scene.check()


def test_of_two_that_integrate_the_late_one_closes_nothing(scene: Scene) -> None:
    """Both have merged and validated; the late one settles first, and only the token tells them apart."""
    ledger = scene.stage.ledger
    scene.submit("joined", {"n0": [], "n1": ["n0"]})
    late = scene.worker("late", "integrate.validated:stop")
    stopped(late)
    second = scene.worker("second", "integrate.validated:stop")
    stopped(second)
    assert ledger.node(scene.run, INTEGRATE).attempt == 2
    os.kill(late, signal.SIGCONT)
    scene.wait_idle(late)
    assert ledger.node(scene.run, INTEGRATE).state == "running"
    assert ledger.run(scene.run).state is RunState.OPEN
    os.kill(second, signal.SIGCONT)
    scene.stage.wait_closed(scene.run)
    runs.land(scene.run, config=scene.stage.config)
    assert git(scene.repo, "show", "joined:p/n1.txt").strip() == "n1, answer 2"
    scene.check()
