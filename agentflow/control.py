"""Pause, go on, cancel, drain and kill: of one run, of a role in every run, of the whole fleet.

All of it stands in the ledger, so that it holds whatever dies, and saying it again changes nothing.

    pause    nothing further starts; what runs goes on                       until resume
    drain    the same, and waits until nothing runs (of the fleet: the workers leave)  until resume
    cancel   what waits is cancelled, what runs is ended                      a run: until resume
    kill     the same at once, without waiting for workers that do not answer
             (of a role or the fleet: what ran is done again after resume)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from agentflow import fleet, runs
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.explain import did_you_mean
from agentflow.local import service
from agentflow.runs import closing
from agentflow.states import RunState
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.limits import FLEET, ROLE, Pause
from agentflow.store.records import INTEGRATE

#: Seconds that workers have to end what they run before that is done for them: a few beats and the grace of
#: a process tree.
OBEY_S = 5.0
LOOK_S = 0.1
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ended:
    """What `cancel` and `kill` did: attempts ended by force, and where the run is then ('' for many runs).

    Of a drained run `attempts` are those that still run.
    """

    attempts: int = 0
    state: str = ""
    runs: tuple[str, ...] = ()


# -- roles and the fleet -------------------------------------------------------------------------------


def role_named(word: str, config: Config) -> str:
    """The role that a word means: a configured one, or one that a run brought along. Raises `UsageError`."""
    known = Fleet(runs.open_ledger(config).client).roles() | set(config.roles)
    role = config.role_name(word) or word
    if role not in known:
        raise UsageError(
            f"there is no role {word!r}",
            fix=did_you_mean(word, known) or f"roles are: {', '.join(sorted(known))}",
            code="AF-FLEET-003",
        )
    return role


def pause(config: Config, *, role: str = "", reason: str) -> bool:
    """Let nothing of a role, or of the whole fleet, start in any run; False when that holds already.

    Unlike a drain it ends no worker and refuses no run.
    """
    ledger = runs.open_ledger(config)
    is_new = ledger.pause(_name(role), reason)
    if is_new:
        ledger.announce(f"{'role' if role else 'fleet'}.paused", role=role, reason=reason)
    return is_new


def resume(config: Config, *, role: str = "") -> bool:
    """End such a pause (of the fleet: a drain too) and send what waited for it; whether there was one."""
    ledger = runs.open_ledger(config)
    answer = ledger.unpause(_name(role))
    if answer:
        runs.send_others(ledger, answer, config)
        ledger.announce(f"{'role' if role else 'fleet'}.resumed", role=role)
        if ledger.open_runs():
            service.ensure(config)
    ended = not role and fleet.resume(config)
    return bool(answer) or ended


def paused(config: Config) -> dict[str, Pause]:
    """What is paused for every run: `fleet`, `role:<role>`."""
    return runs.open_ledger(config).pauses()


def drain_role(config: Config, role: str, *, reason: str, timeout_s: float, tell: Tell | None = None) -> int:
    """Pause a role and wait until nothing of it runs; how many attempts were left after `timeout_s`."""
    pause(config, role=role, reason=reason)
    ledger = runs.open_ledger(config)
    what = f"attempts of {role} that run"
    return _await(lambda: ledger.in_flight().get(ROLE + role, 0), timeout_s, what, tell)


def cancel_role(config: Config, role: str, *, reason: str) -> Ended:
    """End everything of a role that has not ended, in every open run; what needed it is cancelled with it."""
    ledger = runs.open_ledger(config)
    count, touched = 0, set()
    for run_id in ledger.open_runs():
        while True:
            answer = ledger.cancel_role(run_id, role, reason)
            closing.pass_on(run_id, answer, _canvas_of(ledger, config))
            touched |= {run_id} if answer.head[0] == "cancelled" else set()
            ended = _end_running(ledger, config, reason, run_id=run_id, role=role)
            count += ended
            if not ended:
                break
            touched.add(run_id)
        closing.conclude(ledger, run_id, config=config, canvas_of=_canvas_of(ledger, config))
    return Ended(count, runs=tuple(sorted(touched)))


def kill_role(config: Config, role: str, *, reason: str) -> Ended:
    """Pause a role and end what runs of it at once; that is done again after `resume`, nothing is counted."""
    pause(config, role=role, reason=reason)
    ledger = runs.open_ledger(config)
    count, touched = 0, set()
    for run_id, node, fence in _running(ledger, role=role):
        answer = ledger.requeue(run_id, node, fence, reason=reason, park=True)
        closing.pass_on(run_id, answer, _canvas_of(ledger, config))
        if answer.head[0] == "requeued":
            count += 1
            touched.add(run_id)
            end_processes(run_id, node)
    return Ended(count, runs=tuple(sorted(touched)))


def cancel_fleet(config: Config, *, reason: str) -> Ended:
    """Cancel every open run."""
    open_runs = runs.open_ledger(config).open_runs()
    for run_id in open_runs:
        runs.cancel(run_id, config=config, reason=reason)
    return Ended(runs=tuple(open_runs))


# -- one run -------------------------------------------------------------------------------------------


def drain_run(
    config: Config, run_id: str, *, reason: str, timeout_s: float, tell: Tell | None = None
) -> Ended:
    """Drain a run and wait until nothing of it runs; the attempts that were left after `timeout_s`, and
    where the run is then. One that has ended is left as it is.
    """
    runs.drain(run_id, config=config, reason=reason)
    ledger = runs.open_ledger(config)
    left = _await(lambda: max(0, ledger.run(run_id).running), timeout_s, "attempts that run", tell)
    return Ended(left, ledger.run(run_id).state.value, (run_id,))


def kill_run(config: Config, run_id: str, *, reason: str = "killed by its user") -> Ended:
    """End a run now: when this returns it is closed, holds no lock and no attempt of it can settle.

    Workers end its processes and workspaces themselves, within a second or two. What has not ended after
    `OBEY_S` is ended in the ledger, and on this machine its processes with it.
    """
    ledger = runs.open_ledger(config)
    state = runs.cancel(run_id, config=config, reason=reason)
    count = 0
    if state is RunState.CANCELLING:
        _await(lambda: sum(1 for _ in _running(ledger, run_id=run_id)), OBEY_S, "", None)
        count = _end_running(ledger, config, reason, run_id=run_id)
        state = _closed(ledger, config, run_id)
    end_processes(run_id)
    return Ended(count, state.value, (run_id,))


def _closed(ledger: Ledger, config: Config, run_id: str) -> RunState:
    """Close a run of which nothing runs but perhaps its integration, which a worker has claimed by now."""
    deadline = time.monotonic() + OBEY_S
    while True:
        state = closing.conclude(ledger, run_id, config=config, canvas_of=_canvas_of(ledger, config))
        if state is not RunState.CANCELLING or time.monotonic() > deadline:
            return state
        time.sleep(LOOK_S)


# -- what runs -----------------------------------------------------------------------------------------


def _running(ledger: Ledger, *, run_id: str = "", role: str = "") -> Iterator[tuple[str, str, int]]:
    """Running attempts (run, node, fence) of a run, of a role, or of both; no integration."""
    for run, node, fence in ledger.leases():
        if node == INTEGRATE or (run_id and run != run_id):
            continue
        if not role or ledger.fields(run, node, "role") == (role,):
            yield run, node, fence


def _end_running(ledger: Ledger, config: Config, reason: str, *, run_id: str, role: str = "") -> int:
    """End what runs as cancelled, in the ledger and on this machine; how much that was."""
    count = 0
    canvas_of = _canvas_of(ledger, config)
    for run, node, fence in list(_running(ledger, run_id=run_id, role=role)):
        if closing.end_attempt(ledger, run, node, fence, reason=reason, canvas_of=canvas_of):
            count += 1
            end_processes(run, node)
    return count


def end_processes(run_id: str, node: str = "") -> int:
    """SIGKILL what attempts of a run (or of one node) have left running here; how many processes.

    Every command of an attempt has its run and node in its environment (`tasks/surroundings.py`). Whoever
    calls this is spared with all that it was called from: it may be such a command itself.
    """
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in spared:
                continue
            env = process.environ()
            if env.get("AGENTFLOW_RUN") == run_id and node in ("", env.get("AGENTFLOW_NODE")):
                process.kill()
                count += 1
    return count


def _await(left: Callable[[], int], timeout_s: float, what: str, tell: Tell | None) -> int:
    deadline, told = time.monotonic() + timeout_s, -1
    while True:
        count = left()
        if tell and count and count != told:
            tell(f"{what}: {count}")
            told = count
        if not count or time.monotonic() > deadline:
            return count
        time.sleep(LOOK_S)


def _canvas_of(ledger: Ledger, config: Config) -> closing.CanvasOf:
    return lambda run_id: runs.canvas_of(ledger, run_id, config)


def _name(role: str) -> str:
    return ROLE + role if role else FLEET
