"""Where a seed is played: a Redis, and workers that each have a machine and a way to Redis of their own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from chaos.bills import Trouble
from helpers.proxy import Proxy
from helpers.wait import wait_until
from helpers.weak_redis import WeakServer, weak_server
from helpers.workers import Stage, Worker, stage

ODD = str(Path(__file__).parents[1] / "helpers" / "odd_worker.py")
#: Size of the file system of the machine whose disk fills up.
SMALL_DISK = "48m"
#: What a log may not hold, whatever happens to a worker: a defect of ours, caught at a last boundary.
DEFECTS = ("AF-INTERNAL", "Unrecoverable error", "broke\nTraceback", "Fatal Python error")


@dataclass
class Machine:
    """One worker after the other, with the data directory and the way to Redis that this machine has."""

    name: str
    home: Path
    proxy: Proxy
    env: dict[str, str] = field(default_factory=dict)
    worker: Worker | None = None
    began: int = 0
    #: Whether its file system is small.
    small: bool = False

    @property
    def is_up(self) -> bool:
        """Whether a worker lives here."""
        return self.worker is not None and self.worker.process.poll() is None

    def agents(self) -> list[psutil.Process]:
        """What the worker has started and still runs."""
        if self.worker is None or not self.is_up:
            return []
        with contextlib.suppress(psutil.Error):
            return list(psutil.Process(self.worker.process.pid).children(recursive=True))
        return []


@dataclass
class Theatre:
    """Everything that there is to disturb, and the choice of what is next."""

    rng: random.Random
    place: Path
    server: WeakServer
    stage: Stage
    machines: list[Machine] = field(default_factory=list)
    #: What the seed chose to be odd all the while.
    conditions: list[str] = field(default_factory=list)
    #: Workers that ended though nobody had told them to.
    deserted: list[str] = field(default_factory=list)
    #: The append-only file of the beginning, and how much of it is never cut.
    keep: tuple[str, int] = ("", 0)
    #: When writes were lost (ms), so that the stream has gaps.
    losses: list[int] = field(default_factory=list)
    tenfold: str = ""
    wipes: int = 0
    #: Who was disturbed, and when.
    troubles: list[Trouble] = field(default_factory=list)
    _taken: int = 0

    def add_machine(self, *, env: dict[str, str], small: bool = False) -> Machine:
        """One more machine, without a worker yet."""
        name = f"m{len(self.machines)}"
        home = self.place / name
        home.mkdir()
        if small:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(home)], check=True
            )
        machine = Machine(name, home, Proxy(self.server.socket), env, small=small)
        self.machines.append(machine)
        return machine

    def employ(self, machine: Machine) -> None:
        """A fresh worker on this machine, under a name of its own."""
        env = {"AGENTFLOW_REDIS_URL": machine.proxy.url, "AGENTFLOW_HOME": str(machine.home), **machine.env}
        name = f"{machine.name}-{machine.began}"
        machine.began += 1
        machine.worker = self.stage.start(name, slots=3, env=env, program=(ODD, "celery"), wait=False)

    def look(self) -> None:
        """Note who has left of its own accord, and replace it."""
        for machine in self.machines:
            if machine.worker and not machine.is_up:
                code = machine.worker.process.returncode
                self.deserted.append(f"{machine.worker.name} ended by itself ({code}): {machine.worker.log}")
                self.employ(machine)

    def kill(self, machine: Machine) -> None:
        """kill -9 its worker; nobody comes."""
        if machine.worker:
            machine.worker.kill()
            machine.worker = None

    def one(self, *, up: bool = True) -> Machine:
        """Any machine; with `up`, one whose worker lives (there may be none: any)."""
        able = [m for m in self.machines if m.is_up] if up else self.machines
        machine = self.rng.choice(able or self.machines)
        self.trouble(machine.name)
        return machine

    def trouble(self, who: str) -> None:
        """Note that a machine, or the server (''), is disturbed from now on."""
        self.troubles.append(Trouble(who, time.monotonic()))

    @property
    def lossy(self) -> bool:
        """Whether writes were lost."""
        return bool(self.losses)

    def lost_writes(self) -> None:
        """Note it; the server is down just now."""
        self.losses.append(time.time_ns() // 1_000_000)

    def new_troubles(self) -> list[Trouble]:
        """Those that were noted since this was asked last: of the fault that has just begun."""
        new, self._taken = self.troubles[self._taken :], len(self.troubles)
        return new

    def heal(self) -> None:
        """Everything works again, and everybody is there."""
        if not self.server.is_up:
            self.server.start()
        self.server.relieve()
        for machine in self.machines:
            machine.proxy.heal(reset=True)
            if machine.worker and machine.is_up:
                machine.worker.process.send_signal(signal.SIGCONT)
            if machine.worker is None:
                self.employ(machine)

    def processes(self) -> list[psutil.Process]:
        """What lives for one of the machines, this process excepted."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            place = str(self.place)
            return process.environ().get("AGENTFLOW_HOME", "").startswith(place) or process.cwd().startswith(
                place
            )
        except psutil.Error:
            return False

    def workspaces(self) -> list[Path]:
        """Those that are still there, on any machine."""
        return [path for machine in self.machines for path in machine.home.glob("runs/*/work/*")]

    def leave(self) -> list[str]:
        """SIGTERM to everybody; what is still there afterwards: processes and workspaces."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.workspaces(), timeout=60)
        for machine in self.machines:
            if machine.worker:
                machine.worker.stop()
                machine.worker = None
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.processes(), timeout=20)
        left = [f"I7: a process is left: {' '.join(p.cmdline())[:200]}" for p in self.processes()]
        told = [str(path.relative_to(self.place)) for path in self.workspaces()]
        return left + [f"I7: a workspace is left: {path}" for path in told]

    def defects(self) -> list[str]:
        """What the workers' logs say that none should say."""
        found = []
        for worker in self.stage.workers:
            text = worker.log.read_text(errors="replace")
            found += [f"{worker.log.name}: {_around(text, word)}" for word in DEFECTS if word in text]
        return found

    def close(self) -> None:
        """Leave nothing behind."""
        for machine in self.machines:
            machine.proxy.close()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for machine in self.machines:
            if machine.small:
                subprocess.run(["umount", "--lazy", str(machine.home)], check=False)


