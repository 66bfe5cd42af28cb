"""The ways to end: drain (what runs is finished first) and kill (at once)."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psutil

from agentflow import runs
from agentflow.config import Config
from agentflow.fleet.looking import snapshot, workers
from agentflow.fleet.values import Drained, Killed
from agentflow.local import service
from agentflow.monitor import WorkerStatus
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.orders import OrderBook
from agentflow.tasks import host

#: Seconds that `drain` waits for running attempts unless it is told how long.
DRAIN_S = 600.0
#: Seconds that a worker may take to obey: a few beats.
OBEY_S = 5.0
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
    before = [w.record.name for w in workers(config) if w.state != "dead"]
    OrderBook(ledger.client).drain(reason, ledger.now_ms())
    ledger.announce("fleet.drained", reason=reason, workers=len(before))
    left = _await_departure(config, before, timeout_s, tell)
    return Drained(
        status="draining" if left else "drained",
        workers_killed=len(before) - len(left),
        snapshot=snapshot(config),
        left=tuple(left),
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
    before = {w.record.name: w for w in workers(config)}
    alive = [name for name, worker in before.items() if worker.state != "dead"]
    held = _held(ledger)
    OrderBook(ledger.client).kill()
    ledger.announce("fleet.killed", workers=len(alive))
    _await_departure(config, alive, OBEY_S, None, dead_too=True)
    left = []
    for name in {worker.record.name for worker in workers(config)}.intersection(before):
        if _kill_here(before[name]) or before[name].state == "dead":
            ledger.expire_worker(name)
            Fleet(ledger.client).forget(name)
        else:
            left.append(name)
    ended = sum(held[name] for name in before if name not in left)
    return Killed("incomplete" if left else "killed", len(set(alive) - set(left)), ended, tuple(left))


def _held(ledger: Ledger) -> Counter[str]:
    """Running attempts by worker."""
    return Counter(ledger.fields(run, node, "worker")[0] for run, node, _ in ledger.leases())


def _kill_here(worker: WorkerStatus) -> bool:
    """SIGKILL, when the worker is a process of this machine; whether it is gone."""
    record = worker.record
    if record.place != host.place():
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(record.pid)
        # Process ids are used again: only what looks like a worker is ended.
        if "worker" in process.cmdline():
            process.send_signal(signal.SIGKILL)
            process.wait(OBEY_S)
    return not host.is_alive(record.pid)


def _await_departure(
    config: Config,
    names: Sequence[str],
    timeout_s: float,
    tell: Callable[[str], None] | None,
    *,
    dead_too: bool = False,
) -> list[str]:
    """Those of the workers that are still on the register, and live (or not), after `timeout_s`."""
    deadline, told = time.monotonic() + timeout_s, ""
    while True:
        there = {w.record.name: w for w in workers(config)}
        left = [name for name in names if name in there and (dead_too or there[name].state != "dead")]
        if not left or time.monotonic() > deadline:
            return left
        busy = sum(there[name].record.busy for name in left)
        line = f"{len(left)} workers are left, {busy} attempts run"
        if tell and line != told:
            tell(line)
            told = line
        time.sleep(LOOK_S)
