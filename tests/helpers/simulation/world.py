"""One schedule from a seed: real ledger, real decisions; broker, workers and clock simulated.

Everything that happens is chosen by one random generator: which fiber goes on, which message is taken by
whom, what is lost, doubled or late, who dies or stands still and where. A schedule that ends wrong raises
`ScheduleError` with its story, and the same seed tells the same story again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from helpers.broken_scripts import rewritten
from helpers.simulation import clock
from helpers.simulation.broker import Broker, Faults, Message, SimulatedCanvas
from helpers.simulation.clock import SimulatedRedis, SimulatedTime
from helpers.simulation.fibers import Fiber, KilledError
from helpers.simulation.plans import SimulatedDesk
from helpers.simulation.workers import SimulatedWorker

from agentflow.canvas import chords
from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan
from agentflow.config import Config, load_config
from agentflow.states import CLOSED, RunState
from agentflow.store import keys, scripts
from agentflow.store.fleet import LEADER_TTL_MS
from agentflow.store.ledger import Ledger
from agentflow.tasks import account, attempt, attempts, context, integrate, maintenance

#: Virtual time after which a schedule that has not ended never will.
PATIENCE_S = 900.0
#: Steps that tell nothing: a story leaves them out.
DULL = (
    "renew", "register", "lead", "capacity", "recheck", "deadlines", "works", "morning", "trials", "heal",
)  # fmt: skip
STORY_LINES = 60


class ScheduleError(AssertionError):
    """A schedule ended wrong. Its text is the story, and how to hear it again."""


@dataclass(slots=True)
class World:
    """Everything there is in one schedule."""

    seed: int
    client: SimulatedRedis
    home: Path
    faults: Faults
    rng: random.Random = field(init=False)
    broker: Broker = field(init=False)
    config: Config = field(init=False)
    ledger: Ledger = field(init=False)
    plans: dict[str, Plan] = field(default_factory=dict)
    workers: list[SimulatedWorker] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    _now: tuple[Fiber, SimulatedWorker] | None = None
    _struck: int = 0
    _led_us: int = 0
    _hired: int = 0
    _comes_us: list[int] = field(default_factory=list)
    _deeds: list[tuple[int, str, str]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    #: Calls that the model has answered, by run.
    answered: Counter[str] = field(default_factory=Counter)
    #: What the leader had to put right: in a ledger that is whole, nothing.
    healed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.broker = Broker(self.rng, self.faults, lambda: self.now_us, self.step, self.tell)
        here = str(self.home)
        self.config = load_config(self.home, environ={"AGENTFLOW_HOME": here, "HOME": here})
        self.ledger = Ledger(self.client)

    # -- time and steps ------------------------------------------------------------------------

    @property
    def now_us(self) -> int:
        return self.client.now_us

    def tell(self, what: str) -> None:
        """One line of the story."""
        who = self._now[0].name if self._now else "-"
        self.trace.append(f"{(self.now_us - clock.BEGIN_US) / 1e6:9.4f} [{who}] {what}")

    def sleep(self, seconds: float) -> None:
        """The current fiber goes on so much later."""
        assert self._now
        fiber = self._now[0]
        fiber.wake_us = self.now_us + int(seconds * 1e6)
        fiber.pause()

    def step(self, what: str) -> None:
        """The current fiber is about to do something that others can see: it may be stopped here."""
        if not self._now:
            return
        fiber, worker = self._now
        if fiber.is_killed:
            raise KilledError
        dice = self.rng.random()
        # There are few of these steps, and most to lose: whoever stood still comes back with an old fence.
        often = 6 if what.startswith(("settle", "requeue")) else 1
        if self._struck < self.faults.most and dice < often * (self.faults.crash + self.faults.stall):
            self._struck += 1
            if dice < often * self.faults.crash:
                self.tell(f"DIES before: {what}")
                worker.is_dead = fiber.is_killed = True
                raise KilledError
            others = [w for w in self.workers if w is not worker and w.stalled_until_us > self.now_us]
            # With the others at a standstill too nobody would be there to notice.
            seconds = 0.5 if others else self.rng.choice((0.5, 4.5, 5.5, 7.0))
            self.tell(f"STALLS {seconds} s before: {what}")
            worker.stalled_until_us = self.now_us + int(seconds * 1e6)
            fiber.pause()
        elif dice > (0.9 if what.partition(" ")[0] in DULL else 0.5):
            fiber.pause()
        self.tell(what)

    def call(self, real: Any, client: Any, name: str, *args: Any) -> Any:
        """A script of the ledger, as a step."""
        # Whoever leads has a name that is another one each time.
        words = [] if name in ("lead", "resign") else [str(word) for word in args[:4]]
        self.step(" ".join([name, *words]))
        answer = real(client, name, *args)
        if name == "heal" and int(answer[0]):
            self.healed.append(str(answer[1]))
        if name == "lead" and answer[0]:
            self._led_us = self.now_us
        if name not in DULL:
            self.tell(f"  = {' '.join(str(word).replace(chr(10), ',') for word in answer[:2])}")
        return answer

    # -- the schedule --------------------------------------------------------------------------

    def submit(self, run_id: str, plan: Plan) -> None:
        """Open a run; sometimes its submitter dies before it has sent everything."""
        self.plans[run_id] = plan
        open_in_ledger(self.ledger, run_id, plan, project="p", repo="", root="")
        canvas = self._canvas(run_id)
        chords.send(canvas, canvas.roots())

    def hire(self) -> None:
        """One more worker."""
        self._hired += 1
        app: Any = self.broker
        worker = SimulatedWorker(self, f"w{self._hired}", context.Context(self.config, app))
        self.workers.append(worker)
        worker.start()

    def operate(self, run_id: str) -> None:
        """Somebody will interfere: a drain or a pause that ends after a while, or a cancel."""
        verb = self.rng.choice(("drain", "pause", "drain", "pause", "cancel"))
        at_us = clock.BEGIN_US + self.rng.randrange(8_000_000)
        self._deeds.append((at_us, run_id, verb))
        if verb != "cancel":
            self._deeds.append((at_us + self.rng.randrange(5_000_000), run_id, "continue"))

    def _control(self, run_id: str, verb: str) -> None:
        state, answer = self.ledger.control(run_id, verb, "said an operator")
        self.tell(f"{verb.upper()} {run_id}: {state}")
        if state == RunState.CANCELLING:
            self.cancelled.add(run_id)
        canvas = self._canvas(run_id)
        chords.follow_up(canvas, ready=answer.ready, ended=answer.ended, woken=answer.woken)
        chords.send_others(answer.others, self._canvas)

    def _canvas(self, run_id: str) -> SimulatedCanvas:
        app: Any = self.broker
        return SimulatedCanvas(self.plans[run_id], run_id, 1, app)

    def play(self) -> None:
        """Let things happen until every run is closed and nothing is under way any more."""
        while not self._is_over():
            if self.now_us > clock.BEGIN_US + PATIENCE_S * 1e6:
                raise self.error("the runs do not end")
            choices = self._choices()
            if not choices:
                self._advance(self._next_us())
                continue
            self._advance(self.now_us + self.rng.randrange(200))
            chosen = self.rng.choice(choices)
            if isinstance(chosen, Message):
                self._deliver(chosen)
            else:
                self._run(*chosen)

    def _is_over(self) -> bool:
        if (
            self._deeds
            or self.broker.waiting
            or any(not r.fiber.is_done for w in self.workers for r in w.running)
        ):
            return False
        return all(self.ledger.run(run_id).state in CLOSED for run_id in self.plans)

    def _choices(self) -> list[Any]:
        now = self.now_us
        found: list[Any] = [
            (fiber, worker)
            for worker in self.workers
            if worker.stalled_until_us <= now
            for fiber in worker.fibers()
            if not fiber.is_done and fiber.wake_us <= now
        ]
        if any(worker.can_take(now) for worker in self.workers):
            found += [message for message in self.broker.waiting if message.due_us <= now]
        return found

    def _next_us(self) -> int:
        now = self.now_us
        fibers = [(fiber, worker) for worker in self.workers for fiber in worker.fibers()]
        times = [max(fiber.wake_us, worker.stalled_until_us) for fiber, worker in fibers if not fiber.is_done]
        times += [message.due_us for message in self.broker.waiting]
        times += [*self._comes_us, *(deed[0] for deed in self._deeds)]
        return min((t for t in times if t > now), default=now + 1_000_000)

    def _advance(self, to_us: int) -> None:
        self.client.now_us = max(to_us, self.now_us)
        if self._led_us and self.now_us - self._led_us > LEADER_TTL_MS * 1000:
            self.client.delete(keys.LEADER)
        for moment in [t for t in self._comes_us if t <= self.now_us]:
            self._comes_us.remove(moment)
            self.hire()
        for deed in [d for d in self._deeds if d[0] <= self.now_us]:
            self._deeds.remove(deed)
            self._control(*deed[1:])

    def _deliver(self, message: Message) -> None:
        self.broker.waiting.remove(message)
        able = [worker for worker in self.workers if worker.can_take(self.now_us)]
        self.rng.choice(able).take(message)

    def _run(self, fiber: Fiber, worker: SimulatedWorker) -> None:
        self._now = fiber, worker
        fiber.run()
        self._now = None
        if fiber.error:
            raise self.error(f"{fiber.name} broke: {fiber.error!r}") from fiber.error
        if worker.is_dead:
            self._bury(worker)
        elif fiber.is_done:
            worker.running = [running for running in worker.running if not running.fiber.is_done]

    def _bury(self, worker: SimulatedWorker) -> None:
        """A worker that died does nothing more; what it had taken is lost, or given back by the broker."""
        self.workers.remove(worker)
        for fiber in worker.fibers():
            fiber.kill()
        for running in worker.running:
            if self.rng.random() < 0.3:
                self.tell(f"given back: {running.message}")
                running.message.due_us = self.now_us
                self.broker.waiting.append(running.message)
        self._comes_us.append(self.now_us + self.rng.randrange(2_000_000))

    def close(self) -> None:
        """End everything that still stands somewhere."""
        for worker in self.workers:
            for fiber in worker.fibers():
                fiber.kill()

    def current_worker(self) -> SimulatedWorker:
        assert self._now
        return self._now[1]

    def error(self, why: str) -> ScheduleError:
        """What went wrong, with the story."""
        story = [line for line in self.trace if line.split("] ", 1)[-1].split()[0] not in DULL]
        told = "\n".join(story[-STORY_LINES:])
        again = f"the same again: pytest {TEST} --seed {self.seed}"
        return ScheduleError(f"seed {self.seed}: {why}\n{told}\n{again}")


TEST = "tests/integration/test_simulation.py"


class _OfWorker:
    """Stands in for `ATTEMPTS`: each simulated worker has its own."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.current_worker().attempts, name)


