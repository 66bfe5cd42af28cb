"""What a node may change: what its plan says, and what it was given while it ran."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.spec.artifacts import Lock, matches
from agentflow.store.ledger import Ledger
from agentflow.store.records import NodeRecord


@dataclass(frozen=True, slots=True)
class Scope:
    """Patterns: `writes` (None: everything that is not sensitive), `appends` at the end only, `kept` not at
    all.
    """

    writes: tuple[str, ...] | None = None
    appends: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def scope_of(node: PlanNode, extension: Iterable[Lock]) -> Scope:
    """What a node with these further locks may change.

    What it declares to write lies inside of what it declares to read, so it may be written. What is only
    known of its role does not: a file that the task itself keeps is not written.
    """
    given = {mode: _patterns(extension, mode) for mode in ("write", "append")}
    appends = (*node.appends, *given["append"])
    if not node.artifacts:
        return Scope(None, appends, _without(node.kept, given["write"]))
    writes = (*(p for p in node.artifacts if p not in node.appends), *given["write"])
    return Scope(writes, appends, () if node.declared else _without(node.kept, given["write"]))


def _patterns(locks: Iterable[Lock], mode: str) -> tuple[str, ...]:
    """A given path may be a file or a directory."""
    return tuple(p for lock in locks if lock.mode == mode for p in (lock.path, f"{lock.path}/**"))


def _without(kept: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...]:
    """A file that was asked for is no longer one that is only read."""
    return tuple(pattern for pattern in kept if pattern not in given)


class Appends:
    """Tells, for merges of one run, the paths of which every side's additions are kept.

    A path that was once appendable stays so: what is merged once merges again, whoever does it and when. What
    nodes were given while they ran is looked up only where the plan does not know the path.
    """

    def __init__(self, plan: Plan, given: Callable[[], Iterable[str]]) -> None:
        self._plan, self._look_up = plan, given

    @functools.cached_property
    def _given(self) -> tuple[Lock, ...]:
        return tuple(Lock(path, "append") for path in self._look_up())

    def __call__(self, path: str) -> bool:
        """Whether nodes of the run may append to this path at the same time."""
        planned = any(matches(pattern, path) for node in self._plan.nodes for pattern in node.appends)
        return planned or any(lock.covers(path) for lock in self._given)


def appends_of(ledger: Ledger, run_id: str, plan: Plan) -> Appends:
    """Of a run that goes on."""
    return Appends(plan, functools.partial(ledger.appends, run_id))


def appends_in(plan: Plan, nodes: Mapping[str, NodeRecord]) -> Appends:
    """Of a run whose nodes were all read."""
    given = [lock.path for node in nodes.values() for lock in node.extension if lock.mode == "append"]
    return Appends(plan, lambda: given)
