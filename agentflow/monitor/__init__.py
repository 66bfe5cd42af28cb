"""What can be seen of runs, nodes, workers and queues, as plain values; derived from the ledger alone."""

from agentflow.monitor.looking import Monitor
from agentflow.monitor.values import (
    NodeStatus,
    Overview,
    RunStatus,
    WorkerStatus,
    event_as_dict,
    fleet_told,
    run_as_dict,
    run_finished,
    waits_for,
    worker_state,
)
from agentflow.store.reach import reachable
from agentflow.store.records import INTEGRATE, Event, NodeRecord, RunRecord, WorkerRecord
from agentflow.store.trouble import redis_trouble

__all__ = [
    "INTEGRATE", "Event", "Monitor", "NodeRecord", "NodeStatus", "Overview", "RunRecord", "RunStatus",
    "WorkerRecord", "WorkerStatus", "event_as_dict", "fleet_told", "reachable", "redis_trouble",
    "run_as_dict", "run_finished", "waits_for", "worker_state",
]  # fmt: skip
