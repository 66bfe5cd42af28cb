"""Budgets: what may be spent, what is spent, what is reserved by calls that are under way.

Five budgets stand around a paid call: its node's, its role's (within the run), its run's, that of its
project's day, and that of all projects' day (UTC, by Redis' clock). A call reserves what it may cost at
most in all five or in none, and is charged what it did cost afterwards. So `spent + reserved <= limit`
holds at every reservation; a bill above its reservation is the provider's truth and is written down as it
is, and the next reservation is refused.

A reservation belongs to one attempt (run, node, fence). When the attempt ends without a bill, it is free
again in the same step (`leave` in endings.lua). A call to a model that was under way then counts with its
estimate, for it may have been answered and must be paid; whoever made it can still bring the bill, once,
which takes the estimate's place. An attempt of a command-line agent, whose reservation is a guess at the
whole of it, counts nothing until its bill comes. So an old fence can neither reserve nor charge twice,
and what it has really spent is counted once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from agentflow.errors import UsageError
from agentflow.store import keys, scripts
from agentflow.store.reading import Reading
from agentflow.store.scripts import Answer

#: The ledger counts dollars in billionths: prices per million tokens come out whole.
NANO = 1_000_000_000
DAY_S = 86_400
#: Seconds after its last bill that a project's means are kept.
COSTS_TTL_S = 90 * DAY_S
RUN = "run"
DAY = "day"
ORG = "org"
#: Scopes that belong to no run: of a project's day, of all projects' day.
DAILY = (DAY, ORG)
UNITS = ("usd", "tokens")


@dataclass(frozen=True, slots=True)
class Amount:
    """US dollars and tokens."""

    usd: float = 0.0
    tokens: int = 0

    def fields(self) -> tuple[int, int]:
        """As the scripts take it: billionths of a dollar (rounded up), tokens."""
        return max(0, nano(self.usd)), max(0, int(self.tokens))


@dataclass(frozen=True, slots=True)
class Purse:
    """One budget: what may be spent of it (None: no limit), what is, and what calls under way have reserved.

    `scope` is `run`, `day`, `org`, `role:<role>` or `node:<node>`.
    """

    scope: str
    limit_usd: float | None = None
    limit_tokens: int | None = None
    spent: Amount = Amount()
    held: Amount = Amount()

    @property
    def limited(self) -> bool:
        """Whether anything bounds it."""
        return self.limit_usd is not None or self.limit_tokens is not None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "limit_usd": self.limit_usd,
            "limit_tokens": self.limit_tokens,
            "spent_usd": self.spent.usd,
            "spent_tokens": self.spent.tokens,
            "reserved_usd": self.held.usd,
            "reserved_tokens": self.held.tokens,
        }


@dataclass(frozen=True, slots=True)
class Reserved:
    """The answer to a reservation: `reserved`, `refused` or `superseded` (the node is another attempt's).

    Of a refusal: which budget it was (`node`, `role NAME`, `run`, `day`, `org`), why, and whether it is only
    in the way of other calls' reservations (`held`), so that it may succeed when those are charged.
    """

    verdict: str
    scope: str = ""
    reason: str = ""
    held: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a budget: `field` is scope and unit (`run:usd`), `verb` set, add or none (no limit)."""

    field: str
    verb: str
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Means:
    """What a node of each role has cost a project on the mean, by role, and how many were counted."""

    usd: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)


def nano(usd: float) -> int:
    """Billionths of a dollar, to the nearest."""
    return round(usd * NANO)


def limits_of(amounts: Mapping[str, tuple[float | None, int | None]]) -> dict[str, int]:
    """Limits (scope -> dollars, tokens; None: no limit) as the fields that the ledger keeps."""
    out: dict[str, int] = {}
    for scope, (usd, tokens) in amounts.items():
        if usd is not None:
            out[f"limit:{scope}:usd"] = nano(usd)
        if tokens is not None:
            out[f"limit:{scope}:tokens"] = tokens
    return out


