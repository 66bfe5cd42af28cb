"""The files of `--out DIR`, each written whole or not at all.

| file | holds |
|---|---|
| `{agent}_{task_id}_result.json` | one node: state, attempts, commit, proof, patch, findings, text, usage |
| `{agent}_{task_id}.status` | its state in one word |
| `.status` | the run: state, exit code, counts, the state of each node |
| `proposal_{timestamp}.json`, `.md` | the proposal; the timestamp is when the run was closed, UTC |
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.proposal import making
from agentflow.proposal.markdown import render
from agentflow.proposal.values import VERSION, Proof, Proposal
from agentflow.states import NodeState

_ODD = re.compile(r"[^A-Za-z0-9._-]+")
#: Characters of a role or a node's id in a file's name.
NAME_CAP = 80


def write(run_id: str, config: Config, out: Path | None = None) -> Proposal:
    """The proposal of a run; with `out` its files are written there. Raises `UsageError`, `InfraError`."""
    proposal = making.make(run_id, config=config)
    if out is not None:
        put_files(proposal, out)
    return proposal


def write_out(run_id: str, config: Config, out: Path) -> tuple[Path, ...]:
    """Write the files of a run into a directory, which is made; returns them, the proposal's JSON first.

    Doing it again replaces what is there. Raises `UsageError` when the directory cannot be written.
    """
    return put_files(making.make(run_id, config=config), out)


def put_files(proposal: Proposal, out: Path) -> tuple[Path, ...]:
    """The files of a proposal."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for name, text in _contents(proposal):
            write_whole(out / name, text)
            written.append(out / name)
    except OSError as error:
        raise UsageError(
            f"the results of run {proposal.run} cannot be written to {out}",
            why=str(error),
            fix=f"make room there, or name another directory: agentflow out {proposal.run} DIR",
            code="AF-OUT-001",
        ) from error
    return tuple(written)


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and move it there: a reader sees the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, "utf-8", errors="replace")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _contents(proposal: Proposal) -> Iterator[tuple[str, str]]:
    stamp = _stamp(proposal)
    yield f"proposal_{stamp}.json", _json(proposal.as_dict())
    yield f"proposal_{stamp}.md", render(proposal)
    taken: Counter[str] = Counter()
    reports = {report.node: report for report in proposal.reports}
    for proof in proposal.nodes:
        name = file_name(proof, taken)
        said = reports.get(proof.node)
        yield f"{name}_result.json", _json(_node(proposal, proof, asdict(said) if said else {}))
        yield f"{name}.status", f"{proof.state}\n"
    yield ".status", _json(_status(proposal))


def file_name(proof: Proof, taken: Counter[str]) -> str:
    """`{agent}_{task_id}` with signs that every file system takes; no two nodes share one."""
    parts = [_ODD.sub("-", part)[:NAME_CAP].strip(".") or "node" for part in (proof.role, proof.node)]
    name = "_".join(parts)
    taken[name.lower()] += 1
    again = taken[name.lower()]
    return name if again == 1 else f"{name}-{again}"


def _node(proposal: Proposal, proof: Proof, report: Mapping[str, Any]) -> dict[str, Any]:
    facts = asdict(proof)
    return {
        "v": VERSION,
        "run": proposal.run,
        "agent": proof.role,
        "task_id": proof.node,
        "success": proof.state == NodeState.SUCCEEDED,
        **facts,
        "verdict": report.get("verdict", ""),
        "findings": report.get("findings", ()),
        "text": report.get("text", ""),
    }


def _status(proposal: Proposal) -> dict[str, Any]:
    return {
        "v": VERSION,
        "run": proposal.run,
        "state": proposal.state,
        "exit_code": proposal.exit_code,
        "reason": proposal.reason,
        **{key: proposal.totals[key] for key in ("total", "completed", "failed", "skipped", "cancelled")},
        "failed_nodes": proposal.failed_nodes,
        "nodes": {proof.node: proof.state for proof in proposal.nodes},
    }


def _stamp(proposal: Proposal) -> str:
    at = datetime.fromisoformat(proposal.closed) if proposal.closed else datetime.now(UTC)
    return at.strftime("%Y%m%dT%H%M%SZ")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
