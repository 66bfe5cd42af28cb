"""Putting back what a ledger has lost, and taking back what it has: for recovery and for rollback.

What is written down of a node (`node_facts`) is what its settlement and its attempts added to it; the rest
comes from the plan. A run that is planted again is closed and failed at first, so that nothing of it starts
before all of its settled work is adopted; `reopen` then begins a new generation.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import redis

from agentflow.states import CLOSED, NodeState, RunState
from agentflow.store import keys, scripts
from agentflow.store.ledger import Ledger, NodeSpec
from agentflow.store.records import INTEGRATE
from agentflow.store.scripts import Answer

#: Added to the fence of a node that is restored: no attempt of before can have had a higher one.
FENCE_STEP = 1 << 32
#: What a restored run says of itself until it is opened again.
RESTORED = "its ledger was lost; restored from its journal"
#: Fields of a node that are not in the plan.
_NODE_FACTS = (
    "state",
    "fence",
    "attempt",
    "failures",
    "losses",
    "conflicts",
    "edges",
    "locks",
    "extension",
    "base",
    "commit",
    "worker",
    "reason",
    "code",
    "fix",
    "feedback",
    "summary",
    "verdict",
    "findings",
    "tests",
    "usage",
    "digest",
    "reused",
    "undone",
    "started_ms",
    "ended_ms",
    "busy_ms",
)
#: Fields of a run that say where it is, not what it is.
_MOVING = frozenset(
    {
        "state",
        "generation",
        "seq",
        "in_flight",
        "nodes_left",
        "since_ms",
        "closed_ms",
        "reason",
        "result",
        "branch",
        "onto",
        "stopped",
        "landing",
        "failed_nodes",
        "breaker_trips",
        "breaker_till",
        "holds",
        "turn",
        "arrivals",
        "still_ms",
    }
)
#: Fields of a closed run that are written down with its end.
_CLOSING = ("state", "result", "reason", "branch", "onto", "closed_ms")
_NOT_SUCCEEDED = ",".join(state.value for state in NodeState if state is not NodeState.SUCCEEDED)


def run_facts(client: redis.Redis, run_id: str) -> dict[str, str | int]:
    """What a run is, as it can be planted again."""
    raw = cast("dict[str, str]", client.hgetall(keys.run(run_id)))
    return {name: value for name, value in raw.items() if name not in _MOVING}


def closing_facts(client: redis.Redis, run_id: str) -> dict[str, str]:
    """How a closed run has ended; empty for one that goes on."""
    raw = cast("list[str | None]", client.hmget(keys.run(run_id), list(_CLOSING)))
    found = {name: value or "" for name, value in zip(_CLOSING, raw, strict=True)}
    return found if found["state"] in CLOSED else {}


def node_facts(client: redis.Redis, run_id: str, nodes: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the ledger has on these nodes besides the plan: `fields`, `text`, `place` in the settled
    sequence.
    """
    wanted = list(nodes)
    pipe = client.pipeline(transaction=True)
    for node in wanted:
        pipe.hmget(keys.node(run_id, node), list(_NODE_FACTS))
        pipe.hget(keys.part(run_id, "texts"), node)
        pipe.zscore(keys.part(run_id, "settled"), node)
    answers = pipe.execute()
    found = {}
    for at, node in enumerate(wanted):
        values, text, place = answers[3 * at : 3 * at + 3]
        fields = {name: value for name, value in zip(_NODE_FACTS, values, strict=True) if value}
        found[node] = {"fields": fields, "text": text or "", "place": int(place or 0)}
    return found


def budget_facts(client: redis.Redis, run_id: str) -> dict[str, int]:
    """Limits of a run and what is spent of them, as the ledger keeps them; reservations are left out."""
    raw = cast("dict[str, str]", client.hgetall(keys.part(run_id, "budget")))
    return {name: int(value) for name, value in raw.items() if name.startswith(("limit:", "spent:"))}


def carry_over(client: redis.Redis, run_id: str, budget: Mapping[str, int]) -> None:
    """Let a run have spent at least this much. Limits that it has stay; bills that come meanwhile count, and
    who carries over at the same time (a resume in another terminal) adds nothing twice.
    """
    key = keys.part(run_id, "budget")

    def add(pipe: redis.client.Pipeline) -> None:
        known = budget_facts(pipe, run_id)
        pipe.multi()
        for name, value in budget.items():
            if name.startswith("limit:"):
                pipe.hsetnx(key, name, str(value))
            elif value > known.get(name, 0):
                pipe.hset(key, name, str(value))

    # What moves in between is read again.
    client.transaction(add, key)


