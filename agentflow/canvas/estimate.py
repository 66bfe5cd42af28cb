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
    whose dollars nobody knows. Ceilings: None is no limit; the day's is what it has left.
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
    unpriced: tuple[str, ...] = ()

    @property
    def says_something(self) -> bool:
        """Whether anything is paid for, or bounded."""
        return bool(self.paid or self.unmetered) or self.ceiling != "none"

    @property
    def ceiling(self) -> str:
        """The limits of the run and what the day has left, in words; `none` without any."""
        own = _amounts(self.ceiling_usd, self.ceiling_tokens)
        day = _amounts(self.day_left_usd, self.day_left_tokens)
        return ", ".join(filter(None, (own, day and f"{day} left of the day"))) or "none"

    @property
    def lines(self) -> list[str]:
        """For people."""
        said = [f"estimate: {self._about()}; ceiling: {self.ceiling}"]
        limits_usd = self.ceiling_usd is not None or self.day_left_usd is not None
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


def estimate(plan: Plan, means: Means | None = None, day: Purse | None = None) -> Estimate:
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
