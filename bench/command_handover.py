"""As `handover`, with everything that a real attempt has: a clone, a command, a commit, its ingest.

A line of nodes in a small repository; each command writes the time and one file. Between the parent's
settlement and the child's first instruction lie the message, the claim, the merge of the parents, the
clone, the launcher and the start of `sh` and `date`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from agentflow import runs
from agentflow.spec.models import Spec
from bench.figures import Figure, percentile
from bench.stage import stage
from bench.workspaces import make_repository

NODES = 30
FILES = 200


def measure() -> Iterator[Figure]:
    """Reported without a target, and so is a whole such node."""
    with stage() as found:
        found.start("commands", slots=4)
        repo = found.directory / "repo"
        make_repository(repo, FILES)
        write = f'echo "run $0 $(date +%s%N)" >> {found.stamps}; echo done > "$0.txt"'
        tasks = [
            {
                "id": f"n{i}",
                "role": "implementer",
                "prompt": "write a file",
                "needs": [f"n{i - 1}"] if i else [],
                "expect": "none",
                "runner": {"type": "command", "command": ["sh", "-c", write, f"n{i}"]},
            }
            for i in range(NODES)
        ]
        spec = Spec.model_validate({"feature": "commands in a line", "tasks": tasks})
        began = time.time() * 1000
        run_id = runs.submit(spec, config=found.config, repo=repo)
        whole = (found.closed_ms(run_id) - began) / NODES
        settled = {e.node: e.at_ms for e in found.events(run_id) if e.kind == "node.settled"}
        first = {node: at / 1e6 for _, node, at in found.stamped()}
    samples = [first[f"n{i}"] - settled[f"n{i - 1}"] for i in range(1, NODES)]
    note = f"p50 of {len(samples)}; p95 {percentile(samples, 0.95):.0f}, {FILES} files"
    yield Figure(
        "parent settled -> child's command, with clone",
        percentile(samples, 0.5),
        "ms",
        note=note,
        samples=samples,
    )
    yield Figure("  a whole such node (clone, command, commit, ingest)", whole, "ms")
