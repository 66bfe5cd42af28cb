"""What an attempt may change, and its way to ask for more while it runs (docs/locks.md).

The rule that keeps this free of deadlocks: an attempt that holds locks never waits for others. It is given
what it asks for at once, or it learns who has it; then it goes on without, or it ends, gives everything back
and comes again when all of it is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentflow.environment import Request
from agentflow.errors import AttemptCancelled, AttemptError
from agentflow.paths import pattern_problem
from agentflow.spec.artifacts import MODES, Lock, Mode, lock_path
from agentflow.store.ledger import Ledger
from agentflow.store.locking import Extension
from agentflow.workspace.policy import is_sensitive


class ArtifactHeld(AttemptError):
    """The attempt ends to wait for an artifact that another node holds. Nothing is counted against it."""

    code = "AF-LOCK-001"
    kind = "held"

    def __init__(self, lock: Lock, holder: str) -> None:
        self.lock = lock
        super().__init__(
            f"lock: {lock.path or '**'} is held for {holder}",
            why=f"the agent asked to {lock.mode} it, and to begin again when it can",
        )


@dataclass(slots=True)
class Artifacts:
    """The artifacts of one attempt. `extension`: locks beyond the plan's, of earlier attempts and of this
    one.
    """

    ledger: Ledger
    run: str
    node: str
    fence: int
    strict: bool = False
    is_report: bool = False
    extension: list[Lock] = field(default_factory=list)
    #: Whether this attempt was given something that its base was not made for.
    widened: bool = False

    def ask(self, pattern: str, mode: str, *, wait: bool) -> Request:
        """Ask for one more artifact; an answer for the agent, at once.

        Raises `ArtifactHeld` with `wait` when another node has it, `AttemptCancelled` when the attempt is
        lost.
        """
        refused = self._refused(pattern, mode)
        if refused:
            return Request(refused)
        lock = Lock(lock_path(pattern), _mode(mode))
        answer = self.ledger.extend(self.run, self.node, self.fence, [pattern], lock.mode)
        if answer.verdict == "superseded":
            raise AttemptCancelled("the attempt was stopped: it is another one's by now")
        if answer.granted:
            if lock not in self.extension:
                self.extension.append(lock)
            self.widened = True
            return Request(f"granted: you may {lock.mode} {pattern} until you finish", granted=True)
        if answer.verdict == "refused":
            return Request(f"refused: {answer.reason}")
        return self._held(lock, answer, wait=wait)

    def _refused(self, pattern: str, mode: str) -> str:
        """Why it is not even asked for, '' when it is."""
        problem = pattern_problem(pattern)
        if problem:
            return f"error: {problem[0]}; {problem[1]}"
        changes = mode != "read"
        rules = (
            (mode not in MODES, f"the mode is one of {', '.join(MODES)}"),
            (not lock_path(pattern), "the whole tree is never given; ask for a file or a directory"),
            (changes and self.is_report, "a report changes no file"),
            (changes and self.strict, "this feature allows no artifacts but those that its tasks declare"),
            (
                changes and is_sensitive(pattern),
                "it configures people's tools; only the feature file names it",
            ),
        )
        return next((f"refused: {why}" for is_so, why in rules if is_so), "")

    def _held(self, lock: Lock, answer: Extension, *, wait: bool) -> Request:
        where = answer.path or "**"
        if answer.by == "run":
            return Request(f"refused: {where} is held by run {answer.holder}; finish without it")
        if wait:
            raise ArtifactHeld(lock, answer.holder)
        again = (
            "Finish without it, or ask again with `wait`: then this attempt ends, its changes are dropped, "
            "and the task begins again when the file is free"
        )
        return Request(f"held: {where} is held for task {answer.holder}. {again}")


def _mode(text: str) -> Mode:
    return next(mode for mode in MODES if mode == text)
