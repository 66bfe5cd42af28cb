"""One claimed node with all that belongs to it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.environment import Meter, Outcome, Usage
from agentflow.errors import AgentflowError
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.records import NodeRecord, RunRecord
from agentflow.tasks.attempts import Held
from agentflow.tasks.context import Context
from agentflow.transport import send_logs

#: Findings of a report that are kept as data (its text has all of them).
FINDINGS_MAX = 100


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claimed node with all that belongs to it."""

    context: Context
    run: RunRecord
    plan: Plan
    node: PlanNode
    record: NodeRecord
    claim: Claim
    held: Held
    meter: Meter = field(default_factory=Meter)
    #: Outcomes of the tests that the acceptance ran.
    tests: dict[str, int] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        """The ledger that granted the claim."""
        return self.context.ledger

    def facts(self, outcome: Outcome | None, **more: str | float) -> dict[str, str | int | float]:
        """What the settlement records besides the state."""
        facts: dict[str, str | int | float] = dict(more)
        if outcome:
            facts |= {"summary": outcome.summary[:500], "verdict": outcome.verdict}
            if outcome.findings:
                facts["findings"] = json.dumps([asdict(f) for f in outcome.findings[:FINDINGS_MAX]])
        if self.tests:
            facts["tests"] = json.dumps(self.tests)
        return facts | self.spent()

    def spent(self) -> dict[str, str | int | float]:
        """The node's usage with this attempt's added: failed attempts are paid for too."""
        if self.meter.usage == Usage():
            return {}
        return {"usage": json.dumps(asdict(Usage(**self.record.usage) + self.meter.usage))}

    @property
    def name(self) -> str:
        """Node and attempt, as logs and workspaces are named."""
        return f"{self.node.id}.{self.claim.attempt}"

    def send_logs(self) -> None:
        """What the attempt said, for readers on other machines."""
        if self.run.repo:
            folder = self.context.run_dir(self.run.id) / "logs"
            send_logs(self.context.config, self.run, folder, f"{self.name}.")

    def log_error(self, error: AgentflowError) -> None:
        """Why the attempt came to nothing, at the end of its log (an agent may have said nothing)."""
        if self.run.repo:
            log = self.context.run_dir(self.run.id) / "logs" / f"{self.name}.log"
            with contextlib.suppress(OSError), log.open("a", encoding="utf-8", errors="replace") as stream:
                stream.write(f"agentflow: {error.explain()}\n")
