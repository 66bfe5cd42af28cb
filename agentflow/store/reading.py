"""What can be asked of the ledger; nothing here changes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

import redis

from agentflow.errors import UsageError
from agentflow.spec.artifacts import Lock
from agentflow.states import TERMINAL, NodeState, RunState
from agentflow.store import keys
from agentflow.store.records import INTEGRATE, NodeRecord, RunRecord, WorkerRecord


class RunNotFoundError(UsageError):
    """The ledger has no run of that name."""

    code = "AF-RUN-001"


class Reading:
    """Queries on one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def now_ms(self) -> int:
        """Redis' clock, the one that shared facts are stamped with."""
        return self.now_us() // 1000

    def now_us(self) -> int:
        """The same in microseconds, for what must be told apart that comes in the same moment."""
        seconds, micros = self.client.time()
        return int(seconds) * 1_000_000 + int(micros)

    def run(self, run_id: str) -> RunRecord:
        """One run; raises `RunNotFoundError`."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.run(run_id)))
        if not raw:
            raise RunNotFoundError(
                f"there is no run {run_id!r}",
                fix="`agentflow runs` lists the runs that are known here",
            )
        return _run(run_id, raw)

    def runs(self) -> list[RunRecord]:
        """All known runs, newest first (a run whose keys have expired is left out)."""
        ids = cast("list[str]", self.client.zrevrange(keys.RUNS, 0, -1))
        pipe = self.client.pipeline(transaction=False)
        for run_id in ids:
            pipe.hgetall(keys.run(run_id))
        return [_run(i, raw) for i, raw in zip(ids, pipe.execute(), strict=True) if raw]

    def open_runs(self) -> list[str]:
        """Ids of the runs that are not closed."""
        return sorted(cast("set[str]", self.client.smembers(keys.OPEN)))

    def unfinished(self, run_id: str) -> set[str]:
        """Nodes that have not come to their end, the integration among them."""
        return cast("set[str]", self.client.smembers(keys.part(run_id, "open")))

    def plan(self, run_id: str) -> dict[str, Any]:
        """The run's plan as it was submitted."""
        raw = cast("str | None", self.client.get(keys.part(run_id, "plan")))
        if raw is None:
            raise RunNotFoundError(f"the plan of run {run_id!r} is not in the ledger")
        return cast("dict[str, Any]", json.loads(raw))

    def generation(self, run_id: str) -> int:
        """How often the run was opened; part of every chord's id."""
        return int(cast("str | None", self.client.hget(keys.run(run_id), "generation")) or 1)

    def nodes(self, run_id: str) -> dict[str, NodeRecord]:
        """Every node of a run in the plan's order, the integration last."""
        raw = cast("str | None", self.client.hget(keys.run(run_id), "order"))
        if raw is None:
            raise RunNotFoundError(f"there is no run {run_id!r}", fix="`agentflow runs` lists the runs")
        return self.some_nodes(run_id, json.loads(raw))

    def some_nodes(self, run_id: str, ids: list[str]) -> dict[str, NodeRecord]:
        """The named nodes of a run, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for node in ids:
            pipe.hgetall(keys.node(run_id, node))
        return {n: _node(n, raw) for n, raw in zip(ids, pipe.execute(), strict=True) if raw}

    def node(self, run_id: str, node: str) -> NodeRecord:
        """One node; raises `RunNotFoundError`."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.node(run_id, node)))
        if not raw:
            self.run(run_id)
            raise RunNotFoundError(
                f"run {run_id} has no node {node!r}", fix=f"`agentflow status {run_id}` lists its nodes"
            )
        return _node(node, raw)

    def fields(self, run_id: str, node: str, *names: str) -> tuple[str, ...]:
        """Raw fields of a node, '' where absent."""
        raw = cast("list[str | None]", self.client.hmget(keys.node(run_id, node), list(names)))
        return tuple(value or "" for value in raw)

    def texts(self, run_id: str) -> dict[str, str]:
        """Hand-offs and reports by node."""
        return cast("dict[str, str]", self.client.hgetall(keys.part(run_id, "texts")))

    def sequence(self, run_id: str) -> str:
        """How many pieces of work have settled; moves with each."""
        return str(self.client.hget(keys.run(run_id), "seq") or "0")

    def settled(self, run_id: str) -> list[str]:
        """Nodes with settled work, in the order of settlement."""
        return cast("list[str]", self.client.zrange(keys.part(run_id, "settled"), 0, -1))

    def leases(self) -> dict[tuple[str, str, int], int]:
        """Running attempts (run, node, fence) and the ends of their leases (ms)."""
        raw = cast("list[tuple[str, float]]", self.client.zrange(keys.LEASES, 0, -1, withscores=True))
        out = {}
        for member, end in raw:
            run_id, node, fence = member.split("|")
            out[run_id, node, int(fence)] = int(end)
        return out

    def system_events(self, count: int = keys.SYSTEM_EVENTS_MAX) -> list[dict[str, Any]]:
        """The newest transitions and deeds on the fleet, newest first, as they stand on the list."""
        raw = cast("list[str]", self.client.lrange(keys.SYSTEM_EVENTS, 0, count - 1))
        return [json.loads(entry) for entry in raw]

    def ready(self, run_id: str) -> dict[str, int]:
        """Ready nodes and since when (ms)."""
        raw = cast(
            "list[tuple[str, float]]", self.client.zrange(keys.part(run_id, "ready"), 0, -1, withscores=True)
        )
        return {node: int(since) for node, since in raw}

    def workers(self) -> list[WorkerRecord]:
        """Registered workers, by name."""
        names = sorted(cast("list[str]", self.client.zrange(keys.WORKER_NAMES, 0, -1)))
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(keys.worker(name))
        found = zip(names, cast("list[dict[str, str]]", pipe.execute()), strict=True)
        return [_worker(name, raw) for name, raw in found if raw]

    def unserved(self, queues: Iterable[str]) -> list[str]:
        """Those of the queues that no registered worker of this version consumes, sorted."""
        now_ms = self.now_ms()
        workers = [w for w in self.workers() if w.schema == keys.SCHEMA_VERSION and not w.is_dead(now_ms)]
        if any(w.every for w in workers):
            return []
        served = {queue for w in workers for queue in w.queues}
        return sorted(set(queues) - served)

    def unserved_of(self, run_id: str) -> list[str]:
        """Queues that the run's unfinished nodes go through and that nobody consumes."""
        pipe = self.client.pipeline(transaction=False)
        for node in cast("set[str]", self.client.smembers(keys.part(run_id, "open"))) - {INTEGRATE}:
            pipe.hmget(keys.node(run_id, node), ["queue", "role"])
        raw = cast("list[tuple[str | None, str | None]]", pipe.execute())
        return self.unserved(queue or role or "" for queue, role in raw)

    def why(self, run_id: str, node_id: str) -> str:
        """Why a node is where it is, derived from the ledger alone."""
        node = self.node(run_id, node_id)
        if node.state is NodeState.PENDING:
            # The integration waits for everybody, not only for the ends of the DAG.
            whole = node_id == INTEGRATE
            parents = self.nodes(run_id) if whole else self.some_nodes(run_id, list(node.parents))
            waits = [
                f"{p.id} ({p.state})" for p in parents.values() if p.state not in TERMINAL and p.id != node_id
            ]
            return "waits for " + ", ".join(waits)
        if node.state in (NodeState.READY, NodeState.PARKED):
            # Before what the node was told: nobody asks again for it, so that may be over by now.
            standing = self.run(run_id).standing if node_id != INTEGRATE else ""
            return _why_held(node, standing) or self._why_ready(run_id, node)
        if node.state is NodeState.RUNNING:
            lacks = self._throttled(run_id, node)
            where = f"is running: attempt {node.attempt} on {node.worker}"
            return f"{where}; waits, {lacks}" if lacks else where
        if node.state is NodeState.DELAYED:
            back_off = "" if node.reason.startswith("provider:") else "for its back-off: "
            return f"waits {back_off}{node.reason}"
        if node.state is NodeState.SUCCEEDED:
            return f"succeeded in attempt {node.attempt}" + (f" as {node.commit[:12]}" if node.commit else "")
        return f"is {node.state}: {node.reason}" if node.reason else f"is {node.state}"

    def _throttled(self, run_id: str, node: NodeRecord) -> str:
        """What the provider of a running attempt lacks for its next call; '' when it waits for nothing."""
        (said,) = self.fields(run_id, node.id, "throttled")
        fence, _, rest = said.partition("|")
        return rest.partition("|")[2] if fence == str(node.fence) else ""

    def _why_ready(self, run_id: str, node: NodeRecord) -> str:
        drained, reason = cast("list[str | None]", self.client.hmget(keys.ORDERS, ["state", "reason"]))
        if drained:
            return f"is ready, but the fleet is drained: {reason}"
        if node.id == INTEGRATE:
            return "is ready; waits for a free slot of a worker that serves the system queue"
        (queue,) = self.fields(run_id, node.id, "queue")
        queue = queue or node.role
        if self.unserved([queue]):
            return (
                f"is ready, but no worker consumes the queue {queue} (role {node.role}): "
                f"start one with `agentflow worker --redis URL`, or `celery -A agentflow worker -Q {queue}`"
            )
        through = "" if queue == node.role else f" through the queue {queue}"
        held = [w for w in self.workers() if w.state == "held" and (w.every or queue in w.queues)]
        back = "".join(f"; {w.name} takes one at a time: {w.reason}" for w in held[:3])
        return f"is ready; waits for a free slot of a worker that serves role {node.role}{through}{back}"


