"""One claimed node with all that belongs to it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.canvas.scope import Appends, appends_of
from agentflow.environment import Gate, Meter, OpenGate, Outcome, Usage
from agentflow.errors import AgentflowError
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.records import NodeRecord, RunRecord
from agentflow.tasks.account import LedgerAccount
from agentflow.tasks.artifacts import Artifacts
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
    gate: Gate = field(default_factory=OpenGate)
    account: LedgerAccount | None = None
    #: What it may change beyond its plan, and how it asks for more.
    artifacts: Artifacts = field(init=False)
    #: Outcomes of the tests that the acceptance ran.
    tests: dict[str, int] = field(default_factory=dict)
    #: What its work is made from (`digest`), and whose work it is when it was used again (`reused`:
    #: RUN/NODE).
    origin: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "artifacts", self._artifacts())

    def _artifacts(self) -> Artifacts:
        return Artifacts(
            self.context.ledger,
            self.run.id,
            self.node.id,
            self.claim.fence,
            strict=self.plan.strict_artifacts,
            is_report=self.node.output == "report",
            extension=list(self.record.extension),
        )

    @property
    def ledger(self) -> Ledger:
        """The ledger that granted the claim."""
        return self.context.ledger

    def facts(self, outcome: Outcome | None, **more: str | float) -> dict[str, str | int | float]:
        """What the settlement records besides the state."""
        facts: dict[str, str | int | float] = {**self.origin, **more}
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
    def appends(self) -> Appends:
        """The paths of the run of which a merge keeps what every side added."""
        return appends_of(self.ledger, self.run.id, self.plan)

    @property
    def name(self) -> str:
        """Node and attempt, as logs and workspaces are named."""
        return f"{self.node.id}.{self.claim.attempt}"

    def close(self) -> None:
        """It is over, however it ended: the last bills and what it said are brought."""
        try:
            if self.account:
                self.account.close()
        finally:
            self.send_logs()

    def send_logs(self) -> None:
        """What the attempt said, for readers on other machines."""
        if self.run.repo:
            folder = self.context.config.data_dir / "runs" / self.run.id / "logs"
            send_logs(self.context.config, self.run, folder, f"{self.name}.")

    def log_error(self, error: AgentflowError) -> None:
        """Why the attempt came to nothing, at the end of its log (an agent may have said nothing)."""
        if self.run.repo:
            with contextlib.suppress(OSError):  # the disk may be full: that is what there is to say
                log = self.context.run_dir(self.run.id) / "logs" / f"{self.name}.log"
                with log.open("a", encoding="utf-8", errors="replace") as stream:
                    stream.write(f"agentflow: {error.explain()}\n")
