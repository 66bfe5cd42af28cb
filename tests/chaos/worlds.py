"""What is run while things go wrong: two hundred no-ops, as many pieces of git work, the modules of boltons.

Each world knows how every node and the landed tree must be at the end, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
import yaml
from chaos import faults, history, parts
from chaos.faults import Fault
from chaos.noops import ends_of, make_plan
from chaos.theatre import ODD, Theatre
from helpers import boltons
from helpers.cli import Cli
from helpers.repos import make_repo, untouched
from helpers.wait import wait_until

from agentflow import runs
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.errors import AgentflowError
from agentflow.store.reading import RunNotFoundError

#: Commands that may be typed for one run before it counts as hopeless.
SUBMITTERS_MAX = 12


class World(ABC):
    """Something that runs. `role` is that of its nodes, `queues` where its messages go."""

    role = "implementer"
    queues: Sequence[str] = ("implementer", "agentflow.system")
    #: Faults that it takes besides those that everybody takes.
    takes: tuple[Fault, ...] = ()
    machines = 3
    #: Settings that all of its processes have.
    env: Mapping[str, str] = {}

    def __init__(self, it: Theatre, size: int) -> None:
        self.it = it
        self.size = size

    @classmethod
    def fits_small_disk(cls, size: int) -> bool:
        """Whether a machine with little room could do its part, as long as nobody takes the room."""
        del size
        return True

    @abstractmethod
    def begin(self) -> None:
        """Submit; returns when the run stands in the ledger."""

    @abstractmethod
    def runs(self) -> list[str]:
        """Ids of what was submitted."""

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether all of it has come to an end (raises when that can never be)."""

    @abstractmethod
    def check(self) -> list[str]:
        """What is wrong with what came out."""

    @abstractmethod
    def canvases(self) -> list[Canvas]:
        """The canvases of what is open, as far as Redis tells them just now."""

    def look(self) -> None:  # noqa: B027 (nothing, unless a world has it)
        """Judge what can only be seen while it happens; called all the time."""

    def kill_submitter(self) -> None:  # noqa: B027 (nothing, unless a world has it)
        """kill -9 to the command that waits."""

    def submit_again(self) -> None:  # noqa: B027 (nothing, unless a world has it)
        """Type a command that waits for the run again."""

    def restore(self) -> None:  # noqa: B027 (nothing, unless a world has it)
        """Redis has lost everything: bring the run back."""

    def control(self, verb: str) -> None:  # noqa: B027 (nothing, unless a world has it)
        """Drain one run, or let it go on."""

    def open_another(self) -> str:
        """Submit a small run besides."""
        raise NotImplementedError

    def cancel(self, run: str) -> None:  # noqa: B027 (nothing, unless a world has it)
        """Cancel it."""

    def close(self) -> None:  # noqa: B027 (nothing, unless a world has it)
        """End what was started."""


