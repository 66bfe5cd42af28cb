"""The ways to end: drain (what runs is finished first) and kill (at once)."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psutil

from agentflow import host, runs
from agentflow.config import Config
from agentflow.fleet.looking import snapshot, workers
from agentflow.fleet.values import Drained, Killed
from agentflow.local import service
from agentflow.monitor import WorkerStatus
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.orders import KILLED, OrderBook

#: Seconds that `drain` waits for running attempts unless it is told how long.
DRAIN_S = 600.0
#: Seconds that a worker may take to obey: a few beats.
OBEY_S = 5.0
#: State of a worker that came to a drained fleet: it stays, and takes nothing.
WAITING = "waiting"
LOOK_S = 0.1


def drain(
    config: Config,
    *,
    reason: str = "by its operator",
    timeout_s: float = DRAIN_S,
    tell: Callable[[str], None] | None = None,
) -> Drained:
    """Let nothing start anywhere, wait until all attempts have ended and the workers have left.

    It holds until `resume` or `scale`, for workers that start later too. After `timeout_s` the answer says
    `draining`: whoever is left goes on to the end of what it has.
    """
    ledger = runs.open_ledger(config)
    before = [w for w in workers(config) if w.state not in ("dead", WAITING)]
    OrderBook(ledger.client).drain(reason, ledger.now_ms())
    ledger.announce("fleet.drained", reason=reason, workers=len(before))
    left = _await_departure(config, before, timeout_s, tell)
    return Drained(
        status="draining" if left else "drained",
        workers_killed=len(before) - len(left),
        snapshot=snapshot(config),
        left=tuple(w.record.name for w in left),
    )


def resume(config: Config) -> bool:
    """End a drain; whether there was one."""
    ledger = runs.open_ledger(config)
    ended = OrderBook(ledger.client).resume()
    if ended:
        ledger.announce("fleet.resumed")
        if ledger.open_runs():
            service.ensure(config)
    return ended


def kill(config: Config) -> Killed:
    """End every worker process of the fleet at once, on every machine.

    Their attempts are ready again and nothing is counted against them. Supervisors start no successors until
    somebody asks for a worker; what else starts workers (systemd, a container's restart policy) is not
    stopped. On this machine, one that does not obey is sent SIGKILL.
    """
    ledger = runs.open_ledger(config)
    before = workers(config)
    dead = [w for w in before if w.state == "dead"]
    alive = [w for w in before if w.state != "dead"]
    held = _held(ledger)
    OrderBook(ledger.client).kill()
    ledger.announce("fleet.killed", workers=len(alive))
    there = _await_departure(config, alive, OBEY_S, None, dead_too=True)
    left = []
    for worker in [*there, *_await_departure(config, dead, 0, None, dead_too=True)]:
        name = worker.record.name
        if _kill_here(worker) or worker.state == "dead":
            ledger.expire_worker(name, reason=KILLED)
            Fleet(ledger.client).forget(name)
        else:
            left.append(name)
    ended = sum(held[w.record.name] for w in before if w.record.name not in left)
    return Killed("incomplete" if left else "killed", len(alive) - len(left), ended, tuple(left))


def _process(worker: WorkerStatus) -> tuple[str, int, int]:
    record = worker.record
    return record.name, record.pid, record.started_ms


def _held(ledger: Ledger) -> Counter[str]:
    """Running attempts by worker."""
    return Counter(ledger.fields(run, node, "worker")[0] for run, node, _ in ledger.leases())


def _kill_here(worker: WorkerStatus) -> bool:
    """SIGKILL, when the worker is a process of this machine; whether it is gone."""
    record = worker.record
    if record.place != host.place() or not record.born:
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(record.pid)
        # Process ids are used again: another process is not touched, and the worker is gone then.
        if host.born(record.pid) != record.born:
            return True
        process.send_signal(signal.SIGKILL)
        process.wait(OBEY_S)
    return not host.is_alive(record.pid)


def _await_departure(
    config: Config,
    waited_for: Sequence[WorkerStatus],
    timeout_s: float,
    tell: Callable[[str], None] | None,
    *,
    dead_too: bool = False,
) -> list[WorkerStatus]:
    """Those of the workers that are still on the register, and live (or not), after `timeout_s`.

    A successor of the same name (systemd and containers start one) is another process.
    """
    deadline, told = time.monotonic() + timeout_s, ""
    while True:
        there = {_process(w): w for w in workers(config)}
        found = [w for w in waited_for if _process(w) in there]
        left = [w for w in found if dead_too or there[_process(w)].state != "dead"]
        if not left or time.monotonic() > deadline:
            return left
        busy = sum(there[_process(w)].record.busy for w in left)
        line = f"workers left: {len(left)}, attempts that run: {busy}"
        if tell and line != told:
            tell(line)
            told = line
        time.sleep(LOOK_S)
