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


class Account(Protocol):
    """Who pays for what an attempt spends; one for each attempt, its paid calls come one after the other."""

    def reserve(self, usd: float, tokens: int) -> None:
        """Set aside what the next call may cost. Raises `BudgetReached`, or `AttemptCancelled` when the node
        is another attempt's by now.
        """
        ...

    def reserve_attempt(self) -> None:
        """Set aside what the whole attempt may cost, for an agent that tells what it spent when it ends."""
        ...

    def pay(self, usd: float, tokens: int) -> None:
        """What the call has cost, in place of what was set aside for it."""
        ...

    def pay_reserved(self) -> None:
        """Nobody knows what was spent: what was set aside is taken for it."""
        ...


class Meter:
    """Counts what one attempt spends while it spends it, so that an attempt that fails is billed too.

    With an `account` each call is paid from the budgets around the attempt: `reserve` before, `charge` after.
    """

    def __init__(self, account: Account | None = None) -> None:
        self._lock = threading.Lock()
        self._usage = Usage()
        self._account = account

    def reserve(self, most: Usage) -> None:
        """Ask before a call that may cost so much at most. Raises `BudgetReached` if a budget forbids it."""
        if self._account:
            self._account.reserve(most.cost_usd, most.input_tokens + most.output_tokens)

    def reserve_attempt(self) -> None:
        """Ask before work whose cost shows when it is done."""
        if self._account:
            self._account.reserve_attempt()

    def charge(self, usage: Usage) -> None:
        """Add what one call to a model cost, or (without calls) what its commands took of the machine."""
        with self._lock:
            self._usage += usage
        if self._account and usage.calls:
            self._account.pay(usage.cost_usd, usage.input_tokens + usage.output_tokens)

    def charge_reserved(self) -> None:
        """The work of `reserve_attempt` is done, and what it has cost is not known."""
        if self._account:
            self._account.pay_reserved()

    @property
    def usage(self) -> Usage:
        """Everything charged so far."""
        with self._lock:
            return self._usage


@dataclass(frozen=True, slots=True)
class Room:
    """What a gate says: a pass (its number), or how long there is no room and why.

    `look_s`: when to ask again. `later`: it takes longer than the caller's patience; its place in the line is
    kept until then. `lost`: the attempt is not its worker's any more.
    """

    number: int = 0
    look_s: float = 0.0
    expected_s: float = 0.0
    reason: str = ""
    later: bool = False
    lost: bool = False

    @property
    def granted(self) -> bool:
        """Whether the call may be made now."""
        return self.number > 0


class Gate(Protocol):
    """The way to a provider, shared with everybody who calls it; one for each attempt."""

    def enter(self, address: str, model: str, tokens: int, *, patience_s: float | None) -> Room:
        """Ask for room for a call of about so many tokens at host:port; `patience_s` None: endless."""
        ...

    def wait(self, room: Room, stop: Stop) -> None:
        """Sleep until it is worth asking again, or `stop` is set."""
        ...

    def leave(self, room: Room, tokens: int | None, *, took_s: float, answered: bool) -> None:
        """The call has ended with so many tokens (None: nobody knows)."""
        ...

    def told(self, room: Room, wait_s: float | None, why: str) -> bool:
        """The provider asks for a pause (None: of unknown length). False: the caller must keep it."""
        ...

    def give_up(self, room: Room) -> None:
        """The caller waits no more."""
        ...


class OpenGate:
    """A gate that is always open, for a caller of whom nobody else knows."""

    def enter(self, address: str, model: str, tokens: int, *, patience_s: float | None) -> Room:
        """There is room."""
        del address, model, tokens, patience_s
        return Room(number=1)

    def wait(self, room: Room, stop: Stop) -> None:
        """Nobody rings."""
        stop.wait(room.look_s)

    def leave(self, room: Room, tokens: int | None, *, took_s: float, answered: bool) -> None:
        """Nothing was held."""

    def told(self, room: Room, wait_s: float | None, why: str) -> bool:
        """Nobody is told."""
        del room, wait_s, why
        return False

    def give_up(self, room: Room) -> None:
        """Nobody stood in a line."""


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
class Request:
    """The answer to a request for one more artifact: a text for the agent."""

    text: str
    granted: bool = False


class Asking(Protocol):
    """How a runner asks for an artifact that its node does not have. Answers at once, never waits.

    With `wait`, an artifact that another node holds ends the attempt (an `AttemptError` that the runner lets
    pass): the node begins again when it is free.
    """

    def __call__(self, pattern: str, mode: str, *, wait: bool) -> Request:
        """Ask to `write`, `read` or `append` (to) what the pattern names."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What a runner is asked to do. `deadline` is on the clock of `time.monotonic()`.

    `artifacts`: patterns that may be written (none: whatever the task needs), `appends`: those of them of
    which only the end may grow. `request`: the way to further ones; None when there is none.
    """

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
    gate: Gate = field(default_factory=OpenGate)
    appends: tuple[str, ...] = ()
    request: Asking | None = None


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
