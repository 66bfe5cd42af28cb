"""Using a verified commit again: a node made from the same things as one before need not be done again.

The same things are: the base (its commit), the prompt (so the task, the feature, what parents handed over),
the role with its instructions, what may be written, acceptance and what is expected of it, the runner with
its model, the environment and the set-up. Only a commit that has passed an acceptance counts; a report is
never used again, for nothing proves it. Whoever reads the commit judges it anew, unless it was this data
directory that judged it before: what stands in Redis is nobody's proof (the mark is one, its key is a file
here).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.environment import Outcome
from agentflow.spec.artifacts import matches
from agentflow.store import verified
from agentflow.store.verified import Verified
from agentflow.tasks.claimed import Attempt
from agentflow.workspace.store import write_atomically

log = logging.getLogger("agentflow.reuse")

#: Changes when what decides over a node's work changes.
_VERSION = 1
#: What of a plan's node decides over its work, besides what its prompt says.
_DECIDING = (
    "role",
    "instructions",
    "output",
    "artifacts",
    "appends",
    "kept",
    "declared",
    "acceptance",
    "expect",
    "runner",
    "env",
)
_KEY_FILE = "verified.key"
_KEY_BYTES = 32


def applies(node: PlanNode) -> bool:
    """Whether the node's commit can be proved at all."""
    return node.output == "change" and bool(node.acceptance) and node.expect != "none"


def digest_of(plan: Plan, node: PlanNode, base: str, prompt: str) -> str:
    """The name of all that a node is made from."""
    whole = node.model_dump(mode="json")
    setup = plan.setup.model_dump(mode="json") if plan.setup else None
    parts = [_VERSION, base, prompt, {name: whole[name] for name in _DECIDING}, setup]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find(attempt: Attempt, digest: str, base: str) -> Verified | None:
    """The commit that was made from the same things; None when there is none, or none is wanted."""
    if not attempt.plan.reuse:
        return None
    found = verified.find(attempt.ledger.client, attempt.run.project, digest)
    return found if found and found.base == base else None


def is_locked(node: PlanNode, paths: Iterable[str]) -> bool:
    """Whether all that was written lies in what this node holds: an agent may have been given more then."""
    named = (*node.artifacts, *node.appends)
    return not node.declared or all(any(matches(pattern, path) for pattern in named) for path in paths)


def is_ours(data_dir: Path, digest: str, found: Verified) -> bool:
    """Whether a worker of this data directory has judged it."""
    return hmac.compare_digest(found.mark, _mark(data_dir, digest, found.base, found.commit))


def remember(attempt: Attempt, outcome: Outcome, commit: str, base: str) -> None:
    """Note what was accepted and settled, for the next one who is to make the same."""
    digest = attempt.origin.get("digest")
    if not digest or not commit or attempt.artifacts.extension:
        # What it was given while it ran stands in no digest.
        return
    made = Verified(
        commit=commit,
        base=base,
        run=attempt.run.id,
        node=attempt.node.id,
        summary=outcome.summary,
        handoff=outcome.handoff,
        tests=dict(attempt.tests),
        mark=_mark(attempt.context.config.data_dir, digest, base, commit),
    )
    verified.remember(attempt.ledger.client, attempt.run.project, digest, made)


def _mark(data_dir: Path, *parts: str) -> str:
    return hmac.new(_key(data_dir), "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def _key(data_dir: Path) -> bytes:
    """The secret of this data directory; made when there is none. The first one written stays."""
    path = data_dir / _KEY_FILE
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    new = path.with_name(f".{_KEY_FILE}-{secrets.token_hex(4)}")
    write_atomically(new, secrets.token_hex(_KEY_BYTES), durable=True)
    new.chmod(0o600)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(new)
    new.unlink()
    return path.read_bytes()
