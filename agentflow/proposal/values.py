"""A proposal as plain values: what is proposed, why it can be believed, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agentflow.results import CostReport

#: Version of the JSON; grows when a field changes its meaning or goes.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Patch:
    """What changed. `cut` is how many characters of the patch were left out; `why` says why there is none."""

    stat: str = ""
    text: str = ""
    cut: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What judged a tree: commands as typed in a shell, what was expected, and how it ended.

    `verdict`: `passed`, `failed`, `not judged` (no commands, or `expect: none`) or `not reached`.
    `tests` counts outcomes.
    """

    commands: tuple[str, ...]
    expect: str
    verdict: str
    tests: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """One node: what it did and what says that it is right. `checkpoint` is the ref of its commit."""

    node: str
    role: str
    output: str
    state: str
    attempts: int
    seconds: float
    worker: str
    commit: str
    checkpoint: str
    summary: str
    judgement: Judgement
    patch: Patch
    needs: tuple[str, ...] = ()
    shard: str = ""
    code: str = ""
    reason: str = ""
    fix: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What a report node said: `verdict` is approve, block or nothing."""

    node: str
    role: str
    verdict: str
    summary: str
    text: str
    findings: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Where work met other work. `kind`: `edge` (it started on top of `others` because they had written what
    it locks), `rerun` (it did not merge and was done again, `times` times), or `run` (the run ended in one).
    """

    node: str
    kind: str
    others: tuple[str, ...] = ()
    times: int = 1
    what: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """A time that a node was parked or delayed, and for what."""

    node: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """Everything that a reviewer needs to say yes or no. Times are ISO 8601, UTC."""

    run: str
    feature: str
    goal: str
    state: str
    exit_code: int
    reason: str
    base: str
    target: str
    branch: str
    commit: str
    merged_ref: str
    opened: str
    closed: str
    totals: Mapping[str, Any]
    failed_nodes: tuple[str, ...]
    validation: Judgement
    patch: Patch
    reports: tuple[Report, ...]
    nodes: tuple[Proof, ...]
    conflicts: tuple[Conflict, ...]
    waits: tuple[Wait, ...]
    costs: CostReport
    v: int = VERSION

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the JSON file holds them."""
        return asdict(self)
