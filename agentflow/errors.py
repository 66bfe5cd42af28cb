"""One tree of errors: a stable code, what happened, why, what to do.

Every error that a user can meet is an `AgentflowError`; the command line prints `explain()` and
leaves with `exit_code` (the table of exit codes is in docs/journey.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SPEC = 3
    INFRA = 4
    BUDGET = 5
    CONFLICT = 6
    INTERRUPTED = 130


class AgentflowError(Exception):
    """Something that agentflow refuses or cannot do, with what to do about it."""

    code = "AF-000"
    exit_code = Exit.FAILED

    def __init__(self, what: str, *, why: str = "", fix: str = "", code: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        if code:
            self.code = code
        # A traceback in a program of the user's shows code, why and fix too.
        self.add_note(self.explain())

    def explain(self) -> str:
        """The error as lines for a terminal: `error[CODE]: what`, then why and fix."""
        lines = [f"error[{self.code}]: {self.what}"]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file: where (1-based; line 0: `file` is the whole place), value, reason, fix."""

    file: str
    line: int
    col: int
    code: str
    reason: str
    value: str = ""
    fix: str = ""

    def __str__(self) -> str:
        value = f" (got {self.value})" if self.value else ""
        fix = f"\n    fix: {self.fix}" if self.fix else ""
        place = f"{self.file}:{self.line}:{self.col}" if self.line else self.file
        return f"{place}: {self.code}: {self.reason}{value}{fix}"


class SpecError(AgentflowError):
    """The spec has problems; all of them are in `problems`, in the order of the file."""

    code = "AF-SPEC"
    exit_code = Exit.SPEC

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the spec")

    def explain(self) -> str:
        """Each problem on its own line, then the count."""
        return "\n".join([*map(str, self.problems), f"error[{self.code}]: {self.what}"])


class UsageError(AgentflowError):
    """The command was given something that it cannot use."""

    code = "AF-USAGE"
    exit_code = Exit.USAGE


class ConfigError(AgentflowError):
    """agentflow.yaml, the environment or a flag has a value that cannot be used."""

    code = "AF-CONFIG"
    exit_code = Exit.SPEC


class RepositoryError(AgentflowError):
    """The repository is not one that agentflow can run on."""

    code = "AF-REPO"
    exit_code = Exit.SPEC


class InfraError(AgentflowError):
    """Redis, git, the disk or a worker is missing or does not answer."""

    code = "AF-INFRA"
    exit_code = Exit.INFRA


class ConflictError(AgentflowError):
    """Two pieces of work, or the result and the target, do not fit together."""

    code = "AF-CONFLICT"
    exit_code = Exit.CONFLICT


class AttemptError(AgentflowError):
    """An attempt ended without a result; `kind` says how and `feedback` is told to the next attempt."""

    code = "AF-ATTEMPT"
    kind = "failed"
    retryable = True

    def __init__(
        self, what: str, *, why: str = "", fix: str = "", code: str = "", feedback: str = ""
    ) -> None:
        super().__init__(what, why=why, fix=fix, code=code)
        self.feedback = feedback


class AttemptTimeout(AttemptError):
    """The attempt's deadline passed; its processes were ended."""

    code = "AF-TIMEOUT"
    kind = "timeout"


class AttemptCancelled(AttemptError):
    """The run was cancelled, drained, or this attempt lost its lease."""

    code = "AF-CANCELLED"
    kind = "cancelled"
    retryable = False


class LimitReached(AttemptError):
    """The agent used up its turns, tokens or calls."""

    code = "AF-LIMIT"
    kind = "limit"


class PolicyViolation(AttemptError):
    """What the agent wrote is not allowed into the repository."""

    code = "AF-POLICY"
    kind = "policy"


class AcceptanceFailed(AttemptError):
    """The node's own tests are red, or a test was lost."""

    code = "AF-ACCEPTANCE"
    kind = "acceptance"


class BudgetReached(AttemptError):
    """A budget does not allow the next call. `scope`: `node`, `role NAME`, `run` or `day`.

    Of the node's own budget the node fails; of any other one it is given back and waits until that is raised.
    """

    code = "AF-BUDGET-001"
    kind = "budget"
    retryable = False

    def __init__(self, scope: str, reason: str, *, fix: str = "") -> None:
        super().__init__(reason, fix=fix)
        self.scope = scope


class ProviderPaused(AttemptError):
    """A provider lets nobody call it for a while. Nothing is lost or counted: the node comes back by then.

    `seconds`: how long that takes.
    """

    code = "AF-PROVIDER-002"
    kind = "paused"

    def __init__(self, what: str, *, seconds: float, why: str = "", fix: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.seconds = seconds


class ProviderError(AttemptError):
    """The model's endpoint refused, broke off or answered nonsense; `status` is HTTP's (0: none came).

    `is_outage`: any other call would have failed too (it is away, or takes nobody's key).
    """

    code = "AF-PROVIDER"
    kind = "provider"
    status = 0
    is_outage = False
