"""What a plan will take and cost, by what was measured where it is to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentflow.canvas.estimate import Estimate, estimate
from agentflow.canvas.featured import featured
from agentflow.canvas.plan import Plan
from agentflow.config import Config
from agentflow.errors import AgentflowError
from agentflow.local import service
from agentflow.runs.following import open_ledger
from agentflow.store.budgets import Means, Purse
from agentflow.store.durations import Durations, read_durations
from agentflow.store.features import read_feature
from agentflow.workspace import inspect


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known here of the project: how long nodes took, what they cost, what today has left."""

    durations: Durations
    means: Means | None = None
    day: Purse | None = None
    org: Purse | None = None
    settings: Callable[[str], Mapping[str, int]] | None = None

    @classmethod
    def here(cls, config: Config, repo: Path) -> Forecast:
        """From the ledger, when it is up (nothing is started to look), for the project of `repo`."""
        with suppress(AgentflowError, OSError):
            if config.redis_url is not None or service.status(config) is not None:
                ledger, project = open_ledger(config), inspect.project_of(repo)
                durations = read_durations(ledger.client, project)
                return cls(
                    durations,
                    ledger.means(project),
                    ledger.day(project),
                    ledger.org(),
                    lambda feature: read_feature(ledger.client, project, feature),
                )
        return cls(Durations())

    def settled(self, plan: Plan, *, jobs: int | None = None) -> Plan:
        """The plan with what is set for its feature."""
        return featured(plan, self.settings(plan.feature) if self.settings else {}, jobs=jobs)

    def cost(self, plan: Plan) -> Estimate:
        """What the plan will cost, and its ceiling."""
        return estimate(plan, self.means, self.day, self.org)

    def weights(self, plan: Plan) -> tuple[dict[str, float], bool]:
        """Seconds that each node may take; 1 each, and False, when nothing was measured."""
        known = self.durations
        return {n.id: known.expected_s(n.role, n.id) for n in plan.nodes}, bool(known.known)
