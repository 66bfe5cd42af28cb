"""More workers, fewer workers, and how many slots they may use at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from agentflow import runs
from agentflow.canvas import chords
from agentflow.config import Config
from agentflow.errors import InfraError, UsageError
from agentflow.fleet.ending import resume
from agentflow.fleet.looking import kept_here, slots_alive
from agentflow.fleet.values import Scaled
from agentflow.local import launching, service
from agentflow.store.ledger import Ledger
from agentflow.store.limits import CLASS, FLEET, ROLE, check_class
from agentflow.store.orders import refuse_drained
from agentflow.store.scripts import Answer

#: Seconds until a started worker serves; a cold one takes two or three on an idle machine.
START_S = 60.0
LOOK_S = 0.1


def spawn(
    config: Config,
    workers: int,
    *,
    slots: int | None = None,
    queues: Sequence[str] = (),
    feature: str = "",
    wait: bool = False,
) -> list[str]:
    """Start worker processes on this machine, which are kept running; their names.

    `slots`: of each (`fleet.slots_per_worker`). `queues`: what they serve (everything). `wait`: until they
    serve. Raises `UsageError` for more than `fleet.max_workers` on this machine, `InfraError` on a drained
    fleet or when they do not come up.
    """
    chosen = launching.queues_for(config, queues=queues, feature=feature)
    service.ensure(config, worker=False)
    ledger = runs.open_ledger(config)
    refuse_drained(ledger.client)
    if kept_here(config) + workers > config.fleet.max_workers:
        raise _too_many(config, workers)
    each = slots or config.fleet.slots_per_worker
    names = service.spawn(config, workers, kind=feature or "worker", slots=each, queues=chosen, whole=True)
    if workers and not names:  # somebody else was faster
        raise _too_many(config, workers)
    ledger.announce("fleet.spawned", workers=names, slots=each, queues=list(chosen))
    if wait:
        await_workers(config, names)
    return names


def _too_many(config: Config, workers: int) -> UsageError:
    here, most = kept_here(config), config.fleet.max_workers
    return UsageError(
        f"{workers} more make {here + workers} worker processes on this machine; {most} are allowed",
        fix="give each more slots (--slots), or raise fleet.max_workers",
        code="AF-FLEET-005",
    )


def await_workers(config: Config, names: Sequence[str], *, timeout_s: float = START_S) -> None:
    """Return when these workers serve. Raises `InfraError` when one dies at its start, or does not serve
    within `timeout_s`.
    """
    ledger, deadline = runs.open_ledger(config), time.monotonic() + timeout_s
    while missing := set(names) - {worker.name for worker in ledger.workers()}:
        kept = service.supervised(config)
        died = missing - {worker["name"] for worker in (kept.workers if kept else ())}
        if died or time.monotonic() > deadline:
            told = "died at their start" if died else f"have not come up within {timeout_s:.0f} s"
            raise InfraError(
                f"{len(died or missing)} of {len(names)} workers {told}",
                why=service.last_words(config),
                fix="the log says why; they are tried again, `agentflow workers` shows those that serve",
                code="AF-FLEET-006",
            )
        time.sleep(LOOK_S)


def scale(config: Config, slots: int, *, role: str | None = None, wait: bool = False) -> Scaled:
    """Let so many nodes run at once, in the whole fleet or of one role; ends a drain.

    Where the workers that live have fewer slots, processes are started on this machine, as far as
    `fleet.max_workers` goes; where they have more, those started here that are not needed are dismissed (they
    finish what they have). Raises `UsageError`.
    """
    if slots < 1:
        raise UsageError(
            f"{slots} slots make no sense",
            fix="`agentflow drain` lets nothing start; `agentflow limits set fleet=0` takes the limit away",
            code="AF-FLEET-007",
        )
    name = ROLE + role_named(role, config) if role else FLEET
    service.ensure(config, worker=False)
    ledger = runs.open_ledger(config)
    resume(config)
    _send(config, ledger, ledger.set_limit(name, slots))
    queue = launching.role_queue(role, config) if role else ""
    have = slots_alive(config, queue)
    spawned = _spawn_missing(config, slots - have) if have < slots else []
    dismissed = _dismiss_surplus(config, have - slots) if have > slots and not role else 0
    ledger.announce(
        "fleet.scaled", limit=name, slots=slots, spawned=len(spawned), dismissed=dismissed, workers=spawned
    )
    if wait:
        await_workers(config, spawned)
    return Scaled("scaled", slots, len(spawned), have, dismissed, tuple(spawned))


def _spawn_missing(config: Config, slots: int) -> list[str]:
    """As few processes as have so many slots, each larger than configured where their number is used up."""
    most = config.fleet.max_workers - kept_here(config)
    count = min(most, launching.workers_needed(slots, config.fleet.slots_per_worker))
    if count < 1:
        return []
    each = min(launching.SLOTS_MAX, launching.workers_needed(slots, count))
    return service.spawn(config, count, kind="worker", slots=each)


def _dismiss_surplus(config: Config, slots: int) -> int:
    """Dismiss as many of the workers kept here as are not needed; the first one stays."""
    found = service.supervised(config)
    surplus = 0
    staying = [worker for worker in found.workers if not worker["leaving"]] if found else []
    for worker in reversed(staying[1:]):
        if worker["slots"] > slots:
            break
        slots -= worker["slots"]
        surplus += 1
    if surplus:
        service.dismiss(config, surplus, "the fleet was scaled down")
    return surplus


def role_named(word: str, config: Config) -> str:
    """The role that a word means. Raises `UsageError`."""
    launching.role_queue(word, config)
    return config.role_name(word) or word


def limits(config: Config) -> dict[str, int]:
    """Limits on slots by name: `fleet`, `role:<role>`, `class:<complexity>`."""
    return runs.open_ledger(config).limits()


def set_limits(config: Config, wanted: Mapping[str, int]) -> dict[str, int]:
    """Set limits on slots, live: `fleet`, a role (`backend`, `role:backend`) or `class:high`; 0 takes one
    away.
    """
    ledger = runs.open_ledger(config)
    named = {
        name if name == FLEET or name.startswith(CLASS) else ROLE + name: slots
        for name, slots in _named(wanted, FLEET, config).items()
    }
    for name, slots in named.items():
        _send(config, ledger, ledger.set_limit(name, slots))
        ledger.announce("fleet.limited", limit=name, slots=slots)
    return ledger.limits()


def run_limits(config: Config, run_id: str) -> dict[str, int]:
    """The limits of one run: `all`, by role, by complexity (`class:high`)."""
    return runs.open_ledger(config).run_limits(run_id)


def set_run_limits(config: Config, run_id: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Set how many nodes of one run are at work at once, live: `all`, a role or `class:high`; 0 takes a limit
    away.
    """
    ledger = runs.open_ledger(config)
    for name, slots in _named(wanted, "all", config).items():
        answer = ledger.set_run_limit(run_id, name, slots)
        if answer.woken:
            chords.send(runs.canvas_of(ledger, run_id, config), answer.woken, woken=True)
        _send(config, ledger, answer)
    return ledger.run_limits(run_id)


def _named(wanted: Mapping[str, int], everything: str, config: Config) -> dict[str, int]:
    """Limits by `everything`, the name of a role (given by any of its words), or `class:<complexity>`."""
    found = {}
    for word, slots in wanted.items():
        if word.startswith(CLASS):
            check_class(word)
            found[word] = slots
        else:
            found[word if word == everything else role_named(word.removeprefix(ROLE), config)] = slots
    return found


def _send(config: Config, ledger: Ledger, answer: Answer) -> None:
    """Send what has room now, whatever run it is of."""
    chords.send_others(answer.others, lambda run_id: runs.canvas_of(ledger, run_id, config))
