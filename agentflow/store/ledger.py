"""The ledger: each transition of a run and its nodes, atomically and once.

Only this module calls the scripts in `lua/`. From-states come from `agentflow.states`, so the
transition table stands in one place. A fencing token (`fence`) names one claim; whoever holds an
older one is told `superseded`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from agentflow.spec.artifacts import Lock
from agentflow.states import CLOSED, TERMINAL, UNFINISHED, NodeState, RunState, sources
from agentflow.store import keys, scripts
from agentflow.store.budgets import Budgets
from agentflow.store.limits import put_event
from agentflow.store.locking import Locking, lock_text
from agentflow.store.records import INTEGRATE
from agentflow.store.scripts import Answer
from agentflow.store.steering import Steering

#: Characters of a hand-off or report that are kept. Agents may say 16 KB; a planned feature file is longer.
TEXT_CAP = 128 * 1024
REASON_CAP = 2000
_PARKABLE = ",".join(sources(NodeState.READY))
_CLAIMABLE = ",".join(sources(NodeState.RUNNING))
_ENDABLE = {
    state: ",".join(s for s in sources(state) if s == NodeState.RUNNING)
    for state in (NodeState.SUCCEEDED, NodeState.FAILED, NodeState.CANCELLED)
}
_UNFINISHED = ",".join(sorted(UNFINISHED))
_ENDED = ",".join(sorted(TERMINAL))
_REOPENABLE = f"{RunState.FAILED},{RunState.CONFLICT},{RunState.CANCELLED}"


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim. `granted` carries the token; otherwise `reason` says why not."""

    verdict: str
    reason: str
    fence: int
    attempt: int
    edges: tuple[str, ...]
    generation: int
    answer: Answer

    @property
    def granted(self) -> bool:
        """Whether the caller now holds the node."""
        return self.verdict == "granted"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What the ledger must know of a node to admit it.

    `order`: lower wakes first. `queue` is where its messages go ('' = the role's own).
    """

    id: str
    role: str
    parents: Sequence[str]
    children: Sequence[str]
    locks: Sequence[Lock | str] = ()
    role_limit: int = 0
    order: float = 0.0
    optional: bool = False
    output: str = "change"
    tolerant: bool = False
    queue: str = ""
    #: Milliseconds that it may wait for a slot, a lock or a limit (0: for ever).
    queue_ms: int = 0
    #: low, medium, high or ''.
    complexity: str = ""
    #: How important (0: critical) the most important node is that waits for this one; None: nobody asks.
    urgency: int | None = None

    def fields(self) -> dict[str, str | int | float]:
        """The node's hash as it is when the run opens."""
        return {
            "role": self.role,
            "queue": self.queue or self.role,
            "state": NodeState.PENDING if self.parents else NodeState.READY,
            "output": self.output,
            "parents": json.dumps(list(self.parents)),
            "children": json.dumps(list(self.children)),
            "parents_left": len(self.parents),
            "locks": json.dumps([lock_text(lock) for lock in self.locks]),
            "role_limit": self.role_limit,
            "order": self.order,
            "optional": int(self.optional),
            "tolerant": int(self.tolerant),
            "fence": 0,
            "attempt": 0,
            "edges": "[]",
            **({"complexity": self.complexity} if self.complexity else {}),
            **({} if self.urgency is None else {"urgency": self.urgency}),
            **({"queue_ms": self.queue_ms} if self.queue_ms else {}),
        }


class Ledger(Steering, Budgets, Locking):
    """Transitions of runs and nodes on one Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)

    # -- a run ---------------------------------------------------------------------------------

    def open_run(
        self,
        run: Mapping[str, str | int],
        nodes: Sequence[NodeSpec],
        plan: str,
        *,
        budget: Mapping[str, int] | None = None,
    ) -> None:
        """Write a whole run in one transaction; `run` holds `id` and the fields of `RunRecord`, `budget` its
        limits (`budgets.limits_of`).

        A field `exclusive` (lock paths, a JSON list) makes it an exclusive run: it stands in its project's
        line from now on and begins when nobody before it holds or wants any of these paths.
        """
        run_id = str(run["id"])
        now_us = self.now_us()
        now = now_us // 1000
        pipe = self.client.pipeline(transaction=True)
        fields: Any = dict(run)
        pipe.hset(
            keys.run(run_id),
            mapping={
                **fields,
                "state": RunState.OPEN.value,
                "opened_ms": now,
                "since_ms": now,
                "generation": 1,
                "seq": 0,
                "in_flight": 0,
                "guards": self._guards(run, nodes, budget),
                "nodes_total": len(nodes) - 1,
                "nodes_left": len(nodes),
                "order": json.dumps([n.id for n in nodes]),
                **({"queue_timeouts": 1} if any(n.queue_ms for n in nodes) else {}),
                # Whether some nodes are more important than others: only then a claim looks for them.
                "mixed": int(len({round(n.order / 1e6) for n in nodes if n.id != INTEGRATE}) > 1),
            },
        )
        pipe.set(keys.part(run_id, "plan"), plan)
        if budget:
            pipe.hset(keys.part(run_id, "budget"), mapping=cast("Any", dict(budget)))
        for node in nodes:
            pipe.hset(keys.node(run_id, node.id), mapping=cast("Any", node.fields()))
        pipe.sadd(keys.part(run_id, "open"), *(n.id for n in nodes))
        ready = {n.id: now for n in nodes if not n.parents}
        pipe.zadd(keys.part(run_id, "ready"), cast("Any", ready))
        for queue, count in Counter(n.queue or n.role for n in nodes if not n.parents).items():
            pipe.hincrby(keys.hungry(queue), run_id, count)
        if run.get("exclusive"):
            pipe.zadd(keys.project_line(str(run.get("project", ""))), {run_id: now_us})
        pipe.expire(keys.durations(str(run.get("project", ""))), keys.DURATIONS_TTL_S)
        pipe.zadd(keys.RUNS, {run_id: now})
        pipe.sadd(keys.OPEN, run_id)
        pipe.sadd(keys.ROLES, *{n.role for n in nodes if n.id != INTEGRATE} or {"implementer"})
        queues = {n.queue or n.role for n in nodes if n.id != INTEGRATE}
        if queues:
            pipe.sadd(keys.QUEUES, *queues)
        event = {"kind": "run.opened", "at": now, "state": "open", "reason": str(run.get("feature", ""))}
        pipe.xadd(keys.part(run_id, "events"), cast("Any", event))
        pipe.xadd(keys.EVENTS, cast("Any", {**event, "run": run_id}), maxlen=10_000, approximate=True)
        put_event(pipe, {**event, "run": run_id, "node": "", "attempt": 0})
        pipe.execute()

    def _guards(
        self, run: Mapping[str, str | int], nodes: Sequence[NodeSpec], budget: Mapping[str, int] | None
    ) -> str:
        """Which gates a claim must ask besides the usual ones: b(udget), c(omplexity)."""
        has_budget = bool(budget) or self.has_day_budget(str(run.get("project", "")))
        return "b" * has_budget + "c" * any(n.complexity for n in nodes)

    def note(self, run_id: str, kind: str, reason: str) -> None:
        """Put an event on the run's stream that is no transition of a node."""
        event: Any = {"kind": kind, "at": self.now_ms(), "reason": reason[:600]}
        self.client.xadd(keys.part(run_id, "events"), event)

    def close(
        self, run_id: str, state: RunState, *, result: str = "", reason: str = "", fence: int | None = None
    ) -> Answer | None:
        """Close a run whose integration has settled (under `fence`), or mark a finished one as landed.

        None when it was closed already, or the integration is somebody else's by now. An exclusive run gives
        back what it holds, but keeps it for an hour when it is ready to land.
        """
        allowed = RunState.READY_TO_LAND.value if state is RunState.LANDED else _UNFINISHED
        answer = scripts.transition(
            self.client,
            "close",
            run_id,
            state.value,
            allowed,
            result,
            reason[:REASON_CAP],
            keys.CLOSED_TTL_S,
            keys.HOLD_MS,
            "" if fence is None else fence,
            _ENDED,
        )
        return answer if answer.head[0] == "closed" else None

    def reopen(self, run_id: str, *, onto: str = "") -> Answer | None:
        """Open a closed run again; None when it is not one that can be reopened.

        `onto`: a run that is ready to land, whose target moved to this commit: integrate again on it.
        """
        allowed = RunState.READY_TO_LAND.value if onto else _REOPENABLE
        answer = scripts.transition(self.client, "reopen", run_id, allowed, onto)
        return answer if answer.head[0] == "reopened" else None

    def landed_as(self, run_id: str, branch: str) -> None:
        """Note the branch that the result went to (a name that was taken gets a suffix)."""
        self.client.hset(keys.run(run_id), "branch", branch)

    def release(self, run_id: str) -> Answer:
        """Let a finished exclusive run give back what it holds."""
        return scripts.transition(self.client, "unbar", run_id)

    def overdue(self) -> list[str]:
        """Exclusive runs that have been ready to land for an hour and still hold their paths."""
        return cast("list[str]", self.client.zrangebyscore(keys.HOLDING, "-inf", self.now_ms()))

    def forget(self, run_id: str) -> Answer:
        """Remove every key of a closed run."""
        answer = self.release(run_id)
        order = [n.id for n in self.nodes(run_id).values()]
        self.client.zrem(keys.RUNS, run_id)
        self.client.delete(*keys.parts(run_id), *(keys.node(run_id, node) for node in order))
        return answer

    def is_closed(self, run_id: str) -> bool:
        """Whether the run has come to an end."""
        return self.run(run_id).state in CLOSED

    # -- an attempt ----------------------------------------------------------------------------

    def claim(self, run_id: str, node: str, *, worker: str, ttl_ms: int) -> Claim:
        """Ask for a node; admission is checked in the same step."""
        answer = scripts.transition(self.client, "claim", run_id, node, worker, ttl_ms, _CLAIMABLE)
        verdict, a, b, c, d = answer.head
        if verdict != "granted":
            return Claim(verdict, a, 0, 0, (), 0, answer)
        return Claim(verdict, "", int(a), int(b), tuple(c.split("\n")) if c else (), int(d), answer)

    def renew(self, held: Iterable[tuple[str, str, int]], *, ttl_ms: int) -> dict[tuple[str, str, int], str]:
        """Extend the leases of all of a worker's attempts; those that must end, and why."""
        args: list[str | int] = []
        for run_id, node, fence in held:
            args += [run_id, node, fence]
        if not args:
            return {}
        raw = scripts.call(self.client, "renew", "", ttl_ms, *args)
        lost: dict[tuple[str, str, int], str] = {}
        for member, why in zip(raw[::2], raw[1::2], strict=True):
            run_id, node, fence_text = str(member).rsplit("|", 2)
            lost[run_id, node, int(fence_text)] = str(why)
        return lost

    def settle(
        self,
        run_id: str,
        node: str,
        fence: int,
        state: NodeState,
        *,
        reason: str = "",
        commit: str = "",
        paths: Sequence[str] = (),
        seq: str = "",
        facts: Mapping[str, str | int | float] | None = None,
        text: str = "",
    ) -> Answer:
        """Record the end of an attempt.

        The head is `settled`, `superseded` (the token is old), or for an optimistic node (`seq` given)
        `moved` (others settled since: merge again) or `locked` (a path is held: wait).
        """
        return scripts.transition(
            self.client,
            "settle",
            run_id,
            node,
            fence,
            state.value,
            _ENDABLE[state],
            reason[:REASON_CAP],
            commit,
            "\n".join(paths),
            seq,
            json.dumps(dict(facts or {})),
            text[:TEXT_CAP],
        )

    def requeue(
        self,
        run_id: str,
        node: str,
        fence: int,
        *,
        reason: str,
        counter: str = "",
        delay_ms: int = 0,
        park: bool = False,
        facts: Mapping[str, str | int | float] | None = None,
        edges: Sequence[str] = (),
        cap: int | None = None,
        locks: Iterable[Lock] = (),
        given: bool = False,
    ) -> Answer:
        """End an attempt whose node comes back: now, after `delay_ms`, or when woken (`park`).

        The head is `requeued`, `superseded`, or `quarantined`: what `counter` counts (`failures`, `losses`,
        `conflicts`, `troubles`) has come to its cap, and the node has failed. `cap`: in place of the run's.
        `locks`: further ones that it comes back with; `given`: artifacts that it was given (docs/locks.md).
        """
        return scripts.transition(
            self.client,
            "requeue",
            run_id,
            node,
            fence,
            NodeState.RUNNING.value,
            counter,
            -1 if park else delay_ms,
            reason[:REASON_CAP],
            json.dumps(dict(facts or {})),
            "\n".join(edges),
            "" if cap is None else cap,
            "\n".join(lock.text for lock in locks),
            int(given),
        )

    def expire(self, run_id: str, node: str, fence: int, *, max_losses: int | None = None) -> Answer:
        """End an attempt whose worker is gone: ready again, or failed when that happened too often.

        `max_losses`: that many in vain are too often (None: what the run says).
        """
        why = "its worker is gone"
        return self.requeue(run_id, node, fence, reason=why, counter="losses", cap=max_losses)

    def expire_worker(self, name: str, *, reason: str = "") -> list[str]:
        """End at once all attempts of a worker that is known to be dead (its parent has reaped it).

        With a `reason` nothing is counted against them: somebody ended it. Returns `run/node` of each. The
        reconciler sends them again.
        """
        ended = []
        for run_id, node, fence in self.leases():
            if self.client.hget(keys.node(run_id, node), "worker") == name:
                if reason:
                    self.requeue(run_id, node, fence, reason=reason)
                else:
                    self.expire(run_id, node, fence)
                ended.append(f"{run_id}/{node}")
        return ended

    def due(self) -> list[tuple[str, Answer]]:
        """Make the delayed nodes ready whose time has come; one answer per node."""
        members = cast("list[str]", self.client.zrangebyscore(keys.DELAYED, "-inf", self.now_ms()))
        allowed = NodeState.DELAYED.value
        out = []
        for member in members:
            run_id, node = member.split("|", 1)
            out.append((run_id, scripts.transition(self.client, "due", run_id, node, allowed)))
        return out
