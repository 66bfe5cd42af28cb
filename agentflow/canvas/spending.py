"""What a plan may spend, and how many of its nodes run at once by complexity: spec before configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pydantic import BaseModel, ConfigDict, Field

from agentflow import graph
from agentflow.config import Config
from agentflow.config.budget import Amount
from agentflow.errors import UsageError
from agentflow.explain import did_you_mean
from agentflow.spec.models import Budget, Spec, Task
from agentflow.store.budgets import DAILY, NANO, RUN, UNITS, Change, nano

#: Dollars and tokens; None: no limit.
Limit = tuple[float | None, int | None]
NO_LIMIT: Limit = (None, None)
#: The largest amounts that are taken for meant.
MOST = {"usd": 1e6, "tokens": 1e13}


class Spending(BaseModel):
    """Of one run. `limits` by scope: `run`, `role:<role>`, `node:<node>`; `reserve` is for an attempt of a
    command-line agent; `classes`: nodes at once by complexity, 0 for no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: Mapping[str, Limit] = Field(default_factory=dict)
    reserve: Limit = NO_LIMIT
    classes: Mapping[str, int] = Field(default_factory=dict)

    def of(self, scope: str) -> Limit:
        """The limit of a scope."""
        return self.limits.get(scope, NO_LIMIT)

    def changed(self, changes: Iterable[Change]) -> Spending:
        """With the changes of a command line; those of a day are no run's. Raises `UsageError`."""
        limits = {scope: list(limit) for scope, limit in self.limits.items()}
        for change in changes:
            scope, _, unit = change.field.rpartition(":")
            limit, place = limits.setdefault(scope, [None, None]), UNITS.index(unit)
            amount: float = change.amount / NANO if unit == "usd" else change.amount
            if scope in DAILY or (change.verb == "add" and limit[place] is None):
                raise UsageError(f"a run cannot begin with a change of {change.field}", fix="give an amount")
            base = (limit[place] or 0) if change.verb == "add" else 0
            limit[place] = None if change.verb == "none" else max(0, base + amount)
        return Spending.model_validate({**self.model_dump(), "limits": limits})

    def attempt(self, node: str) -> Limit:
        """What is reserved for an attempt that tells at its end: as configured, else the node's own."""
        return tuple(  # type: ignore[return-value]
            own if asked is None else asked
            for asked, own in zip(self.reserve, self.of(f"node:{node}"), strict=True)
        )


def spending_of(spec: Spec, config: Config, tasks: Iterable[Task]) -> Spending:
    """Every limit of a run; a role may stand in the spec by any of its words."""
    ours, house = spec.budget or Budget(), config.budget
    chosen = list(tasks)
    by_role = {config.role_name(word) or word: amount for word, amount in ours.roles.items()}
    limits = {"run": _first(ours, house.run)}
    for task in chosen:
        role = config.role_name(task.role) or task.role
        limits[f"role:{role}"] = _first(by_role.get(role), house.roles.get(role))
        limits[f"node:{task.id}"] = _first(task.budget, ours.node, house.node)
    return Spending(
        limits={scope: limit for scope, limit in limits.items() if limit != NO_LIMIT},
        reserve=house.reserve.limits,
        classes=spec.policy.complexity.model_dump() if any(t.complexity for t in chosen) else {},
    )


def _first(*amounts: Amount | None) -> Limit:
    """Of each unit the first limit that somebody has set."""
    given = [amount.limits for amount in amounts if amount is not None]
    usd = next((usd for usd, _ in given if usd is not None), None)
    return usd, next((tokens for _, tokens in given if tokens is not None), None)


def urgencies(importance: Mapping[str, int], parents: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How important (0: critical) each node is, or the most important one that waits for it."""
    found = dict(importance)
    for node in reversed(graph.topological({n: list(p) for n, p in parents.items()})):
        for parent in parents[node]:
            found[parent] = min(found[parent], found[node])
    return found


def parse_changes(words: Iterable[str], config: Config) -> list[Change]:
    """What `usd=5`, `tokens=+1000`, `+5`, `backend.usd=2`, `node:api.tokens=none` or `org.usd=90` mean.

    `+` and `-` change a limit that is there; `none` takes it away. Raises `UsageError`.
    """
    return [_change(word, config) for word in words]


def _change(word: str, config: Config) -> Change:
    name, equals, value = word.rpartition("=")
    where, dot, unit = (name if equals else "usd").rpartition(".")
    if unit not in UNITS or (dot and not where):
        raise _unreadable(word, f"{unit or name!r} is neither usd nor tokens")
    field = f"{_scope(where, word, config)}:{unit}"
    if value == "none":
        return Change(field, "none")
    if value[:2] in ("+-", "++"):
        # Python reads -5 from what is left of the first.
        raise _unreadable(word, f"{value!r} is no amount")
    try:
        amount = float(value.replace("_", "")) if unit == "usd" else int(value.replace("_", ""))
    except ValueError:
        raise _unreadable(word, f"{value!r} is no amount") from None
    if not abs(amount) <= MOST[unit]:
        raise _unreadable(word, f"{value} is out of bounds")
    return Change(
        field, "add" if value[:1] in "+-" else "set", nano(amount) if unit == "usd" else int(amount)
    )


def check_nodes(changes: Iterable[Change], nodes: Collection[str]) -> None:
    """Raise `UsageError` when one of the changes names a node that is not among these."""
    for change in changes:
        scope = change.field.rpartition(":")[0]
        node = scope.removeprefix("node:")
        if node != scope and node not in nodes:
            raise UsageError(
                f"there is no node {node!r} whose budget could be changed",
                fix=did_you_mean(node, nodes) or f"nodes are: {', '.join(list(nodes)[:10])}",
            )


def _scope(where: str, word: str, config: Config) -> str:
    """Where a budget stands: the run when nothing is said, a role by any of its words."""
    if where in ("", RUN):
        return RUN
    if where in DAILY or where.startswith("node:"):
        return where
    role = where.removeprefix("role:")
    found = config.role_name(role)
    if found is None:
        fix = did_you_mean(role, [*config.roles]) or "run, day, org, a role, or node: and the id of a node"
        raise UsageError(f"{word!r} names {where!r}, which has no budget", fix=fix)
    return f"role:{found}"


def _unreadable(word: str, why: str) -> UsageError:
    return UsageError(
        f"{word!r} is no change of a budget",
        why=why,
        fix="usd=5, tokens=+100000, backend.usd=2, node:ID.tokens=50000, day.usd=20, usd=none; +5 is usd=+5",
    )
