"""Pure algorithms over a DAG given as `node -> the nodes that it needs` (its parents).

Sets of nodes are bit sets held in integers, so that a thousand nodes with ninety thousand edges take
well under a second. Every order is stable: ties keep the order of the mapping.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping

from agentflow.errors import AgentflowError, Exit

Parents = Mapping[str, Collection[str]]


class CycleError(AgentflowError):
    """The edges run in a circle; `path` is one of them, its first node repeated at the end."""

    code = "AF-SPEC-022"
    exit_code = Exit.SPEC

    def __init__(self, path: list[str]) -> None:
        self.path = path
        super().__init__(f"cycle: {' -> '.join(path)}", fix="remove one of these needs")


def find_cycle(parents: Parents) -> list[str]:
    """One circle as a path along the needs, first node repeated at the end; empty when there is none.

    Parents that are not nodes are passed over.
    """
    done: set[str] = set()
    for start in parents:
        if start not in done:
            cycle = _cycle_from(start, parents, done)
            if cycle:
                return cycle
    return []


def _cycle_from(start: str, parents: Parents, done: set[str]) -> list[str]:
    """Depth first without recursion: a chain may be longer than Python's stack."""
    path, on_path = [start], {start}
    stack: list[Iterator[str]] = [iter(parents[start])]
    while stack:
        following = next(stack[-1], None)
        if following is None:
            stack.pop()
            leaving = path.pop()
            on_path.discard(leaving)
            done.add(leaving)
        elif following in on_path:
            return [*path[path.index(following) :], following]
        elif following not in done and following in parents:
            path.append(following)
            on_path.add(following)
            stack.append(iter(parents[following]))
    return []


def children(parents: Parents) -> dict[str, list[str]]:
    """The nodes that need each node, in the order of the mapping."""
    found: dict[str, list[str]] = {node: [] for node in parents}
    for node, needs in parents.items():
        for need in dict.fromkeys(needs):
            found[need].append(node)
    return found


def topological(parents: Parents) -> list[str]:
    """Every node after all that it needs; among the free ones the first of the mapping comes first.

    Raises `CycleError`, and `KeyError` for a parent that is not a node.
    """
    position = {node: index for index, node in enumerate(parents)}
    names = list(parents)
    missing = {node: len(set(needs)) for node, needs in parents.items()}
    below = children(parents)
    free = [position[node] for node, count in missing.items() if count == 0]
    order: list[str] = []
    while free:
        node = names[heapq.heappop(free)]
        order.append(node)
        for child in below[node]:
            missing[child] -= 1
            if missing[child] == 0:
                heapq.heappush(free, position[child])
    if len(order) < len(names):
        raise CycleError(find_cycle(parents))
    return order


def _ancestor_bits(parents: Parents, order: list[str]) -> dict[str, int]:
    """All that comes before each node, as bits by position in `order`."""
    bit = {node: 1 << index for index, node in enumerate(order)}
    found: dict[str, int] = {}
    for node in order:
        bits = 0
        for need in parents[node]:
            bits |= found[need] | bit[need]
        found[node] = bits
    return found


def _members(bits: int, order: list[str]) -> Iterator[str]:
    while bits:
        lowest = bits & -bits
        yield order[lowest.bit_length() - 1]
        bits ^= lowest


def ancestors(parents: Parents) -> dict[str, frozenset[str]]:
    """All nodes that come before each node."""
    order = topological(parents)
    bits = _ancestor_bits(parents, order)
    return {node: frozenset(_members(bits[node], order)) for node in parents}


def reduce(parents: Parents) -> dict[str, list[str]]:
    """The same DAG without edges that follow from others (transitive reduction), order kept."""
    order = topological(parents)
    before = _ancestor_bits(parents, order)
    position = {node: index for index, node in enumerate(order)}
    reduced: dict[str, list[str]] = {}
    for node, needs in parents.items():
        covered = 0
        # Later parents first: they may cover earlier ones, never the other way round.
        kept: set[str] = set()
        for need in sorted(set(needs), key=position.__getitem__, reverse=True):
            if not covered >> position[need] & 1:
                kept.add(need)
                covered |= before[need]
        reduced[node] = [need for need in dict.fromkeys(needs) if need in kept]
    return reduced


def waves(parents: Parents) -> list[list[str]]:
    """Nodes by the longest way to them from a start: those of one wave can run together."""
    depth: dict[str, int] = {}
    for node in topological(parents):
        depth[node] = 1 + max((depth[need] for need in parents[node]), default=-1)
    found: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in parents:
        found[depth[node]].append(node)
    return found


def upward_rank(parents: Parents, weight: Mapping[str, float]) -> dict[str, float]:
    """The weight of the longest way from each node to an end, itself included (Topcuoglu 2002)."""
    below = children(parents)
    rank: dict[str, float] = {}
    for node in reversed(topological(parents)):
        rank[node] = weight[node] + max((rank[child] for child in below[node]), default=0.0)
    return rank


def critical_path(parents: Parents, weight: Mapping[str, float]) -> list[str]:
    """The heaviest way from a start to an end; the first in the mapping's order among equals."""
    rank = upward_rank(parents, weight)
    below = children(parents)
    candidates = [node for node in parents if not parents[node]]
    path: list[str] = []
    while candidates:
        path.append(max(candidates, key=rank.__getitem__))
        candidates = below[path[-1]]
    return path
