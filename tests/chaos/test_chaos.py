"""Real workers and a real Redis are killed, stopped and flooded at random; every run still ends right.

The seed is printed (and is the test's id): the choices come back with it, the exact interleaving does not.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers.ledgers import validate_run
from helpers.redis_server import FragileServer, fragile_server
from helpers.wait import wait_until
from helpers.workers import Stage, Worker, stage, starts_and_ends

from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.states import TERMINAL, NodeState
from agentflow.store import keys
from agentflow.store.events import EventLog
from agentflow.store.fleet import Fleet
from agentflow.store.records import INTEGRATE

#: Bits of work; a failing one does not fit into its deadline.
SECONDS = (0.0, 0.0, 0.1, 0.4)
PATHS = ("src", "src/a", "src/a/x.py", "src/b.py", "docs")
#: Longer than the lease of the test's workers (1.5 s), so that a stopped one comes back too late.
STOPPED_S = (0.2, 2.5)
#: Keys of kombu's that live as long as the installation: what the exchanges are bound to, and messages
#: that dead workers held (given back after the visibility timeout, then refused at the claim).
KOMBU = ("_kombu.binding", "unacked")


def make_plan(rng: random.Random, name: str, size: int) -> Plan:
    """A random DAG with optional and failing nodes, locks, and limits."""
    nodes = []
    for i in range(size):
        fails = rng.random() < 0.12
        locks = (rng.choice(PATHS),) if rng.random() < 0.4 else ()
        nodes.append(
            PlanNode(
                id=f"n{i}",
                role="implementer",
                needs=tuple(
                    f"n{p}" for p in sorted(rng.sample(range(i), min(i, rng.choice((0, 1, 1, 2, 3)))))
                ),
                locks=locks,
                declared=bool(locks),
                optional=rng.random() < 0.3,
                retries=1 if fails else 2,
                timeout_s=0.05 if fails else 600,
                runner={"type": "noop", "seconds": 1.0 if fails else rng.choice(SECONDS)},
            )
        )
    return Plan(feature=name, nodes=tuple(nodes), max_concurrent=rng.choice((0, 3)))


def oracle(plan: Plan) -> dict[str, NodeState]:
    """How every node must end, whatever happens to workers and server."""
    ends: dict[str, NodeState] = {}
    harmful = set()
    for node in plan.nodes:
        if harmful.intersection(plan.parents[node.id]):
            ends[node.id] = NodeState.SKIPPED
        else:
            ends[node.id] = NodeState.FAILED if node.timeout_s < 1 else NodeState.SUCCEEDED
        if ends[node.id] is not NodeState.SUCCEEDED and not node.optional:
            harmful.add(node.id)
    return ends


@dataclass(slots=True)
class Chaos:
    """Two workers, a server, some runs, and a random choice of what goes wrong next."""

    rng: random.Random
    found: Stage
    server: FragileServer
    runs: dict[str, Canvas] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    opened: int = 0

    def submit(self, size: int) -> None:
        """Open a run; one in four times its submitter dies before it has sent anything."""
        self.opened += 1
        run_id = f"run-{self.opened}"
        plan = make_plan(self.rng, run_id, size)
        open_in_ledger(self.found.ledger, run_id, plan, project="", repo="", root="")
        canvas = self.runs[run_id] = Canvas(plan, run_id, 1, self.found.app)
        if self.rng.random() < 0.75:
            chords.start(canvas)

    def employ(self) -> None:
        """One more worker, under a name of its own."""
        self.workers.append(self.found.start(f"w{len(self.found.workers)}", slots=4, wait=False))

    def misfortune(self) -> None:
        """One thing goes wrong."""
        kinds: list[Callable[[], None]] = [
            self.kill_worker, self.kill_worker, self.stop_worker, self.kill_server, self.flood, self.flood,
            self.drain,
        ]  # fmt: skip
        what = self.rng.choice(kinds)
        self.done.append(what.__name__)
        what()

    def kill_worker(self) -> None:
        """kill -9, and another one comes."""
        self.workers.pop(self.rng.randrange(len(self.workers))).kill()
        self.employ()

    def stop_worker(self) -> None:
        """A worker that stands still, perhaps past its leases, and then goes on as if nothing were."""
        process = self.rng.choice(self.workers).process
        process.send_signal(signal.SIGSTOP)
        pause(self.rng.uniform(*STOPPED_S))
        process.send_signal(signal.SIGCONT)

    def kill_server(self) -> None:
        """The server is gone for a moment."""
        self.server.kill()
        pause(self.rng.uniform(0.0, 1.0))
        self.server.start()

    def flood(self) -> None:
        """Messages come twice, too early or too late."""
        for canvas in self.runs.values():
            nodes = [node.id for node in canvas.plan.nodes]
            chords.send(canvas, [*self.rng.sample(nodes, min(4, len(nodes))), INTEGRATE])

    def drain(self) -> None:
        """A run is drained, and resumed."""
        run_id, canvas = self.rng.choice(list(self.runs.items()))
        self.found.ledger.control(run_id, "drain", "chaos")
        pause(self.rng.uniform(0.0, 0.3))
        _, answer = self.found.ledger.control(run_id, "continue", "chaos")
        chords.follow_up(canvas, ready=answer.ready, ended=answer.ended, woken=answer.woken)


def pause(seconds: float) -> None:
    """Let the others go on for this long: the length of an outage, not a guess at one."""
    threading.Event().wait(seconds)


@contextmanager
def chaos(seed: int, home: Path) -> Iterator[Chaos]:
    """Everything in its place, and gone afterwards."""
    sys.stdout.write(f"chaos: seed {seed}\n")
    with fragile_server() as server, stage(server.client_url, home) as found:
        it = Chaos(random.Random(seed), found, server)
        it.employ()
        it.employ()
        wait_until(found.ledger.workers, timeout=30)
        try:
            yield it
        finally:
            sys.stdout.write(f"chaos: seed {seed}: {', '.join(it.done)}\n")


def check_run(found: Stage, canvas: Canvas) -> None:
    """Every node ended as it must, once, and no lock or limit was broken on the way."""
    run_id, plan = canvas.run_id, canvas.plan
    nodes = found.ledger.nodes(run_id)
    assert {n.id for n in nodes.values() if n.state not in TERMINAL} == set()
    assert {n.id: n.state for n in nodes.values() if n.id != INTEGRATE} == oracle(plan)
    validate_run(found.ledger, run_id)
    _, settled = starts_and_ends(found, run_id)
    assert set(settled) == set(nodes)
    locks = {node.id: node.locks for node in plan.nodes}
    running: set[str] = set()
    for event in EventLog(found.ledger.client).read(run_id, count=100_000):
        if event.kind == "node.started":
            assert event.node not in running, f"{event.node} was claimed twice"
            for other in running:
                clash = [
                    (a, b) for a in locks.get(event.node, ()) for b in locks.get(other, ()) if overlap(a, b)
                ]
                assert not clash, f"{event.node} and {other} ran together: {clash}"
            running.add(event.node)
            assert not plan.max_concurrent or len(running) <= plan.max_concurrent
        else:
            running.discard(event.node)


def overlap(one: str, other: str) -> bool:
    """Whether one path is the other or lies below it."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def check_nothing_left(found: Stage) -> None:
    """Nothing is held, carried or kept for ever."""
    client = found.ledger.client
    for key in (keys.OPEN, keys.LEASES, keys.DELAYED):
        assert not client.exists(key), key
    queues = ["implementer", "agentflow.system"]
    wait_until(lambda: sum(Fleet(client).queue_lengths(queues).values()) == 0, what="queues empty")
    allowed = keys.PERMANENT
    forever = {key for key in client.scan_iter(count=1000) if client.ttl(key) == -1}
    assert {key for key in forever - allowed if not key.startswith(KOMBU)} == set()


def wreak(it: Chaos, *, runs: int, size: int, misfortunes: int, patience_s: float) -> None:
    """Submit and disturb, then leave everybody in peace and look at what came out."""
    for _ in range(runs):
        it.submit(size)
    for _ in range(misfortunes):
        pause(it.rng.uniform(0.1, 1.0))
        it.misfortune()
    for run_id in it.runs:
        it.found.wait_closed(run_id, seconds=patience_s)
    for canvas in it.runs.values():
        check_run(it.found, canvas)
    it.runs.clear()
    check_nothing_left(it.found)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_run_ends_right(seed, tmp_path):
    with chaos(seed, tmp_path) as it:
        wreak(it, runs=2, size=14, misfortunes=7, patience_s=60)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(100, 110))
def test_every_run_ends_right_for_minutes(seed, tmp_path):
    with chaos(seed, tmp_path) as it:
        for _ in range(4):
            wreak(it, runs=4, size=40, misfortunes=20, patience_s=180)
