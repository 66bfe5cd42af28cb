"""What moves a run from outside of its attempts: operators, deadlines, the reconciling leader."""

from __future__ import annotations

from agentflow.states import UNFINISHED, NodeState, RunState, run_closed_sources, run_sources, sources
from agentflow.store import keys, scripts
from agentflow.store.limits import Limits
from agentflow.store.scripts import Answer

#: Nodes of a run up to which a running one that nobody watches is looked for.
HEALED_NODES_MAX = 5000
#: Milliseconds that whoever lands a run is believed to be at it: moving a branch takes far less than one.
LANDING_MS = 60_000
_OVERDUE = ",".join(s for s in sources(NodeState.FAILED) if s != NodeState.RUNNING)
_RETRYABLE = f"{NodeState.FAILED},{NodeState.CANCELLED}"
#: Runs of which a node may be done again: they go on, or have come to nothing that could land.
_RETRYABLE_RUNS = ",".join(
    sorted({*UNFINISHED, *run_closed_sources(RunState.OPEN)} - {RunState.CANCELLING, RunState.READY_TO_LAND})
)
_GOALS = {
    "pause": RunState.PAUSED,
    "drain": RunState.DRAINING,
    "cancel": RunState.CANCELLING,
    "continue": RunState.OPEN,
    "lift": RunState.OPEN,
}


class Steering(Limits):
    """Transitions that whole runs make, or many of their nodes at once."""

    def control(self, run_id: str, verb: str, word: str = "") -> tuple[str, Answer]:
        """Tell an unfinished run to move; the run's state afterwards ('' = no such run).

        `pause`, `drain`, `cancel`, `continue` (word: the reason), `lift` (end a pause whose reason begins
        with the word, and no other), `limit` (word: nodes at once). Each is harmless when it is said again.
        """
        goal = _GOALS.get(verb)
        allowed = ",".join(run_sources(goal)) if goal else ""
        answer = scripts.transition(self.client, "control", run_id, verb, word, goal or "", allowed)
        return answer.head[0], answer

    def retry(self, run_id: str, node: str) -> Answer:
        """Do a node again that has failed, or was cancelled, with what was skipped for it (`Answer.ready`).

        The head is `again` and the run's state, or `superseded` and what is in the way.
        """
        return scripts.transition(self.client, "retry", run_id, node, _RETRYABLE_RUNS, _RETRYABLE)

    def deadlines(self, run_id: str) -> Answer | None:
        """End nodes past their queue timeout, and the run past its own; None when nothing was late."""
        answer = scripts.transition(self.client, "deadlines", run_id, _OVERDUE)
        return answer if answer.head[0] == "passed" else None

    def recheck(self, run_id: str) -> Answer | None:
        """Wake what nothing holds back any more; None when no wake had been missed."""
        answer = scripts.transition(self.client, "recheck", run_id)
        return answer if answer.head[0] == "woken" else None

    def abandon(self, run_id: str, reason: str) -> Answer:
        """Forget a run whose record is broken and free what is held for it; what may go on then must be sent.

        Its keys are gone at once: what its journal holds can be planted again (`agentflow resume`).
        """
        answer = scripts.transition(self.client, "abandon", run_id)
        self.announce("ledger.abandoned", run=run_id, reason=reason)
        return answer

    def begin_landing(self, run_id: str, token: str, result: str) -> bool:
        """Say that this result's branch moves now; false when the run is not ready to land with it.

        Until it is closed as landed, or `give_up_landing`, the run is neither opened again nor rolled back.
        Two may land it at a time, each with a `token`: the branch moves once.
        """
        return self._landing(run_id, "begin", token, result)

    def give_up_landing(self, run_id: str, token: str) -> None:
        """Say that the branch did not move. Whoever was killed while landing is forgotten with it."""
        self._landing(run_id, "give_up", token, "")

    def is_landing(self, run_id: str) -> bool:
        """Whether somebody moves the run's branch just now, or was killed in doing so."""
        return bool(self.client.hexists(keys.run(run_id), "landing"))

    def _landing(self, run_id: str, verb: str, token: str, result: str) -> bool:
        state = RunState.READY_TO_LAND.value
        raw = scripts.call(self.client, "landing", run_id, verb, token, state, result, LANDING_MS)
        return str(raw[0]) == "noted"

    def heal(self) -> tuple[tuple[str, ...], Answer]:
        """Free what is held for nodes that do not run, watch what runs unwatched; what was put right.

        A ledger that is whole has nothing of the kind: whoever finds something should look for its cause.
        """
        answer = scripts.transition(self.client, "heal", "", HEALED_NODES_MAX)
        return tuple(filter(None, answer.head[1].split("\n"))), answer

    def cancel_role(self, run_id: str, role: str, reason: str) -> Answer:
        """End what has not started of a role, and what needed it."""
        return scripts.transition(self.client, "cancel_role", run_id, role, reason)
