"""The fleet, as its operator sees it: look, spawn, scale, limit, drain, kill.

A *slot* runs one node at a time; a *worker* is a process that has slots. `scale` and `limits` count slots,
`spawn`, `drain` and `kill` count workers. All of it goes through the ledger, where every worker reads its
orders with each beat, so that it works from any machine; processes are started on this one only.
"""

from agentflow.fleet.ending import drain, kill, resume
from agentflow.fleet.growing import (
    await_workers,
    limits,
    run_limits,
    scale,
    set_limits,
    set_run_limits,
    spawn,
)
from agentflow.fleet.looking import kept_here, slots_alive, snapshot, status, workers
from agentflow.fleet.rates import Rate, change_rates, rates
from agentflow.fleet.values import Drained, FleetStatus, Killed, Scaled

__all__ = [
    "Drained", "FleetStatus", "Killed", "Rate", "Scaled", "await_workers", "change_rates", "drain",
    "kept_here", "kill", "limits", "rates", "resume", "run_limits", "scale", "set_limits", "set_run_limits",
    "slots_alive", "snapshot", "spawn", "status", "workers",
]  # fmt: skip