def _around(text: str, word: str) -> str:
    at = text.index(word)
    return " ".join(text[max(0, at - 100) : at + 700].split())


def can_mount() -> bool:
    """Whether a small file system can be had here."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as place:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", "--lazy", place], check=False)
    return True


@contextmanager
def theatre(
    rng: random.Random, *, machines: int, durable: bool = True, small: bool,
    env: Mapping[str, str] | None = None,
) -> Iterator[Theatre]:  # fmt: skip
    """A theatre with workers on their way; gone afterwards. `rng` chooses what is odd about whom; all of them
    have the settings of `env`.
    """
    place = Path(tempfile.mkdtemp(prefix="afch-"))
    (place / "harness").mkdir()
    try:
        with (
            weak_server(durable=durable) as server,
            stage(server.client_url, place / "harness", env) as found,
        ):
            it = Theatre(rng, place, server, found)
            try:
                _people(it, machines, small=small)
                yield it
            finally:
                found.close()
                it.close()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _people(it: Theatre, count: int, *, small: bool) -> None:
    """The machines, and what is odd about each as long as the seed is played."""
    if it.rng.random() < 0.5:
        it.tenfold = str(it.rng.randrange(10**6))
        it.conditions.append("messages x10")
    clocks = it.rng.sample(("3600", "-3600", "", ""), k=min(count, 4))
    for number in range(count):
        # A provider knows a machine by its key.
        env = {"AGENTFLOW_GRACE_S": "1", "OPENAI_API_KEY": f"m{number}"}
        if number < len(clocks) and clocks[number]:
            env["ODD_CLOCK_S"] = clocks[number]
            it.conditions.append(f"clock of m{number} {int(clocks[number]) // 3600:+d} h")
        if it.tenfold:
            env["ODD_TENFOLD"] = it.tenfold
        machine = it.add_machine(env=env, small=small and number == count - 1)
        it.employ(machine)
