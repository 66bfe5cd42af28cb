"""Compiles a plan into Celery canvas objects, segment by segment.

The reduced DAG is cut into *segments*: linear pieces of at most 16 nodes, ended also by an optional
node. Each segment is a `chain`, each fork a `group`, each join a `chord` whose header is the join's
parents and whose body is the join's segment; joins with the same parents share one chord whose body
is a `group`. What follows a cut continues by a chord of one. The feature ends in the chord whose
body is the integration. A message carries its own segment only; everything else is computed here,
from the plan, by whoever needs it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery, chain, chord, group
from celery.canvas import Signature

from agentflow.canvas.plan import Plan
from agentflow.canvas.routing import (
    INTEGRATE_PRIORITY,
    INTEGRATE_TASK,
    SYSTEM_QUEUE,
    WOKEN_PRIORITY,
    queue_of,
    task_name,
)

#: Nodes in one chain at the most: keeps a message below 64 KB.
SEGMENT_MAX = 16
INTEGRATE = "@integrate"


@dataclass(frozen=True, slots=True)
class Join:
    """One chord: its header's nodes, and the heads of the segments that are its body."""

    id: str
    parents: tuple[str, ...]
    heads: tuple[str, ...]


class Canvas:
    """The canvas of one generation of a run. Cheap to build: signatures are made when asked for."""

    def __init__(self, plan: Plan, run_id: str, generation: int, app: Celery) -> None:
        self.plan = plan
        self.run_id = run_id
        self.generation = generation
        self.app = app
        self._parents = plan.parents
        self._children = _children(self._parents)
        self.segments = self._cut()
        self._segment_of = {node: seg for seg in self.segments.values() for node in seg}
        self.joins, self._joins_of = self._make_joins()
        self._bodies: dict[str, Signature[Any]] = {}

    # -- shape -----------------------------------------------------------------------------------

    def _cut(self) -> dict[str, tuple[str, ...]]:
        """Segments by head, in the order of the plan."""
        heads: dict[str, tuple[str, ...]] = {}
        taken: set[str] = set()
        for node in (n.id for n in self.plan.nodes):
            if node in taken:
                continue
            segment = [node]
            while (follower := self._follower(segment[-1])) and len(segment) < SEGMENT_MAX:
                segment.append(follower)
            taken.update(segment)
            heads[node] = tuple(segment)
        return heads

    def _follower(self, node: str) -> str | None:
        """The node that follows in the same chain, when the piece is linear there."""
        children = self._children.get(node, ())
        if len(children) != 1 or self.plan.by_id[node].optional:
            return None
        return children[0] if len(self._parents[children[0]]) == 1 else None

    def _make_joins(self) -> tuple[dict[str, Join], dict[str, tuple[Join, ...]]]:
        """Chords by id, and for each node those that it is in the header of."""
        heads_by_parents: dict[tuple[str, ...], list[str]] = {}
        for head in self.segments:
            parents = tuple(sorted(self._parents[head]))
            if parents and not self._is_fork_member(head):
                heads_by_parents.setdefault(parents, []).append(head)
        heads_by_parents.setdefault(tuple(sorted(self.plan.sinks)), []).append(INTEGRATE)
        joins: dict[str, Join] = {}
        by_parent: dict[str, list[Join]] = {}
        for parents, heads in heads_by_parents.items():
            name = hashlib.sha256("\n".join(parents).encode()).hexdigest()[:16]
            join = Join(f"{self.run_id}:{name}:{self.generation}", parents, self._by_rank(heads))
            joins[join.id] = join
            for parent in parents:
                by_parent.setdefault(parent, []).append(join)
        return joins, {parent: tuple(found) for parent, found in by_parent.items()}

    def _is_fork_member(self, head: str) -> bool:
        """Whether the segment is sent by its one parent directly (not through a chord of one)."""
        parents = self._parents[head]
        return (
            len(parents) == 1
            and len(self._children[parents[0]]) > 1
            and not self.plan.by_id[parents[0]].optional
        )

    def joins_of(self, node: str) -> tuple[Join, ...]:
        """The chords that `node` arrives in when it ends."""
        return self._joins_of.get(node, ())

    # -- Celery objects ----------------------------------------------------------------------------

    def signature(self, node: str) -> Signature[Any]:
        """One node as an immutable signature: ids, routed and prioritised."""
        if node == INTEGRATE:
            name, queue, priority = INTEGRATE_TASK, SYSTEM_QUEUE, INTEGRATE_PRIORITY
        else:
            planned = self.plan.by_id[node]
            name, queue, priority = task_name(planned.role), self.queue_of(node), planned.message_priority
        label = f"({self.run_id}, {node})"
        return self.app.signature(
            name,
            args=(self.run_id, node),
            immutable=True,
            queue=queue,
            priority=priority,
            shadow=f"{name.rsplit('.', 1)[-1]} {node}",
            argsrepr=label,
            kwargsrepr="{}",
        )

    def queue_of(self, node: str) -> str:
        """The queue that the node's message goes through."""
        if node == INTEGRATE:
            return SYSTEM_QUEUE
        planned = self.plan.by_id[node]
        return queue_of(planned.role, planned.queue)

    def tail(self, node: str, *, woken: bool = False) -> Signature[Any]:
        """The segment of `node` from `node` on: a chain, or one signature.

        A `woken` node holds its room already, so its message is served before any that only asks for some.
        """
        first = self.signature(node)
        if woken:
            first.set(priority=WOKEN_PRIORITY)
        if node == INTEGRATE:
            return first
        segment = self._segment_of[node]
        rest = segment[segment.index(node) + 1 :]
        return chain(first, *map(self.signature, rest)) if rest else first

    def tails(self, nodes: Sequence[str], *, woken: bool = False) -> Signature[Any]:
        """Several segments to be sent together: a group (one segment: itself)."""
        found = [self.tail(n, woken=woken) for n in nodes]
        return group(found) if len(found) > 1 else found[0]

    def fork(self, node: str) -> list[str]:
        """Heads of the segments that `node` sends itself when it has succeeded."""
        kids = self._children.get(node, ())
        return list(self._by_rank([c for c in kids if c in self.segments and self._is_fork_member(c)]))

    def body(self, join: Join) -> Signature[Any]:
        """What a chord fires; built once, since every arrival names it."""
        found = self._bodies.get(join.id)
        if found is None:
            found = self._bodies[join.id] = self.tails(join.heads)
        return found

    def chord(self, join: Join) -> Signature[Any]:
        """The chord as Celery would write it; sent member by member (see `chords`)."""
        return chord(group([self.signature(p) for p in join.parents]), self.body(join))

    def roots(self) -> list[str]:
        """Heads of the segments that start at once."""
        return list(self._by_rank([head for head in self.segments if not self._parents[head]]))

    def _by_rank(self, heads: Sequence[str]) -> tuple[str, ...]:
        """What is sent at once is sent in its order: a queue serves equal message priorities as they came."""
        if INTEGRATE in heads:
            return tuple(heads)
        return tuple(sorted(heads, key=lambda head: self.plan.by_id[head].order))


def _children(parents: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for node, its_parents in parents.items():
        for parent in its_parents:
            found.setdefault(parent, []).append(node)
    return {node: tuple(kids) for node, kids in found.items()}


@functools.lru_cache(maxsize=8)
def parse_plan(text: str) -> Plan:
    """A plan from its JSON; the last few are remembered."""
    return Plan.model_validate_json(text)
