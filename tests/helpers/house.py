"""A command line together with all that runs for it: processes, sockets, workspaces, the ledger."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from helpers.cli import Cli
from helpers.ledgers import validate_store
from helpers.wait import wait_until

from agentflow.config import Config, load_config
from agentflow.errors import AgentflowError
from agentflow.local import server, service
from agentflow.local.service import LocalStatus
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.records import Event

#: What a command may take in a test that is not about time.
COMMAND_S = 150


class House(Cli):
    """One user on one machine, with a data directory and a runtime directory of their own."""

    @property
    def config(self) -> Config:
        """The configuration that the commands have."""
        return load_config(None, environ=self.environ())

    def finished(self, *words: object, code: int | None = 0) -> dict[str, Any]:
        """The result that a command printed with --json."""
        return self.result_of(self.start(*words, "--json"), code=code)

    def result_of(self, process: subprocess.Popen[str], *, code: int | None = 0) -> dict[str, Any]:
        """Wait for a command started with --json. One that does not end is killed, and fails the test."""
        try:
            out, err = process.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{process.args} did not end:\n{out}\n{err}\n{self.tails()}") from None
        assert code in (None, process.returncode), f"exit {process.returncode}:\n{out}\n{err}\n{self.tails()}"
        found = json.loads(out) | {"stderr": err}
        assert isinstance(found, dict)
        return found

    def tails(self) -> str:
        """The ends of all logs, for a failure's report."""
        logs = sorted(self.home.glob("logs/*.log"))
        return "\n".join(f"== {log.name}\n{server.last_lines(log, 25)}" for log in logs)

    def status(self) -> LocalStatus | None:
        """What runs for the data directory, asked of the supervisor."""
        return service.status(self.config)

    def ledger(self) -> Ledger:
        """The private server's ledger."""
        return Ledger(server.client(self.config.socket_path()))

    def new_run(self, known: tuple[str, ...] = ()) -> str:
        """The id of a run that is not among `known`; waits for it."""

        def look() -> list[str]:
            with contextlib.suppress(Exception):
                return [run.id for run in self.ledger().runs() if run.id not in known]
            return []

        return str(wait_until(look, timeout=40, what="a run is in the ledger")[0])

    def events(self, run_id: str) -> list[Event]:
        """Every transition so far."""
        return EventLog(self.ledger().client).read(run_id, count=100_000)

    def processes(self) -> list[psutil.Process]:
        """Everything that lives for this data directory: by its environment, its words or its place."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        homes = (str(self.home), self.env["XDG_RUNTIME_DIR"])
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.environ().get("AGENTFLOW_HOME") == homes[0] or process.cwd().startswith(homes):
                return True
            return any(home in word for word in process.cmdline() for home in homes)
        except psutil.Error:
            return False

    def leftovers(self) -> list[object]:
        """Processes, sockets and workspaces, none of which may outlive a run and `agentflow down`."""
        runtime = Path(self.env["XDG_RUNTIME_DIR"])
        sockets = [path for path in runtime.rglob("*") if not path.is_dir()]
        return [*self.processes(), *sockets, *self.home.glob("runs/*/work/*")]

    def kill(self, pid: int) -> None:
        """SIGKILL: nothing is cleaned up."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """`agentflow down`, after which nothing may be left; what it leaves in the ledger before is whole."""
        # A test may have left a configuration that cannot be read.
        with contextlib.suppress(AgentflowError):
            socket = self.config.socket_path()
            if self.config.redis_url is None and server.answers(socket):
                with server.client(socket) as client:
                    validate_store(client)
        self.run("down")
        wait_until(lambda: not self.leftovers(), what="nothing is left behind")


@contextmanager
def open_house(place: Path, env: Mapping[str, str] | None = None) -> Iterator[House]:
    """A house that leaves nothing; its runtime directory is short (a socket's path has 107 bytes)."""
    runtime = Path(tempfile.mkdtemp(prefix="afh-"))
    place.mkdir(parents=True, exist_ok=True)
    house = House(place, place / "home", runtime)
    house.env |= env or {}
    try:
        yield house
        house.close()
    finally:
        for process in house.processes():
            house.kill(process.pid)
        shutil.rmtree(runtime, ignore_errors=True)
