"""The fleet at one glance, and all of it for whoever goes on later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from agentflow import runs
from agentflow.app import SYSTEM_QUEUE
from agentflow.config import Config
from agentflow.fleet.values import FleetStatus
from agentflow.local import service
from agentflow.monitor import INTEGRATE, Monitor, RunRecord, WorkerStatus
from agentflow.states import CLOSED
from agentflow.store import keys
from agentflow.store.fleet import Fleet
from agentflow.store.orders import OrderBook


def workers(config: Config) -> list[WorkerStatus]:
    """Every worker on the register, by name; dead ones for a minute."""
    return Monitor(config).workers()


def status(config: Config) -> FleetStatus:
    """Workers, nodes, queues and limits now."""
    ledger = runs.open_ledger(config)
    fleet, orders = Fleet(ledger.client), OrderBook(ledger.client).read()
    found = workers(config)
    tasks: Counter[str] = Counter()
    for run_id in ledger.open_runs():
        tasks.update(node.state.value for node in ledger.nodes(run_id).values() if node.id != INTEGRATE)
    names = {*config.roles, *fleet.roles(), *fleet.queues(), SYSTEM_QUEUE}
    lengths = fleet.queue_lengths(sorted(names))
    return FleetStatus(
        orchestrator_running=bool(ledger.client.exists(keys.LEADER)),
        tasks=dict(tasks),
        workers=_counted(found),
        queues={name: length for name, length in lengths.items() if length},
        limits=ledger.limits(),
        drained=orders.drained,
        reason=orders.reason,
        paused={name: pause.reason for name, pause in ledger.pauses().items()},
    )


def _counted(found: Sequence[WorkerStatus]) -> dict[str, Any]:
    alive = [w.record for w in found if w.state != "dead"]
    return {
        "total": len(alive),
        **Counter(worker.state for worker in found),
        "slots": sum(w.slots for w in alive),
        "busy": sum(w.busy for w in alive),
    }


def slots_alive(config: Config, queue: str = "") -> int:
    """Slots of the workers that live and take work (of a queue), those that are starting here included."""
    found, kept = workers(config), service.supervised(config)
    known = {w.record.name for w in found}
    here = kept.workers if kept else []
    leaving = {w["name"] for w in here if w["leaving"]}
    records = [w.record for w in found if w.state not in ("dead", "draining")]
    serving = [
        w.slots for w in records if w.name not in leaving and (not queue or w.every or queue in w.queues)
    ]
    starting = [w for w in here if w["name"] not in known | leaving]
    serving += [int(w["slots"]) for w in starting if not w["queues"] or queue in ("", *w["queues"])]
    return sum(serving)


def kept_here(config: Config) -> int:
    """Worker processes that a supervisor keeps on this machine for this Redis."""
    found = service.supervised(config)
    return len(found.workers) if found else 0


def snapshot(config: Config) -> dict[str, Any]:
    """Where everything stands: open runs with their nodes by state, workers, limits."""
    monitor = Monitor(config)
    ledger = runs.open_ledger(config)
    return {
        "at_ms": ledger.now_ms(),
        "runs": [_run_told(monitor, run) for run in monitor.runs() if run.state not in CLOSED],
        "workers": [asdict(worker.record) | {"state": worker.state} for worker in monitor.workers()],
        "limits": ledger.limits(),
    }


def _run_told(monitor: Monitor, run: RunRecord) -> dict[str, Any]:
    found = monitor.status(run.id)
    by_state: dict[str, list[str]] = {}
    for node in found.nodes:
        by_state.setdefault(node.state.value, []).append(node.id)
    return {
        "run": run.id, "feature": run.feature, "state": run.state.value, "base": run.base,
        "total": found.total, "done": found.done, "nodes": by_state,
    }  # fmt: skip
