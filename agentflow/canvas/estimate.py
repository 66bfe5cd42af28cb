"""What a run will cost, about, and what it cannot exceed: told before the first paid call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.store.budgets import RUN, Means, Purse

#: Tokens of a node with a model of which nothing is known: some ten turns of a small task.
TOKENS_PER_NODE = 50_000
#: The part of them that is written; the rest is read.
WRITTEN = 0.1


@dataclass(frozen=True, slots=True)
class Estimate:
    """`paid` nodes have a model, or say what they spend (`stated`).

    `known` of them are counted by what such nodes have cost here, those of which nothing is known by
    `TOKENS_PER_NODE`. `unmetered` are command-line agents of which nothing is known; `unpriced` names runners
    whose dollars nobody knows. Ceilings: None is no limit; the day's and the org's are what
    they have left.
    """

    paid: int = 0
    known: int = 0
    stated: int = 0
    unmetered: int = 0
    usd: float = 0.0
    tokens: int = 0
    tokens_per_node: int = TOKENS_PER_NODE
    ceiling_usd: float | None = None
    ceiling_tokens: int | None = None
    day_left_usd: float | None = None
    day_left_tokens: int | None = None
    org_left_usd: float | None = None
    org_left_tokens: int | None = None
    unpriced: tuple[str, ...] = ()

    @property
    def says_something(self) -> bool:
        """Whether anything is paid for, or bounded."""
        return bool(self.paid or self.unmetered) or self.ceiling != "none"

    @property
    def ceiling(self) -> str:
        """The limits of the run and what the day and the org have left, in words; `none` without any."""
        own = _amounts(self.ceiling_usd, self.ceiling_tokens)
        day = _amounts(self.day_left_usd, self.day_left_tokens)
        org = _amounts(self.org_left_usd, self.org_left_tokens)
        left = (day and f"{day} left of the day", org and f"{org} left of the day of all projects")
        return ", ".join(filter(None, (own, *left))) or "none"

    @property
    def exceeded(self) -> list[str]:
        """The ceilings that the estimate is above, in words."""
        found = []
        for of, usd, tokens in (
            ("run", self.ceiling_usd, self.ceiling_tokens),
            ("day", self.day_left_usd, self.day_left_tokens),
            ("org", self.org_left_usd, self.org_left_tokens),
        ):
            above = _amounts(
                usd if usd is not None and self.usd > usd else None,
                tokens if tokens is not None and self.tokens > tokens else None,
            )
            found += [f"{of}: {above}"] if above else []
        return found

    @property
    def lines(self) -> list[str]:
        """For people."""
        said = [f"estimate: {self._about()}; ceiling: {self.ceiling}"]
        if self.exceeded:
            said.append(
                f"warning: the estimate is above what may be spent ({'; '.join(self.exceeded)}): it will "
                "probably be paused before its end; raise it (--budget, `agentflow budget set`) or plan less"
            )
        limits = (self.ceiling_usd, self.day_left_usd, self.org_left_usd)
        limits_usd = any(limit is not None for limit in limits)
        if self.unpriced and limits_usd:
            names = ", ".join(self.unpriced)
            said.append(
                f"the budget in dollars does not see what {names} spends: no `prices:` are configured"
            )
        return said

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def _about(self) -> str:
        parts = []
        if self.paid:
            basis = [f"{self.known} by what such nodes cost here"] if self.known else []
            if unknown := self.paid - self.known - self.stated:
                basis.append(f"{unknown} at {self.tokens_per_node:,} tokens each")
            dollars = f"about ${self.usd:.2f}, " if self.usd else ""
            nodes = f"{self.paid} node{'' if self.paid == 1 else 's'}"
            why = f" ({', '.join(basis)})" if basis else ""
            parts.append(f"{dollars}{self.tokens:,} tokens for {nodes}{why}")
        if self.unmetered:
            nodes = f"{self.unmetered} node{'' if self.unmetered == 1 else 's'}"
            parts.append(f"{nodes} of command-line agents, which tell at their end")
        return "; ".join(parts) or "nothing that is paid"


def estimate(
    plan: Plan, means: Means | None = None, day: Purse | None = None, org: Purse | None = None
) -> Estimate:
    """What the plan's nodes will cost, by what nodes of their role have cost, else by a stated default."""
    means, usd, tokens = means or Means(), 0.0, 0.0
    paid = known = stated = unmetered = 0
    unpriced: dict[str, None] = {}
    for node in plan.nodes:
        kind = node.runner.get("type")
        if kind != "noop" and node.role in means.nodes:
            paid, known = paid + 1, known + 1
            usd, tokens = usd + means.usd[node.role], tokens + means.tokens[node.role]
        elif kind == "command":
            unmetered += 1
        elif cost := _default(node, unpriced):
            paid, usd, tokens = paid + 1, usd + cost[0], tokens + cost[1]
            stated += kind == "noop"
    ceiling_usd, ceiling_tokens = plan.spending.of(RUN)
    left_usd, left_tokens = _left(day)
    org_usd, org_tokens = _left(org)
    return Estimate(
        paid=paid,
        known=known,
        stated=stated,
        unmetered=unmetered,
        usd=round(usd, 6),
        tokens=round(tokens),
        ceiling_usd=ceiling_usd,
        ceiling_tokens=ceiling_tokens,
        day_left_usd=left_usd,
        day_left_tokens=left_tokens,
        org_left_usd=org_usd,
        org_left_tokens=org_tokens,
        unpriced=tuple(unpriced),
    )


def _default(node: PlanNode, unpriced: dict[str, None]) -> tuple[float, float] | None:
    """Dollars and tokens of a node of which nothing is known; None when it spends nothing."""
    if node.runner.get("type") == "noop":
        calls = int(node.runner.get("calls") or 1)
        usd, tokens = (float(node.runner.get(name) or 0) * calls for name in ("usd", "tokens"))
        return (usd, tokens) if usd or tokens else None
    prices: Mapping[str, float] = node.runner.get("prices") or {}
    per_token = (1 - WRITTEN) * (prices.get("input") or 0) + WRITTEN * (prices.get("output") or 0)
    if not per_token:
        unpriced[str(node.runner.get("model") or f"the runner of {node.role}")] = None
    return TOKENS_PER_NODE * per_token / 1_000_000, TOKENS_PER_NODE


def _left(day: Purse | None) -> tuple[float | None, int | None]:
    if day is None:
        return None, None
    usd = None if day.limit_usd is None else max(0.0, round(day.limit_usd - day.spent.usd, 6))
    tokens = None if day.limit_tokens is None else max(0, day.limit_tokens - day.spent.tokens)
    return usd, tokens


def _amounts(usd: float | None, tokens: int | None) -> str:
    return " and ".join(
        filter(
            None,
            (f"${usd:.2f}" if usd is not None else "", f"{tokens:,} tokens" if tokens is not None else ""),
        )
    )