def _why_held(node: NodeRecord, standing: str) -> str:
    """Why a node is parked, or ready in a run of which nothing starts (`RunRecord.standing`); else ''."""
    if node.state is NodeState.READY:
        return f"is ready, but {standing}" if standing else ""
    if not standing:
        return f"is parked: {node.reason}" if node.reason else "is parked"
    told = "" if node.reason.startswith("the run is ") or node.reason in standing else node.reason
    return f"is parked: {standing}" + (f" (told before: {told})" if told else "")


def _run(run_id: str, raw: Mapping[str, str]) -> RunRecord:
    return RunRecord(
        id=run_id,
        state=RunState(raw["state"]),
        feature=raw.get("feature", ""),
        project=raw.get("project", ""),
        repo=raw.get("repo", ""),
        root=raw.get("root", ""),
        base=raw.get("base", ""),
        branch=raw.get("branch", ""),
        onto=raw.get("onto", ""),
        target=raw.get("target", ""),
        detached=raw.get("detached") == "1",
        transport=raw.get("transport", "alternates"),
        host=raw.get("host", ""),
        result=raw.get("result", ""),
        reason=raw.get("reason", ""),
        running=_int(raw, "in_flight"),
        **{
            name: _int(raw, name)
            for name in (
                "opened_ms",
                "since_ms",
                "closed_ms",
                "generation",
                "seq",
                "nodes_total",
                "nodes_left",
                "max_concurrent",
                "timeout_ms",
            )
        },
    )