class Noops(World):
    """Runs of no-op nodes with locks, limits, optional and failing nodes; no repository."""

    takes = (faults.drain, faults.cancel)

    def __init__(self, it: Theatre, size: int) -> None:
        super().__init__(it, size)
        self._runs: dict[str, Canvas] = {}
        self._cancelled: set[str] = set()
        self._rng = random.Random(it.rng.random())

    def begin(self) -> None:
        """Two runs that share the workers; one in four times a submitter dies before it has sent anything."""
        for number in range(2):
            self._open(f"run-{number}", self.size // 2)

    def _open(self, run: str, size: int) -> None:
        plan = make_plan(self._rng, run, size)
        open_in_ledger(self.it.stage.ledger, run, plan, project="", repo="", root="")
        canvas = self._runs[run] = Canvas(plan, run, 1, self.it.stage.app)
        if self._rng.random() < 0.75:
            chords.start(canvas)

    def runs(self) -> list[str]:
        """All, the cancelled ones too."""
        return list(self._runs)

    def has_ended(self) -> bool:
        """Whether every run has closed; a cancel that was not heard is typed again."""
        ledger = self.it.stage.ledger
        if self.it.lossy:
            # Of a run that was submitted just before, its very opening may be lost: its user submits again.
            there = {run.id for run in ledger.runs()}
            for run in self._cancelled - there:
                self._runs.pop(run, None)
        left = [run for run in self._runs if not ledger.is_closed(run)]
        for run in self._cancelled.intersection(left):
            if ledger.run(run).state != "cancelling":
                self.cancel(run)
        return not left

    def check(self) -> list[str]:
        """Every node of every run."""
        wrong = []
        for run, canvas in self._runs.items():
            expected = {} if run in self._cancelled else ends_of(canvas.plan)
            wrong += history.check_run(
                self.it.stage.ledger, run, canvas.plan, expected, losses=self.it.losses
            )
        return wrong

    def canvases(self) -> list[Canvas]:
        """All that were opened."""
        return list(self._runs.values())

    def control(self, verb: str) -> None:
        """For one run, by its user."""
        run = self._rng.choice(sorted(set(self._runs) - self._cancelled))
        if verb == "continue":
            for each in sorted(set(self._runs) - self._cancelled):
                self._type(each, verb)
        else:
            self._type(run, verb)

    def _type(self, run: str, verb: str) -> None:
        def typed() -> bool:
            try:
                _, answer = self.it.stage.ledger.control(run, verb, "chaos")
                chords.follow_up(self._runs[run], ready=answer.ready, ended=answer.ended, woken=answer.woken)
            except redis.RedisError:
                return False
            return True

        if verb == "continue":
            self.it.heal()
            wait_until(typed, timeout=60, what=f"{verb} is heard")
        else:
            typed()

    def open_another(self) -> str:
        """A run of twelve nodes that will be cancelled."""
        run = f"run-{len(self._runs) + len(self._cancelled)}"
        with contextlib.suppress(redis.RedisError, OSError):
            self._open(run, 12)
            self._cancelled.add(run)
        return run

    def cancel(self, run: str) -> None:
        """Durably: nothing of it starts any more."""
        if run in self._cancelled and run in self._runs:
            with contextlib.suppress(redis.RedisError, AgentflowError):
                runs.cancel(run, config=self.it.stage.config)


class GitWorld(World):
    """A run that the real command submits from a repository, waits for, and lands."""

    takes = (faults.kill_agents, faults.kill_agents, faults.kill_submitter, faults.lose_redis)
    target = "agentflow/chaos"

    def __init__(self, it: Theatre, size: int) -> None:
        super().__init__(it, size)
        self.repo = Path()
        self.feature = Path()
        self.tree = ""
        self._command: subprocess.Popen[str] | None = None
        self._said: list[str] = []
        self._run = ""
        self._typed = 0
        home = it.place / "ann"
        home.mkdir()
        self._machine = it.add_machine(env={})
        self._cli = Cli(it.place, home, it.place / "ann")
        self._cli.env["AGENTFLOW_REDIS_URL"] = self._machine.proxy.url
        it.machines.remove(self._machine)

    @abstractmethod
    def prepare(self) -> None:
        """Make `repo` and `feature`, and say which `tree` must land."""

    def begin(self) -> None:
        """The real command, in the repository; returns when the run's messages are sent."""
        self.prepare()
        self._before = untouched(self.repo, target=self.target)
        self._cli.cwd = self.repo
        self._type("run", str(self.feature), "--distributed", "-j", "6")
        ledger = self.it.stage.ledger
        self._run = str(
            wait_until(lambda: [r.id for r in ledger.runs()], timeout=180, what="the run is open")[0]
        )
        wait_until(lambda: any(n.attempt for n in ledger.nodes(self._run).values()), timeout=180)

    def _type(self, *words: str) -> None:
        self._typed += 1
        assert self._typed <= SUBMITTERS_MAX, (
            f"{self._typed} commands were typed for one run:\n{self._said[-1]}"
        )
        out = self.it.place / f"command{self._typed}"
        env = self._cli.environ() | ({"ODD_TENFOLD": self.it.tenfold} if self.it.tenfold else {})
        env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
        argv = [self._cli.argv()[0], ODD, "agentflow", *words, "--json"]
        with out.open("w") as stream:
            self._command = subprocess.Popen(
                argv, cwd=self.repo, env=env, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip

    def runs(self) -> list[str]:
        """The one."""
        return [self._run]

    def has_ended(self) -> bool:
        """Whether a command has landed the run. One that gave up is followed by another one."""
        if self._command is None or self._command.poll() is None:
            return False
        text = (self.it.place / f"command{self._typed}").read_text()
        self._said.append(f"exit {self._command.returncode}: {text[-1500:]}")
        # What Redis has lost is not there before a `resume` has come to its end: this one was disturbed.
        with contextlib.suppress(RunNotFoundError):
            state = self.it.stage.ledger.run(self._run).state
            if state == "landed":
                return True
            assert state != "conflict", self._said[-1]
        self._command = None
        self._type(*self.again())
        return False

    def again(self) -> tuple[str, ...]:
        """The command that follows one that gave up."""
        return ("resume", self._run)

    def kill_submitter(self) -> None:
        """The command, not what it is about."""
        if self._command and self._command.poll() is None:
            self._command.send_signal(signal.SIGKILL)
            self._command.wait()
        self._command = None

    def submit_again(self) -> None:
        """`watch` or `resume`, whichever comes to mind."""
        if self._command is None:
            self._type(self.it.rng.choice(("watch", "resume")), self._run)

    def restore(self) -> None:
        """`resume` builds the run again from the journal beside the repository."""
        self.kill_submitter()
        self._type(*self.again())

    def canvases(self) -> list[Canvas]:
        """Read from the ledger."""
        with contextlib.suppress(redis.RedisError, AgentflowError):
            return [runs.canvas_of(self.it.stage.ledger, self._run, self.it.stage.config)]
        return []

    def check(self) -> list[str]:
        """The ledger, and what landed."""
        ledger = self.it.stage.ledger
        canvas = runs.canvas_of(ledger, self._run, self.it.stage.config)
        expected = dict.fromkeys((node.id for node in canvas.plan.nodes), "succeeded")
        wrong = history.check_run(ledger, self._run, canvas.plan, expected, losses=self.it.losses)
        commits = {n.id: n.commit for n in ledger.nodes(self._run).values() if n.commit}
        run = ledger.run(self._run)
        wrong += history.check_landed(
            self.repo, self.target, run.base, commits, needs=canvas.plan.parents, tree=self.tree
        )
        if untouched(self.repo, target=self.target) != self._before:
            wrong.append("I12: something of the user's repository has changed besides the target")
        return wrong

    def close(self) -> None:
        """The command and its way to Redis."""
        self.kill_submitter()
        self._machine.proxy.close()

    def story(self) -> str:
        """What the commands said."""
        return "\n".join(self._said)


class Boltons(GitWorld):
    """Fifteen modules of a real project, brought back byte for byte; see tests/helpers/boltons.py."""

    def prepare(self) -> None:
        """The feature of the acceptance test, with more patience: here agents are killed too."""
        place = self.it.place / "world"
        place.mkdir()
        world = boltons.build(boltons.release(), place)
        told = yaml.safe_load(world.feature.read_text())
        told["target"] = self.target
        told["runner"]["command"].append("--disturbed")
        for task in told["tasks"]:
            task["retries"] = 8
            if "runner" in task:
                task["runner"]["command"].append("--disturbed")
        world.feature.write_text(yaml.safe_dump(told, sort_keys=False))
        self.repo, self.feature, self.tree = world.repo, world.feature, world.release_tree


class Parts(GitWorld):
    """A synthetic DAG of pieces of git work: locks, undeclared paths, large files."""

    role = "backend"
    queues = ("backend", "agentflow.system")

    @classmethod
    def fits_small_disk(cls, size: int) -> bool:
        """Not with the large files of a large one."""
        return size < parts.LARGE_FROM

    def prepare(self) -> None:
        """See parts.py."""
        rng = random.Random(self.it.rng.random())
        self.repo = make_repo(self.it.place / "repo", {"readme.md": "r\n"})
        pieces = parts.make(rng, self.size)
        self.feature = self.it.place / "feature.yaml"
        self.feature.write_text(parts.feature(pieces, self.target))
        self.tree = parts.tree_of(pieces, {"readme.md": b"r\n"}, self.it.place)
