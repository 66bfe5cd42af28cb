"""The section `budget` of agentflow.yaml, and amounts as specs have them too."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from agentflow.agents import Closed
from agentflow.fields import Name

#: A budget's dollars and tokens; what is above is a slip of the pen, and sums stay exact below.
Dollars = Annotated[float, Field(strict=True, ge=0, le=1_000_000)]
Tokens = Annotated[int, Field(strict=True, ge=0, le=10**13)]


def dollars(value: Any) -> Any:
    """A bare number means dollars."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"usd": value} if is_number else value


class Amount(Closed):
    """What may be spent; a bare number means dollars."""

    usd: Dollars | None = Field(default=None, description="US dollars (no limit)")
    tokens: Tokens | None = Field(default=None, description="Tokens, read and written (no limit)")

    @property
    def limits(self) -> tuple[float | None, int | None]:
        """Dollars and tokens; None: no limit."""
        return self.usd, self.tokens


Spendable = Annotated[Amount, BeforeValidator(dollars, json_schema_input_type=Dollars | Amount)]


class BudgetSettings(Closed):
    """What may be spent. A spec's own `budget` goes before `run`, `roles` and `node`."""

    org: Spendable = Field(
        default_factory=Amount, description="Of all projects that share this Redis, in one day (UTC)"
    )
    day: Spendable = Field(default_factory=Amount, description="Of the project in one day (UTC)")
    run: Spendable = Field(default_factory=Amount, description="Of each run")
    roles: dict[Name, Spendable] = Field(
        default_factory=dict,
        description="Of all nodes of a role in one run, by role: dollars or {usd, tokens}",
    )
    node: Spendable = Field(default_factory=Amount, description="Of each node, all its attempts together")
    reserve: Spendable = Field(
        default_factory=Amount,
        description="Reserved for an attempt of a command-line agent, which tells what it spent at its end",
    )