def _node(node_id: str, raw: Mapping[str, str]) -> NodeRecord:
    texts = (
        "role",
        "output",
        "reason",
        "base",
        "commit",
        "worker",
        "code",
        "summary",
        "verdict",
        "feedback",
        "fix",
        "conflict",
        "pending_commit",
        "pending_text",
        "digest",
        "reused",
    )
    numbers = (
        "attempt",
        "failures",
        "losses",
        "conflicts",
        "troubles",
        "fence",
        "ready_ms",
        "started_ms",
        "ended_ms",
        "lease_ms",
        "busy_ms",
        "settled_fence",
    )
    fields: dict[str, Any] = {name: raw.get(name, "") for name in texts}
    fields |= {name: _int(raw, name) for name in numbers}
    return NodeRecord(
        id=node_id,
        state=NodeState(raw["state"]),
        parents=tuple(json.loads(raw.get("parents", "[]"))),
        edges=tuple(json.loads(raw.get("edges", "[]"))),
        locks=_locks(raw, "locks"),
        extension=_locks(raw, "extension"),
        optional=raw.get("optional") == "1",
        usage=json.loads(raw.get("usage") or "{}"),
        findings=tuple(json.loads(raw.get("findings") or "[]")),
        tests=json.loads(raw.get("tests") or "{}"),
        **fields,
    )


def _locks(raw: Mapping[str, str], name: str) -> tuple[Lock, ...]:
    return tuple(map(Lock.of, json.loads(raw.get(name) or "[]")))


def _worker(name: str, raw: Mapping[str, str]) -> WorkerRecord:
    return WorkerRecord(
        name=name,
        pid=_int(raw, "pid"),
        host=raw.get("host", ""),
        slots=_int(raw, "slots"),
        roles=tuple(raw.get("roles", "").split()),
        schema=raw.get("schema", ""),
        seen_ms=_int(raw, "seen_ms"),
        busy=_int(raw, "busy"),
        queues=tuple(raw.get("queues", "").split()),
        every=raw.get("every") == "1",
        state=raw.get("state", ""),
        reason=raw.get("reason", ""),
        room=int(raw.get("room") or -1),
        running=tuple(raw.get("running", "").split()),
        memory_mb=_int(raw, "memory_mb"),
        load=float(raw.get("load") or 0),
        place=raw.get("place", ""),
        started_ms=_int(raw, "started_ms"),
        born=raw.get("born", ""),
    )


def _int(raw: Mapping[str, str], name: str) -> int:
    return int(float(raw.get(name) or 0))
