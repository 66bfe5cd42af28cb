"""What keeps the ledger and the broker together: expire, send again, close, by one leader.

Every worker watches the leases, only the leader acts. A lease counts as expired only when this very
process has seen it unrenewed for a whole TTL, so an outage of Redis or a sleeping laptop ends nobody.
A canvas is a hint and the ledger the truth: what is ready while nobody holds or carries it is sent
again; a duplicate is refused at its claim.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from agentflow import transport
from agentflow.canvas import chords
from agentflow.errors import AgentflowError
from agentflow.recovery import undoing
from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.breakers import Breakers
from agentflow.store.client import Unreachable
from agentflow.store.fleet import Fleet
from agentflow.store.reading import RunNotFoundError
from agentflow.store.records import INTEGRATE
from agentflow.store.restarts import renew_log
from agentflow.tasks.abandoned import Abandoned
from agentflow.tasks.context import Context
from agentflow.workspace import leftovers

log = logging.getLogger("agentflow.reconcile")

#: Milliseconds that a node must have been ready before silence counts: a message needs that long to
#: travel through a busy broker.
SILENCE_MS = 1000
#: A look into the queues costs what lies in them; the next one waits this many times as long.
LOOK_COST_FACTOR = 20.0
#: Seconds between two looks at what is parked: a wake is lost only when Redis comes back without its end.
RECHECK_S = 3.0
#: Seconds between two looks for locks, room and budgets that are held for nodes that do not run.
HEAL_S = 15.0

Lease = tuple[str, str, int]


class Reconciler:
    """State between two scans of one worker. `scan()` is called every half second by one thread."""

    def __init__(self, context: Context, name: str) -> None:
        self._context = context
        #: Two processes may have a worker's name for a moment; only one of them leads.
        self._name = f"{name}|{uuid.uuid4().hex}"
        self._fleet = Fleet(context.client)
        self._leases: dict[Lease, tuple[int, float]] = {}
        self._silent: set[tuple[str, str]] = set()
        self._next_look = self._next_recheck = self._next_heal = 0.0
        self._abandoned = Abandoned(context, name)
        self._near: set[str] = set()

    def scan(self) -> None:
        """Watch the leases; when leading, put right what is wrong.

        The lead is asked for (and prolonged) before each duty: whoever was asleep in between does no more
        than the one that it had begun, and each of its steps is one transition that cannot be made twice.
        """
        expired = self._watch()
        for duty in self._duties(expired):
            if not self._fleet.lead(self._name):
                self._silent.clear()
                return
            duty()

    def _duties(self, expired: Iterable[Lease]) -> tuple[Callable[[], None], ...]:
        return (
            partial(self._expire_all, expired),
            self._due,
            self._count_slots,
            self._overdue,
            self._send_again,
            self._look_after_all,
            self._abandoned.end,
            self._recheck,
            self._heal,
            self._renew_log,
        )

    def resign(self) -> None:
        """Give up the lead when leaving."""
        self._fleet.resign(self._name)

    def _renew_log(self) -> None:
        if renew_log(self._context.client):
            log.info("Redis has started anew; its append-only file is written anew")

    def _expire_all(self, expired: Iterable[Lease]) -> None:
        for lease in expired:
            self._expire(lease)

    def _due(self) -> None:
        """Back-offs that have passed, and days that have begun."""
        ledger = self._context.ledger
        for run_id, answer in (*ledger.due(), *ledger.morning()):
            self._context.resend(run_id, answer)
        self._context.send_woken("", Breakers(self._context.client).trials())

    def _overdue(self) -> None:
        for run_id in self._context.ledger.overdue():
            log.info("run %s has been ready to land for an hour; others may have its paths", run_id)
            self._context.send_woken(run_id, self._context.ledger.release(run_id))

    def _look_after_all(self) -> None:
        for run_id in self._context.ledger.open_runs():
            self._try(run_id, self._look_after)

    def _count_slots(self) -> None:
        """Note how many slots consume each queue; what waited for room that is there now is sent."""
        ledger = self._context.ledger
        slots: Counter[str] = Counter()
        now_ms = ledger.now_ms()
        alive = [worker for worker in ledger.workers() if not worker.is_dead(now_ms)]
        for worker in alive:
            # One that leaves still has what it runs, and that is counted as in flight.
            count = max(worker.offered, worker.busy)
            if worker.schema == keys.SCHEMA_VERSION and count:
                slots.update(dict.fromkeys(worker.queues, count))
        # Nobody on the register: this worker is only beginning, and the last count is the better one.
        if slots:
            self._context.send_woken("", ledger.set_capacity(slots))
        self._fleet.prune(now_ms)
        # What lies in the own queue of a dead worker is carried by nobody: it is sent again.
        own = self._fleet.near()
        self._near = {name for name in own if name in {worker.name for worker in alive}}
        for name in own - self._near:
            self._fleet.close_near(name)

    def _watch(self) -> list[Lease]:
        """Leases that have not moved for a whole TTL before the eyes of this process."""
        now = time.monotonic()
        ttl = self._context.config.lease_ttl_ms / 1000
        leases = self._context.ledger.leases()
        seen = {}
        for lease, end in leases.items():
            before = self._leases.get(lease)
            seen[lease] = before if before and before[0] == end else (end, now)
        self._leases = seen
        return [lease for lease, (_, since) in seen.items() if now - since >= ttl]

    def _expire(self, lease: Lease) -> None:
        run_id, node, fence = lease
        log.warning("run %s: the worker of %s is gone; its attempt is ended", run_id, node)
        answer = self._context.ledger.expire(run_id, node, fence)
        self._leases.pop(lease, None)
        self._context.resend(run_id, answer)

    def _send_again(self) -> None:
        """Ready nodes without a message in two looks in a row are sent again."""
        started = time.monotonic()
        if started < self._next_look:
            return
        ledger = self._context.ledger
        now_ms = ledger.now_ms()
        quiet = {
            (run_id, node)
            for run_id in ledger.open_runs()
            for node, since in ledger.ready(run_id).items()
            if now_ms - since >= SILENCE_MS and self._try(run_id, self._context.known)
        }
        silent = quiet - self._carried(quiet) if quiet else set()
        lost = silent & self._silent
        self._silent = silent - lost
        for run_id in sorted({run for run, _ in lost}):
            self._resend(run_id, sorted(node for run, node in lost if run == run_id))
        self._next_look = started + LOOK_COST_FACTOR * (time.monotonic() - started)

    def _try(self, run_id: str, work: Callable[[str], object]) -> bool:
        """Do what reads a run; one whose record is broken must not keep the others waiting."""
        if run_id in self._abandoned:
            return False
        try:
            work(run_id)
        except (RunNotFoundError, ValueError) as error:
            self._abandoned.note(run_id, error)
            return False
        return True

    def _carried(self, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the pairs whose message lies in one of its queue's ten lists."""
        queues = {self._context.known(run_id).canvas.queue_of(node) for run_id, node in pairs}
        queues.update(keys.NEAR_QUEUE + name for name in self._near)
        found: set[tuple[str, str]] = set()
        for name in queues:
            found |= self._fleet.waiting(name)
        return found

    def _resend(self, run_id: str, nodes: list[str]) -> None:
        log.warning("run %s: %s ready but nobody carries it; sent again", run_id, ", ".join(nodes))
        self._context.ledger.note(run_id, "run.resent", ", ".join(nodes))
        ledger = self._context.ledger
        canvas = self._context.known(run_id, ledger.generation(run_id)).canvas
        if not any(node.attempt for node in ledger.nodes(run_id).values()):
            # Its submitter may have died between opening it and sending its first message.
            chords.arm(canvas)
        chords.send(canvas, nodes)

    def _look_after(self, run_id: str) -> None:
        """Close a run whose integration ended without closing it; end what took, or waited, too long."""
        ledger = self._context.ledger
        state, closing, result, reason, fence = ledger.fields(
            run_id, INTEGRATE, "state", "closing", "result", "reason", "fence"
        )
        if state in (NodeState.SUCCEEDED, NodeState.FAILED):
            # Without a word of the integration itself: its workers died until it was given up.
            ending = RunState(closing or RunState.FAILED)
            undoing.close(
                ledger,
                self._context.config,
                run_id,
                ending,
                result=result,
                reason=reason,
                fence=int(fence or 0),
                send=partial(self._context.send_woken, run_id),
            )
            return
        overdue = ledger.deadlines(run_id)
        if overdue:
            self._context.resend(run_id, overdue)

    def _recheck(self) -> None:
        """Parked nodes that nothing holds back any more: the wake that they waited for is lost."""
        if time.monotonic() < self._next_recheck:
            return
        self._next_recheck = time.monotonic() + RECHECK_S
        for run_id in self._context.ledger.open_runs():
            self._try(run_id, self._recheck_run)

    def _recheck_run(self, run_id: str) -> None:
        answer = self._context.ledger.recheck(run_id)
        if answer:
            woken = [*answer.woken, *(f"{run}/{node}" for run, node in answer.others)]
            log.info("run %s: %s could start and nobody had said so", run_id, ", ".join(woken))
            self._context.send_woken(run_id, answer)

    def _heal(self) -> None:
        """What is held for nodes that do not run; a ledger that is whole has nothing of the kind."""
        if time.monotonic() < self._next_heal:
            return
        self._next_heal = time.monotonic() + HEAL_S
        healed, answer = self._context.ledger.heal()
        for what in healed:
            log.error("the ledger was put right: %s", what)
        if healed:
            self._context.ledger.announce("ledger.healed", what=list(healed))
        self._context.send_woken("", answer)


def sweep_safely(context: Context) -> None:
    """Remove workspaces that killed workers left of runs that have ended; never raises, the next look tries
    again.
    """
    try:
        leftovers.sweep(context.config.data_dir, context.config.client_url(), context.ledger.open_runs)
    except (OSError, *Unreachable) as error:
        log.info("workspaces were not swept: %s", error)
    except Exception:
        log.exception("sweeping was given up")


def tidy_safely(context: Context) -> None:
    """Remove what runs left here that were closed a day ago; never raises, the next hour tries again."""
    try:
        gone = transport.tidy(context.config, context.ledger.open_runs())
    except Unreachable as error:
        log.info("Redis is away, nothing is tidied: %s", error)
    except Exception:
        log.exception("tidying was given up")
    else:
        if gone:
            log.info("removed what closed runs left here: %s", ", ".join(gone))


def scan_safely(reconciler: Reconciler) -> None:
    """One scan; what goes wrong is logged and the next scan tries again (the reaper's own boundary)."""
    try:
        reconciler.scan()
    except AgentflowError as error:
        log.warning("reconcile: %s", error.explain())
    except Exception:
        log.exception("reconcile: this scan was given up")
