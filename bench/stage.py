"""A private Redis with the settings of local mode, real workers, and runs of no-op nodes for them."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentflow.app import make_app
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas, parse_plan
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, make_plan
from agentflow.config import load_config
from agentflow.local import server
from agentflow.spec.models import Spec
from agentflow.store.client import connect
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.records import Event
from agentflow.store.scripts import Answer

ROOT = Path(__file__).resolve().parents[1]
CELERY = ("-m", "celery", "-A", "agentflow")
#: What the runs belong to when nothing else is said.
PROJECT = "bench"
#: A worker whose no-op runner writes down when it begins.
STAMPING = ("-m", "bench.worker")


class Stage:
    """Where a measurement happens: an empty Redis, a data directory, workers that end with it."""

    def __init__(self, directory: Path, redis: Path) -> None:
        self.directory = directory
        self.stamps = directory / "stamps"
        self.redis = redis
        url = f"unix://{redis}?db=0"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AGENTFLOW_")},
            "AGENTFLOW_REDIS_URL": url,
            "AGENTFLOW_HOME": str(directory / "home"),
            "BENCH_STAMPS": str(self.stamps),
            "PYTHONPATH": str(ROOT),
        }
        self.config = load_config(directory, environ=self.env)
        self.ledger = Ledger(connect(self.config.client_url()))
        self.app = make_app(self.config)
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *, slots: int, program: Sequence[str] = CELERY) -> subprocess.Popen[bytes]:
        """Start a worker; returns when it has signed the register."""
        worker = self.launch(name, slots=slots, program=program)
        self.wait(
            lambda: worker.poll() is not None or any(w.pid == worker.pid for w in self.ledger.workers()),
            60,
            f"worker {name}",
        )
        if worker.poll() is not None:
            raise RuntimeError(f"worker {name} ended: {server.last_lines(self.directory / f'{name}.log')}")
        return worker

    def launch(self, name: str, *, slots: int, program: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a worker process of any program that takes Celery's arguments."""
        command = [
            sys.executable,
            *program,
            "worker",
            "-c",
            str(slots),
            "-n",
            f"{name}@bench",
            "-l",
            "warning",
        ]
        with (self.directory / f"{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                command, cwd=self.directory, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._workers.append(worker)
        return worker

    def plan(
        self, parents: Mapping[str, Sequence[str]], *, slots: int, seconds: Mapping[str, float] | None = None
    ) -> Plan:
        """These nodes as no-ops, through the same planning as any spec."""
        tasks = [
            {
                "id": node,
                "role": "implementer",
                "needs": list(needs),
                "runner": {"type": "noop", "seconds": (seconds or {}).get(node, 0.0)},
            }
            for node, needs in parents.items()
        ]
        return make_plan(Spec.model_validate({"feature": "bench", "tasks": tasks}), self.config, jobs=slots)

    def submit(self, plan: Plan, run_id: str, project: str = PROJECT) -> None:
        """Open a run without a repository and send its canvas, as `runs.submit` does.

        Durations are measured for the `project`; whoever wants a plan ranked by them says so.
        """
        open_in_ledger(self.ledger, run_id, plan, project=project, repo="", root="")
        chords.start(Canvas(plan, run_id, 1, self.app))

    def send_others(self, answer: Answer) -> None:
        """Send what a change of the fleet has woken."""

        def canvas_of(run_id: str) -> Canvas:
            return Canvas(parse_plan(json.dumps(self.ledger.plan(run_id))), run_id, 1, self.app)

        chords.send_others(answer.others, canvas_of)

    def run(self, plan: Plan, run_id: str, seconds: float = 300, project: str = PROJECT) -> float:
        """Submit and wait for the end; milliseconds from the call to the ledger's closing of the run."""
        began = time.time() * 1000
        self.submit(plan, run_id, project)
        return self.closed_ms(run_id, seconds) - began

    def closed_ms(self, run_id: str, seconds: float = 300) -> int:
        """When the run was closed, waiting for it; raises when it did not succeed."""
        self.wait(lambda: run_id not in self.ledger.open_runs(), seconds, run_id)
        run = self.ledger.run(run_id)
        if run.state != "ready_to_land":
            raise RuntimeError(f"{run_id} ended as {run.state}: {run.reason}")
        return run.closed_ms

    def events(self, run_id: str) -> list[Event]:
        """Every transition of a run."""
        return EventLog(self.ledger.client).read(run_id, count=1_000_000)

    def stamped(self) -> list[tuple[str, str, int]]:
        """(run, node, nanoseconds since the epoch) of each first instruction of a stamping runner."""
        if not self.stamps.exists():
            return []
        rows = [line.split() for line in self.stamps.read_text().splitlines()]
        return [(run, node, int(at)) for run, node, at in rows]

    def wait(self, probe: Callable[[], Any], seconds: float, what: str) -> None:
        """Until it is true (looked at 50 times a second, which costs the measured nothing to speak of)."""
        deadline = time.monotonic() + seconds
        while not probe():
            if time.monotonic() > deadline:
                logs = {p.name: server.last_lines(p) for p in self.directory.glob("*.log")}
                raise TimeoutError(f"{what}: not within {seconds:g} s; {logs}")
            time.sleep(0.02)

    def stop(self, worker: subprocess.Popen[bytes]) -> None:
        """End a worker now; what it ran is not waited for."""
        if worker.poll() is None:
            worker.send_signal(signal.SIGKILL)
        worker.wait()

    def close(self) -> None:
        """End what still runs; results that Celery still holds go while Redis is there to be told."""
        for worker in self._workers:
            self.stop(worker)
        gc.collect()


@contextmanager
def stage() -> Iterator[Stage]:
    """A fresh one; nothing of it is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="afb-"))
    (directory / "home").mkdir()
    socket, log = directory / "redis.sock", directory / "redis.log"
    try:
        with log.open("ab") as stream:
            binary = server.find_binary().path
            process = server.launch(binary, socket=socket, directory=directory / "data", log=stream)
        try:
            server.await_answer(socket, process.poll, log)
            found = Stage(directory, socket)
            try:
                yield found
            finally:
                found.close()
        finally:
            process.terminate()
            process.wait(30)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