@contextmanager
def world(seed: int, client: SimulatedRedis, home: Path, faults: Faults) -> Iterator[World]:
    """An empty world in which product code lives on virtual time, and dies when it is told to."""
    client.flushdb()
    client.now_us = clock.BEGIN_US
    it = World(seed, client, home, faults)
    time = SimulatedTime(lambda: it.now_us, it.sleep)
    real = scripts.call
    with ExitStack() as patches:
        patches.enter_context(rewritten(clock.in_simulation))
        for module, name, value in (
            (scripts, "call", lambda *args: it.call(real, *args)),
            (context, "connect", lambda _url: client),
            (context, "Canvas", SimulatedCanvas),
            (chords, "arm", lambda _canvas: None),
            (chords, "_count_together", lambda _canvas, arrivals, _ready: arrivals),
            (attempt, "time", time),
            (attempts, "time", time),
            (account, "time", time),
            (maintenance, "time", time),
            (attempt, "ATTEMPTS", _OfWorker(it)),
            (integrate, "ATTEMPTS", _OfWorker(it)),
            (integrate, "current", lambda: it.current_worker().context),
            (attempt, "open_desk", lambda held: SimulatedDesk(held, it.sleep, it.step, it.answered)),
            (attempt.optimistic, "check", lambda held, _made: held.ledger.sequence(held.run.id)),
        ):
            patches.enter_context(patch.object(module, name, value))
        try:
            yield it
        finally:
            it.close()
