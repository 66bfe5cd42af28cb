"""Keeps a shard on the worker that has its files warm: softly, for a second, and never at others' cost.

A node of a shard that follows another one of the same shard in its Celery chain goes through a queue that
only this worker consumes. The slot that its forerunner gives free takes it before anything else of the same
user priority. What lies there for longer than a beat goes to the queue that every worker of the role serves;
what lay there when its worker died is sent again by the reconciler. Nodes without a shard never come here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

from agentflow.app import WORKER_QUEUE, queue
from agentflow.canvas import chords
from agentflow.canvas.plan import PlanNode
from agentflow.canvas.routing import first_of_band, queue_of
from agentflow.store.client import Unreachable
from agentflow.store.fleet import Fleet
from agentflow.store.reading import RunNotFoundError
from agentflow.tasks.attempts import ATTEMPTS
from agentflow.tasks.context import Context

log = logging.getLogger("agentflow.worker")


class Near:
    """The own queue of this worker process; made when the first shard wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Any = None
        self._name = ""
        self._is_open = False
        self._lay_there = False

    def belong_to(self, worker: Any) -> None:
        """Serve this worker."""
        self._worker = worker
        self._name = WORKER_QUEUE + worker.hostname

    def steer(self, context: Context, request: Any, run_id: str, node_id: str) -> None:
        """Let what follows `node_id` in this request's chain come to this worker, if it is of its shard."""
        if not request.chain or self._worker is None or ATTEMPTS.closed:
            return
        follower = request.chain[-1]
        nodes = context.known(run_id).plan.by_id
        node, following = nodes[node_id], nodes.get(follower["args"][1])
        if not node.shard or following is None or following.shard != node.shard:
            return
        if self._serves(following) and self._opened(context):
            follower["options"]["queue"] = self._name
            follower["options"]["priority"] = first_of_band(following.priority)

    def _serves(self, node: PlanNode) -> bool:
        return queue_of(node.role, node.queue) in self._worker.app.amqp.queues.consume_from

    def _opened(self, context: Context) -> bool:
        """Whether the queue is there; while Redis is away, everybody's will do."""
        with self._lock:
            if self._is_open:
                return True
            try:
                Fleet(context.client).open_near(self._worker.hostname)
            except Unreachable:
                return False
            self._is_open = True
        self._worker.app.amqp.queues.select_add(queue(self._name))
        consumer = self._worker.consumer
        consumer.call_soon(consumer.add_task_queue, self._name)
        return True

    def give_back(self, context: Context, *, everything: bool = False) -> None:
        """Hand over what has lain there since the last call at least."""
        if not self._is_open:
            return
        fleet = Fleet(context.client)
        lies_there = bool(fleet.queue_lengths([self._name])[self._name])
        if lies_there and (everything or self._lay_there):
            for run_id, node in fleet.take_back(self._name):
                with contextlib.suppress(RunNotFoundError):
                    chords.send(context.known(run_id).canvas, [node])
            lies_there = False
        self._lay_there = lies_there

    def close(self, context: Context) -> None:
        """Hand over everything: this worker leaves."""
        if self._is_open:
            self.give_back(context, everything=True)
            Fleet(context.client).close_near(self._worker.hostname)
            self._is_open = False


#: Of this worker process.
NEAR = Near()
