"""A fleet whose workers are started and kept by the supervisor of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from helpers.wait import wait_until
from helpers.workers import FAST, Stage

from agentflow import fleet
from agentflow.local import service
from agentflow.store.records import WorkerRecord


class Crewed(Stage):
    """A stage on a team's Redis whose workers come from `fleet.spawn` and `fleet.scale`."""

    def live(self) -> list[WorkerRecord]:
        """Workers that live, by name."""
        now_ms = self.ledger.now_ms()
        return [w for w in self.ledger.workers() if not w.is_dead(now_ms)]

    def spawn(self, count: int = 1, *, slots: int = 2) -> list[str]:
        """Start workers and wait until they serve."""
        return fleet.spawn(self.config, count, slots=slots, wait=True)

    def running(self, run_id: str = "run-1") -> list[str]:
        """Nodes that run."""
        return [n.id for n in self.ledger.nodes(run_id).values() if n.state == "running"]

    def kinds(self) -> list[str]:
        """What happened, oldest first."""
        return [entry["kind"] for entry in reversed(self.ledger.system_events())]

    def processes(self) -> list[psutil.Process]:
        """Everything that was started for this stage."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._is_ours(p)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("AGENTFLOW_HOME") == str(self.home)
        except psutil.Error:
            return False


@contextmanager
def crewed(url: str, home: Path, monkeypatch: pytest.MonkeyPatch, **env: str) -> Iterator[Crewed]:
    """A crew that leaves nothing behind. What it starts inherits this process' environment."""
    runtime = Path(tempfile.mkdtemp(prefix="afw-"))
    told = {
        "AGENTFLOW_HOME": str(home), "AGENTFLOW_REDIS_URL": url, "XDG_RUNTIME_DIR": str(runtime),
        "AGENTFLOW_GRACE_S": "0.2", **FAST, **env,
    }  # fmt: skip
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    found = Crewed(url, home, told)
    try:
        yield found
        service.down(found.config)
        found.close()
        wait_until(lambda: not found.processes(), what="nothing is left behind")
    finally:
        found.close()
        for process in found.processes():
            process.send_signal(signal.SIGKILL)
        shutil.rmtree(runtime, ignore_errors=True)
