"""Real workers as processes, and runs of no-op nodes for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers.wait import wait_until

from agentflow.app import make_app
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.config import Config, load_config
from agentflow.store.client import connect
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
FAST = {"AGENTFLOW_LEASE_TTL_MS": "1500", "AGENTFLOW_RENEW_MS": "300", "AGENTFLOW_SCAN_MS": "200"}


#: Not series-parallel, with a fork, two joins, a line and a join that follows a line.
DAG = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["d"], "f": ["b"], "g": ["f", "e"], "h": ["g"]}


class Worker:
    """One `celery -A agentflow worker` with threads."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = f"{name}@test"
        self.process = process
        self.log = log

    def kill(self) -> None:
        """SIGKILL: nothing is cleaned up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM: the worker drains."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


class Stage:
    """A Redis, a data directory and any number of workers."""

    def __init__(self, url: str, home: Path, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.env = {"AGENTFLOW_REDIS_URL": url, "AGENTFLOW_HOME": str(home), **FAST, **(env or {})}
        self.config: Config = load_config(home, environ={**os.environ, **self.env})
        self.ledger = Ledger(connect(self.config.client_url()))
        self.app = make_app(self.config)
        self.workers: list[Worker] = []

    def start(
        self,
        name: str = "w1",
        *,
        slots: int = 4,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "celery", "-A", "agentflow"),
        options: Sequence[str] = (),
        under: Sequence[str] = (),
        wait: bool = True,
    ) -> Worker:
        """Start a worker and wait until it has signed the register. `under`: a command that becomes it."""
        log = self.home / f"{name}.log"
        command = [
            *under, sys.executable, *program, "worker", "-c", str(slots), "-n", f"{name}@test",
            "-l", "warning", *options,
        ]  # fmt: skip
        extra = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        full = {
            **os.environ,
            **self.env,
            **(env or {}),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *extra]),
        }
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, cwd=self.home, env=full, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        worker = Worker(name, process, log)
        self.workers.append(worker)
        if wait:
            self._wait_registered(worker)
        return worker

    def _wait_registered(self, worker: Worker) -> None:
        wait_until(
            lambda: any(w.name == worker.name and w.pid == worker.process.pid for w in self.ledger.workers()),
            timeout=90,
        )

    def submit(self, plan: Plan, run_id: str = "run-1") -> Canvas:
        """Open a run without a repository and send its canvas."""
        open_in_ledger(self.ledger, run_id, plan, project="", repo="", root="")
        canvas = Canvas(plan, run_id, 1, self.app)
        chords.start(canvas)
        return canvas

    def wait_closed(self, run_id: str = "run-1", seconds: float = 60) -> None:
        """Wait until the run has ended."""
        wait_until(lambda: self.ledger.is_closed(run_id), timeout=seconds)

    def close(self) -> None:
        """Stop what runs."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()


@contextmanager
def stage(url: str, home: Path, env: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """A stage that leaves no worker behind."""
    found = Stage(url, home, env)
    try:
        yield found
    finally:
        found.close()


def noop_plan(
    parents: Mapping[str, Sequence[str]],
    *,
    seconds: float | Mapping[str, float] = 0.0,
    optional: Sequence[str] = (),
) -> Plan:
    """A plan of no-op nodes (role implementer) with these edges; `seconds` for all or by node."""
    nodes = tuple(
        PlanNode(
            id=node,
            role="implementer",
            needs=tuple(needs),
            runner={
                "type": "noop",
                "seconds": seconds.get(node, 0.0) if isinstance(seconds, Mapping) else seconds,
            },
            optional=node in optional,
        )
        for node, needs in parents.items()
    )
    return Plan(feature="no-ops", nodes=nodes)


def starts_and_ends(found: Stage, run_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Node -> position of its start and of its settlement in the stream."""
    started, settled = {}, {}
    for event in EventLog(found.ledger.client).read(run_id, count=100_000):
        if event.kind == "node.started":
            started[event.node] = event.id
        elif event.kind == "node.settled":
            assert event.node not in settled, f"{event.node} was settled twice"
            settled[event.node] = event.id
    return started, settled


def place(position: str) -> tuple[int, int]:
    first, second = position.split("-")
    return int(first), int(second)