class Budgets(Reading):
    """Reservations, charges and limits on one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)

    def reserve(
        self, run_id: str, node: str, fence: int, name: str, amount: Amount, *, counts: bool = True
    ) -> Reserved:
        """Reserve what one call may cost; `name` is unique in the attempt, asking twice is asking once.

        `counts`: if the attempt is lost before the bill comes, the call counts with this amount.
        """
        raw = scripts.call(self.client, "reserve", run_id, node, fence, name, *amount.fields(), int(counts))
        verdict, *rest = (str(word) for word in raw)
        if verdict == "refused":
            return Reserved(verdict, rest[0], rest[1], held=rest[2] == "held")
        return Reserved(verdict)

    def charge(self, run_id: str, node: str, fence: int, name: str, amount: Amount) -> Answer:
        """Write down what the call of a reservation has cost, once, whoever holds the node by now.

        The head is `charged`, `late` (the attempt had ended) or `known` (charged before, or never reserved).
        What it leaves free may wake nodes: they must be sent.
        """
        usd, tokens = amount.fields()
        return scripts.transition(self.client, "charge", run_id, node, fence, name, usd, tokens, COSTS_TTL_S)

    def grant(self, run_id: str, project: str, changes: Sequence[Change]) -> Answer:
        """Change budgets of a run, or (`run_id` '') those of a project's day, or (`project` '' too) those of
        all projects' day; at once, all or none.

        What they held back and has room now is woken and must be sent; a run that was paused for its budget
        goes on. Raises `UsageError` for adding to a budget that has no limit, and for an unknown run.
        """
        words = [word for change in changes for word in (change.field, change.verb, change.amount)]
        answer = scripts.transition(self.client, "grant", run_id, project, *words)
        if answer.head[0] == "unlimited":
            scope, _, unit = answer.head[1].rpartition(":")
            raise UsageError(
                f"the budget {scope} has no limit in {unit} that could be raised",
                fix=f"set one: {unit}=AMOUNT; `agentflow budget` shows those that are set",
            )
        if answer.head[0] == "unknown":
            raise UsageError(f"there is no run {run_id!r}", fix="`agentflow runs` lists the runs")
        return answer

    def default_budget(self, project: str, limits: Mapping[str, int]) -> None:
        """Set those limits of a project's day (`limit:day:usd`), and of all projects' (`limit:org:usd`), that
        nobody has set so far.
        """
        for name, amount in limits.items():
            is_org = name.startswith(f"limit:{ORG}:")
            self.client.hsetnx(keys.ORG_BUDGET if is_org else keys.project_budget(project), name, str(amount))

    def has_day_budget(self, project: str) -> bool:
        """Whether anything bounds what the project, or all projects together, spend in a day."""
        return bool(self.client.exists(keys.project_budget(project), keys.ORG_BUDGET))

    def morning(self) -> list[tuple[str, Answer]]:
        """Let the runs go on that a day's budget held back, where a new day has begun; one answer each."""
        due = cast("list[str]", self.client.zrangebyscore(keys.SHORT, "-inf", self.now_ms()))
        return [(run_id, scripts.transition(self.client, "morning", run_id)) for run_id in due]

    def purses(self, run_id: str) -> dict[str, Purse]:
        """A run's budgets by scope, its own first; of roles and nodes those that spent or have a limit."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.part(run_id, "budget")))
        found = _purses(raw)
        ordered = [RUN, *sorted(s for s in found if s.startswith("role:")), *sorted(_nodes(found))]
        return {scope: found.get(scope, Purse(scope)) for scope in ordered}

    def day(self, project: str) -> Purse:
        """The project's budget of today (UTC, by Redis' clock)."""
        return self._today(DAY, keys.project_spent(project, self._day_number()), keys.project_budget(project))

    def org(self) -> Purse:
        """The budget of today of all projects that share this Redis."""
        return self._today(ORG, keys.org_spent(self._day_number()), keys.ORG_BUDGET)

    def _day_number(self) -> int:
        return self.now_ms() // 1000 // DAY_S

    def _today(self, scope: str, spent: str, limits: str) -> Purse:
        raw = cast("dict[str, str]", self.client.hgetall(spent))
        raw |= cast("dict[str, str]", self.client.hgetall(limits))
        return _purses(raw).get(scope, Purse(scope))

    def unbilled(self, run_id: str) -> int:
        """Calls whose attempt ended before their bill came."""
        names = cast("list[str]", self.client.hkeys(keys.part(run_id, "budget")))
        return sum(1 for name in names if name.startswith("late:"))

    def note_estimate(self, run_id: str, estimate: Mapping[str, Any]) -> None:
        """Keep what the run was told to cost when it was submitted."""
        self.client.hset(keys.run(run_id), "estimate", json.dumps(dict(estimate)))

    def estimate(self, run_id: str) -> dict[str, Any]:
        """What the run was told to cost, as it was kept."""
        raw = cast("str | None", self.client.hget(keys.run(run_id), "estimate"))
        return cast("dict[str, Any]", json.loads(raw or "{}"))

    def means(self, project: str) -> Means:
        """What nodes have cost so far."""
        raw = cast("dict[str, str]", self.client.hgetall(keys.project_costs(project)))
        nodes = {name.rpartition(":")[0]: int(n) for name, n in raw.items() if name.endswith(":nodes")}
        return Means(
            {role: int(raw.get(f"{role}:usd", 0)) / NANO / n for role, n in nodes.items()},
            {role: int(raw.get(f"{role}:tokens", 0)) / n for role, n in nodes.items()},
            nodes,
        )


def _nodes(found: Mapping[str, Any]) -> list[str]:
    return [scope for scope in found if scope.startswith("node:")]


def _purses(raw: Mapping[str, str]) -> dict[str, Purse]:
    """Fields such as `spent:role:docs:usd` by scope."""
    table: dict[str, dict[str, int]] = {}
    for name, value in raw.items():
        kind, _, rest = name.partition(":")
        if kind in ("limit", "spent", "held"):
            scope, _, unit = rest.rpartition(":")
            table.setdefault(scope, {})[f"{kind}:{unit}"] = int(value)
    return {scope: _purse(scope, figures) for scope, figures in table.items()}


def _purse(scope: str, figures: Mapping[str, int]) -> Purse:
    usd = figures.get("limit:usd")
    return Purse(
        scope,
        None if usd is None else usd / NANO,
        figures.get("limit:tokens"),
        Amount(figures.get("spent:usd", 0) / NANO, figures.get("spent:tokens", 0)),
        Amount(figures.get("held:usd", 0) / NANO, figures.get("held:tokens", 0)),
    )
