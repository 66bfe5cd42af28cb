"""A worker that kills itself with SIGKILL at one point of one node's attempt, once.

Run as a program in place of `celery`; `CRASH_AT` names the point, `CRASH_NODE` the node, `CRASH_MARK`
a file that says that it has happened.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.bin.celery import celery

from agentflow.store.ledger import Ledger
from agentflow.tasks.context import Context
from agentflow.tasks.desk import GitDesk

#: Of any attempt; those with a repository also die as they share what they made.
POINTS = ("popped", "claimed", "before-settle", "settled", "continued")


def die(node: str) -> None:
    mark = Path(os.environ["CRASH_MARK"])
    if node == os.environ["CRASH_NODE"] and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def crash(owner: type, name: str, *, after: bool) -> None:
    """Make a method (self, run, node, ...), or one of a desk, fatal before or after it has done its work."""
    method: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(method)
    def fatal(self: Any, *args: Any, **kwargs: Any) -> Any:
        node = self._attempt.node.id if isinstance(self, GitDesk) else args[1]
        if not after:
            die(node)
        result = method(self, *args, **kwargs)
        if after:
            die(node)
        return result

    setattr(owner, name, fatal)


WHERE = {
    "popped": (Ledger, "claim", False),
    "claimed": (Ledger, "claim", True),
    "before-settle": (Ledger, "settle", False),
    "settled": (Ledger, "settle", True),
    "continued": (Context, "proceed", True),
    "accepted": (GitDesk, "share", False),
    "shared": (GitDesk, "share", True),
}

if __name__ == "__main__":
    owner, name, after = WHERE[os.environ["CRASH_AT"]]
    crash(owner, name, after=after)
    sys.argv = ["celery", "-A", "agentflow", *sys.argv[1:]]
    celery()
