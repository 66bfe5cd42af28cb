"""Locks of attempts that are under way: asking for more of them (docs/locks.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from agentflow.spec.artifacts import Lock, Mode, lock_path
from agentflow.states import NodeState
from agentflow.store import keys, scripts
from agentflow.store.reading import Reading

#: Further locks that a node is given, over all of its attempts.
EXTENSIONS_MAX = 32


def lock_text(lock: Lock | str) -> str:
    """A lock as the ledger keeps it; a path alone is one to write."""
    return (Lock(lock) if isinstance(lock, str) else lock).text


@dataclass(frozen=True, slots=True)
class Extension:
    """The answer to a request for further locks.

    `verdict`: `granted` (the attempt holds them until it ends), `queued` (`holder`, a node of the run or,
    when `by` is `run`, an exclusive run, holds `path` or is next for it; nothing was taken), `refused`
    (`reason`) or `superseded` (the attempt's token is old).
    """

    verdict: str
    path: str = ""
    holder: str = ""
    by: str = ""
    reason: str = ""

    @property
    def granted(self) -> bool:
        """Whether the attempt holds them now."""
        return self.verdict == "granted"


class Locking(Reading):
    """The ledger's part that changes what a running attempt holds."""

    def extend(
        self, run_id: str, node: str, fence: int, patterns: Iterable[str], mode: Mode = "write"
    ) -> Extension:
        """Ask for further artifacts, all or nothing; never waits. Asking twice gives the same answer.

        What is granted is held by this attempt, and the node asks for it from the start in its next ones.
        """
        asked = dict.fromkeys(Lock(lock_path(pattern), mode).text for pattern in patterns)
        answer = scripts.transition(
            self.client,
            "extend",
            run_id,
            node,
            fence,
            NodeState.RUNNING.value,
            "\n".join(asked),
            EXTENSIONS_MAX,
        )
        verdict, *rest = answer.head
        if verdict == "queued":
            path, holder, by = rest
            return Extension(verdict, path, holder, by)
        return Extension(verdict, reason=rest[0])

    def appends(self, run_id: str) -> tuple[str, ...]:
        """Lock paths that nodes of the run were given to append to, beside those of the plan."""
        raw = cast("str | None", self.client.hget(keys.run(run_id), "appends"))
        return tuple(json.loads(raw)) if raw else ()
