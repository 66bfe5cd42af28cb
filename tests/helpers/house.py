"""The real command line with a data directory of its own, and a look at all that runs for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from helpers.wait import wait_until

from agentflow.config import Config, load_config
from agentflow.local import server, service
from agentflow.local.service import LocalStatus
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.records import Event

ROOT = Path(__file__).resolve().parents[2]
#: What a command may take in a test that is not about time.
COMMAND_S = 120


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its standard output as JSON."""
        try:
            value = json.loads(self.out)
        except ValueError:
            raise AssertionError(f"no JSON, exit {self.code}:\n{self.out}\n{self.err}") from None
        assert isinstance(value, dict)
        return value


class House:
    """One user on one machine: commands, the processes behind them, and the ledger.

    A data directory and a runtime directory of its own; nothing of the developer's is read.
    """

    def __init__(self, home: Path, runtime: Path, env: Mapping[str, str] | None = None) -> None:
        self.home, self.runtime = home, runtime
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.environ = os.environ | {
            "AGENTFLOW_HOME": str(home),
            "XDG_RUNTIME_DIR": str(runtime),
            "AGENTFLOW_GRACE_S": "1",
            "PYTHONPATH": os.pathsep.join(paths),
            **(env or {}),
        }
        self.config: Config = load_config(None, environ=self.environ)
        self.repo = home

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in `repo`, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "agentflow.cli.main", *words],
            cwd=self.repo,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, timeout: float = COMMAND_S) -> Said:
        """A command from its start to its end."""
        return self.end(self.start(*words), timeout)

    def end(self, process: subprocess.Popen[str], timeout: float = COMMAND_S) -> Said:
        """Wait for a command; one that does not end is killed, and fails the test."""
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{process.args} did not end:\n{out}\n{err}\n{self.tails()}") from None
        return Said(process.returncode, out, err)

    def tails(self) -> str:
        """The ends of all logs, for a failure's report."""
        logs = sorted(self.home.glob("logs/*.log"))
        return "\n".join(f"== {log.name}\n{server.last_lines(log, 25)}" for log in logs)

    # -- what is there -------------------------------------------------------------------------------

    def status(self) -> LocalStatus | None:
        """What runs for the data directory, asked of the supervisor."""
        return service.status(self.config)

    def ledger(self) -> Ledger:
        """The private server's ledger."""
        return Ledger(server.client(self.config.socket_path()))

    def only_run(self) -> str:
        """The id of the one run that the ledger knows; waits for it."""
        found = wait_until(self._runs, timeout=30, what="a run is in the ledger")
        assert len(found) == 1
        return str(found[0])

    def _runs(self) -> list[str]:
        with contextlib.suppress(Exception):
            return [run.id for run in self.ledger().runs()]
        return []

    def events(self, run_id: str) -> list[Event]:
        """Every transition so far."""
        return EventLog(self.ledger().client).read(run_id, count=100_000)

    def processes(self) -> list[psutil.Process]:
        """Everything that lives for this data directory: by its environment, its words or its place."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        homes = (str(self.home), str(self.runtime))
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.environ().get("AGENTFLOW_HOME") == homes[0] or process.cwd().startswith(homes):
                return True
            return any(home in word for word in process.cmdline() for home in homes)
        except psutil.Error:
            return False

    def leftovers(self) -> list[object]:
        """Processes, sockets and workspaces that should not outlive a run and `agentflow down`."""
        sockets = [path for path in self.runtime.rglob("*") if not path.is_dir()]
        places = list(self.home.glob("runs/*/work/*"))
        return [*self.processes(), *sockets, *places]

    def kill(self, pid: int) -> None:
        """SIGKILL: nothing is cleaned up."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """`agentflow down`, after which nothing may be left."""
        said = self.run("down", timeout=60)
        assert said.code == 0, said.err
        wait_until(lambda: not self.leftovers(), what="nothing is left behind")


@contextmanager
def open_house(home: Path, env: Mapping[str, str] | None = None) -> Iterator[House]:
    """A house that leaves nothing; its runtime directory is short (a socket's path has 107 bytes)."""
    home.mkdir(parents=True, exist_ok=True)
    runtime = Path(tempfile.mkdtemp(prefix="afh-"))
    house = House(home, runtime, env)
    try:
        yield house
        house.close()
    finally:
        for process in house.processes():
            house.kill(process.pid)
        shutil.rmtree(runtime, ignore_errors=True)
