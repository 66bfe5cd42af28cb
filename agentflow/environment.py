"""What runners, acceptance and (later) the sandbox share: a job, an outcome, and where commands run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agentflow.errors import AttemptCancelled
from agentflow.process import Completed, run_tree


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt spent. Tokens and calls are counts, cost is US dollars; CPU and memory are those
    of its child processes. `models` holds each model's share: calls, input_tokens, output_tokens, cost_usd.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    estimated: bool = False
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    models: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
            self.estimated or other.estimated,
            self.cpu_s + other.cpu_s,
            max(self.peak_memory_mb, other.peak_memory_mb),
            _added(self.models, other.models),
        )


def _added(
    one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]
) -> dict[str, Mapping[str, float]]:
    """Shares of models, figure by figure."""
    both = dict(one)
    for name, share in other.items():
        known = both.get(name, {})
        both[name] = {key: known.get(key, 0) + share.get(key, 0) for key in {**known, **share}}
    return both


class Meter:
    """Counts what one attempt spends while it spends it, so that an attempt that fails is billed too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage = Usage()

    def charge(self, usage: Usage) -> None:
        """Add what one call to a model cost."""
        with self._lock:
            self._usage += usage

    @property
    def usage(self) -> Usage:
        """Everything charged so far."""
        with self._lock:
            return self._usage


class Stop:
    """A cancel signal for one attempt: set once with a reason; callbacks run at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.reason = ""

    def set(self, reason: str) -> None:
        """Ask the attempt to end; the first reason is kept."""
        with self._lock:
            if self._event.is_set():
                return
            self.reason = reason
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def is_set(self) -> bool:
        """Whether the attempt has been asked to end."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep that a cancel cuts short; True when it was cut."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """Raise `AttemptCancelled` when the attempt has been asked to end."""
        if self._event.is_set():
            raise AttemptCancelled(f"the attempt was stopped: {self.reason}")

    def on_set(self, callback: Callable[[], None]) -> None:
        """Call back when set (now, when it is set already)."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a report node."""

    severity: str
    message: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """What a runner is asked to do. `deadline` is on the clock of `time.monotonic()`."""

    run: str
    node: str
    role: str
    attempt: int
    prompt: str
    instructions: str
    workspace: Path
    output: str
    artifacts: tuple[str, ...]
    runner: Mapping[str, Any]
    env: Mapping[str, str]
    deadline: float
    log: Path
    transcript: Path
    prompt_file: Path
    stop: Stop = field(default_factory=Stop)
    meter: Meter = field(default_factory=Meter)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a runner says that it did. Nobody's word is taken: acceptance decides."""

    summary: str = ""
    handoff: str = ""
    verdict: str = ""
    findings: tuple[Finding, ...] = ()
    usage: Usage = Usage()


class Environment(Protocol):
    """Where an attempt's commands run."""

    @property
    def root(self) -> Path:
        """The directory that they run in."""
        ...

    def execute(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str],
        stop: Stop,
        log: Path | None = None,
    ) -> Completed:
        """Run one command to its end; the whole process tree is gone when this returns."""
        ...


class Runner(Protocol):
    """Does the work of one attempt in its workspace. Raises an `AttemptError` when it cannot."""

    def run(self, job: Job, environment: Environment) -> Outcome:
        """Work until done; what counts is what is in the workspace afterwards."""
        ...


class ObjectTransport(Protocol):
    """How git objects get from the machine that has them to the one that needs them."""

    def bring(self, commits: Sequence[str]) -> None:
        """Make these commits readable here. Raises `InfraError` when one cannot be had."""
        ...

    def share(self, commit: str, needs: Sequence[str], *, pack: Path | None = None) -> None:
        """Let other machines have `commit`; they bring `needs` first, and `pack` (made, if it is None)
        holds the rest.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlainEnvironment:
    """Commands run as children of the worker with its own rights (sandbox: off).

    `meter` is charged with their processor time and memory.
    """

    root: Path
    meter: Meter | None = None

    def execute(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str],
        stop: Stop,
        log: Path | None = None,
    ) -> Completed:
        """Run one command below `root`."""
        done = run_tree(argv, cwd=self.root, env=env, deadline=deadline, stop=stop, log=log)
        if self.meter:
            self.meter.charge(Usage(cpu_s=done.cpu_seconds, peak_memory_mb=done.peak_memory_kb / 1024))
        return done