def plant(
    ledger: Ledger,
    run: Mapping[str, str | int],
    specs: Sequence[NodeSpec],
    plan: str,
    *,
    nodes: Mapping[str, Mapping[str, Any]],
    generation: int,
    closing: Mapping[str, str],
) -> None:
    """Write a run that the ledger has not, as a closed one, in one transaction; whoever is first does it.

    `nodes` are its `node_facts`; what has succeeded is to be adopted afterwards. `closing`: how it had ended,
    empty for one that had not.
    """
    run_id = str(run["id"])
    now = ledger.now_ms()
    floor = max([int(facts["fields"].get("fence", 0)) for facts in nodes.values()] or [0]) + FENCE_STEP
    pipe = ledger.client.pipeline(transaction=True)
    # Typed in two terminals: by now the other one may have opened it again.
    cast("Any", pipe).watch(keys.run(run_id))
    if pipe.hexists(keys.run(run_id), "state"):
        pipe.reset()
        return
    pipe.multi()
    end = {"state": RunState.FAILED.value, "reason": RESTORED, "closed_ms": str(now), **closing}
    moving = {"generation": generation, "seq": 0, "in_flight": 0, "nodes_left": 0, "since_ms": now}
    pipe.hset(keys.run(run_id), mapping=cast("Any", {**run, **moving, **end}))
    pipe.set(keys.part(run_id, "plan"), plan)
    for spec in specs:
        known = dict(nodes.get(spec.id, {}).get("fields", {}))
        # What has succeeded is adopted afterwards, but for the integration, which makes no work of its own.
        ended = known.get("state") in (NodeState.FAILED, NodeState.SKIPPED)
        ended = ended or (spec.id == INTEGRATE and bool(closing) and "state" in known)
        known |= {"state": known["state"] if ended else NodeState.CANCELLED.value, "fence": str(floor)}
        pipe.hset(keys.node(run_id, spec.id), mapping=cast("Any", {**spec.fields(), **known}))
        pipe.expire(keys.node(run_id, spec.id), keys.CLOSED_TTL_S)
    pipe.zadd(keys.RUNS, {run_id: int(run.get("opened_ms", now))})
    others = [spec for spec in specs if spec.id != INTEGRATE]
    pipe.sadd(keys.ROLES, *{spec.role for spec in others} or {"implementer"})
    pipe.sadd(keys.QUEUES, *{spec.queue or spec.role for spec in others} or {"implementer"})
    event = {"kind": "run.restored", "at": now, "state": end["state"], "reason": RESTORED}
    pipe.xadd(keys.part(run_id, "events"), cast("Any", event))
    for key in keys.parts(run_id):
        pipe.expire(key, keys.CLOSED_TTL_S)
    with contextlib.suppress(redis.WatchError):
        pipe.execute()


def adopt(
    ledger: Ledger,
    run_id: str,
    nodes: Mapping[str, Mapping[str, Any]],
    paths: Mapping[str, Sequence[str]],
    *,
    generation: int,
) -> tuple[int, Answer]:
    """Take work into a run that settled it and lost it; how many nodes it was.

    `nodes` are `node_facts` of such as have succeeded, `paths` what their commits write. The fences of what
    is adopted go far up; a node that has succeeded in the ledger too stays as it is there.
    """
    listed = [
        {
            "node": node,
            "facts": json.dumps(facts["fields"]),
            "text": facts["text"],
            "paths": "\n".join(paths.get(node, ())),
        }
        for node, facts in sorted(nodes.items(), key=lambda item: item[1]["place"])
    ]
    answer = scripts.transition(
        ledger.client,
        "adopt",
        run_id,
        _NOT_SUCCEEDED,
        generation,
        FENCE_STEP,
        keys.CLOSED_TTL_S,
        json.dumps(listed),
    )
    return int(answer.head[1]), answer


def undo(
    ledger: Ledger,
    run_id: str,
    nodes: Iterable[str],
    kept: Sequence[tuple[str, Sequence[str]]],
    *,
    reason: str,
    state: RunState | None = None,
    seen: RunState | None = None,
) -> Answer | None:
    """Let what these nodes of a closed run have settled count no longer; None when the run is not closed, or
    lands just now.

    `kept` is the rest that has settled, oldest first, each with the paths that it writes. `state`: what the
    run is afterwards (as it is). `seen`: the state that the run must be in (None: any closed one).
    """
    listed = [{"node": node, "paths": "\n".join(paths)} for node, paths in kept]
    answer = scripts.transition(
        ledger.client,
        "undo",
        run_id,
        seen.value if seen else ",".join(sorted(CLOSED)),
        state.value if state else "",
        reason,
        "\n".join(nodes),
        json.dumps(listed),
        keys.CLOSED_TTL_S,
    )
    return answer if answer.head[0] == "undone" else None
