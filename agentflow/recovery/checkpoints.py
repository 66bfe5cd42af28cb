"""Checkpoints of a run: commits that it can return to, and what returning undoes.

| name | commit | ref below `refs/agentflow/runs/RUN/` |
|---|---|---|
| `start` | the base of the run | `checkpoints/start` |
| `before:NODE` | what the node started from | `checkpoints/before/NODE` |
| `NODE` | the node's own commit (a report: what it looked at) | `nodes/NODE` |
| `stage:STAGE` | the merge of all work of the stages up to this one | `checkpoints/stages/STAGE` |
| `merged` | the merge of all work, when the run did not succeed | `merged` |
| `result` | the merge of all work, validated | `result` |
| `target` | where the target branch was before the run landed | `checkpoints/target` |

Merges are deterministic: whoever makes a stage's checkpoint makes the same commit, and it is the one that the
nodes of the next stage start from.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from agentflow.canvas.plan import Plan
from agentflow.canvas.scope import appends_in
from agentflow.errors import ConflictError, UsageError
from agentflow.states import NodeState, RunState
from agentflow.store.records import INTEGRATE, NodeRecord, RunRecord
from agentflow.workspace import merge
from agentflow.workspace.store import Store

START, BEFORE, STAGE, MERGED, RESULT, TARGET = "start", "before:", "stage:", "merged", "result", "target"

Records = Mapping[str, NodeRecord]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One of a run's checkpoints: what `rollback --to` takes, its commit, and the name of its ref."""

    name: str
    commit: str
    ref: str


def of_run(plan: Plan, run: RunRecord, nodes: Records, stages: Mapping[str, str]) -> list[Checkpoint]:
    """The checkpoints that a run has, in the order of the plan; `stages` as from `of_stages`."""
    found = [Checkpoint(START, run.base, "checkpoints/start")]
    last = {node.stage: node.id for node in plan.nodes if node.stage}
    for planned in plan.nodes:
        record = nodes[planned.id]
        if record.base and record.state is NodeState.SUCCEEDED:
            found.append(Checkpoint(BEFORE + record.id, record.base, f"checkpoints/before/{record.id}"))
        looked_at = record.base if planned.output == "report" and record.state is NodeState.SUCCEEDED else ""
        if record.commit or looked_at:
            found.append(Checkpoint(record.id, record.commit or looked_at, f"nodes/{record.id}"))
        if planned.stage in stages and last[planned.stage] == planned.id:
            name, commit = planned.stage, stages[planned.stage]
            found.append(Checkpoint(STAGE + name, commit, f"checkpoints/stages/{name}"))
    if name := name_of_merge(run):
        found.append(Checkpoint(name, run.result, name))
    return found


def name_of_merge(run: RunRecord) -> str:
    """What the merge of all work of a run is called; '' while there is none."""
    if not run.result:
        return ""
    return RESULT if run.state in (RunState.READY_TO_LAND, RunState.LANDED) else MERGED


def of_stages(store: Store, plan: Plan, run: RunRecord, nodes: Records) -> dict[str, str]:
    """The merge after each stage that has ended well, in order; one that does not merge has none."""
    found: dict[str, str] = {}
    done: list[str] = []
    for stage in whole_stages(plan, nodes):
        done += [node.id for node in plan.nodes if node.stage == stage]
        try:
            found[stage] = merge.merge_all(store, work_of(nodes, done), run.base, appends_in(plan, nodes))
        except ConflictError:
            break
    return found


def whole_stages(plan: Plan, nodes: Records) -> tuple[str, ...]:
    """The first stages of a plan that have ended well."""
    open_stages = {node.stage for node in plan.nodes if not _is_done(nodes[node.id])}
    return tuple(itertools.takewhile(lambda stage: stage not in open_stages, stages_of(plan)))


def stages_of(plan: Plan) -> list[str]:
    """The stages of a plan, in the order in which they run."""
    return list(dict.fromkeys(node.stage for node in plan.nodes if node.stage))


def _is_done(record: NodeRecord) -> bool:
    return record.state is NodeState.SUCCEEDED or (
        record.optional and record.state in (NodeState.FAILED, NodeState.SKIPPED)
    )


def work_of(nodes: Records, ids: Iterable[str]) -> list[str]:
    """The commits of these nodes; one without a commit stands for what it depends on."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    layer = list(dict.fromkeys(ids))
    while layer:
        node = layer.pop()
        if node in seen or node not in nodes:
            continue
        seen.add(node)
        record = nodes[node]
        if record.commit and record.state is NodeState.SUCCEEDED:
            found[record.commit] = None
        else:
            layer += [*record.parents, *record.edges]
    return list(found)


@dataclass(frozen=True, slots=True)
class Return:
    """What going back to a checkpoint means: the nodes whose work it holds, and those that are undone."""

    name: str
    holds: frozenset[str]
    undone: frozenset[str]


def going_back(plan: Plan, nodes: Records, to: str, *, keep_successful: bool, merge: str = "") -> Return:
    """What to undo to be at the checkpoint `to` again. `merge`: as `name_of_merge` has it.

    Everything that its tree does not hold; with `keep_successful` only what depends on what comes after it.
    `to`: a name as in the table above, or that of a stage; '' for the start, also where a node is called so.
    The merge of all work undoes nothing but that it was landed.
    Raises `UsageError` for a name that is none, and for one of which something has not succeeded.
    """
    ids = {node.id for node in plan.nodes}
    if to and to == merge and to not in ids:
        return Return(to, frozenset(n for n in ids if _is_done(nodes[n])), frozenset())
    is_start = not to or (to == START and to not in ids)
    name = to if to in ids or to.startswith((BEFORE, STAGE)) else START if is_start else STAGE + to
    _require_whole(plan, nodes, name)
    if is_start:
        holds: set[str] = set()
        after: set[str] = set()
    elif name.startswith(STAGE) and name.removeprefix(STAGE) in stages_of(plan):
        order = stages_of(plan)
        at = order.index(name.removeprefix(STAGE))
        holds = {node.id for node in plan.nodes if node.stage in order[: at + 1]}
        after = {node.id for node in plan.nodes if node.stage in order[at + 1 :]}
    elif name.removeprefix(BEFORE) in ids:
        node = name.removeprefix(BEFORE)
        holds = set(_above(nodes, [node])) if name.startswith(BEFORE) else {node}
        after = {node} if name.startswith(BEFORE) else set(_children(nodes).get(node, ()))
    else:
        raise UsageError(
            f"{to!r} is no checkpoint of this run",
            fix="a node, before:NODE, stage:STAGE, start or result; `agentflow checkpoints RUN` lists them",
            code="AF-ROLLBACK-001",
        )
    holds |= set(_above(nodes, holds))
    undone = set(_below(nodes, after)) | after if keep_successful else ids - holds
    failed = [node for node in ids if not _is_done(nodes[node])]
    undone |= set(_below(nodes, failed))
    return Return(name, frozenset(holds), frozenset(n for n in undone if _has_ended_well(nodes[n])))


def _require_whole(plan: Plan, nodes: Records, name: str) -> None:
    """Raise `UsageError` for a checkpoint that is not there: what it would hold has not all succeeded."""
    order = stages_of(plan)
    before, stage = name.removeprefix(BEFORE), name.removeprefix(STAGE)
    if name in nodes:
        wanted = [] if nodes[name].state is NodeState.SUCCEEDED else [name]
    elif stage != name and stage in order:
        until = order[: order.index(stage) + 1]
        wanted = [node.id for node in plan.nodes if node.stage in until and not _is_done(nodes[node.id])]
    elif before != name and before in nodes and nodes[before].state is not NodeState.SUCCEEDED:
        above = _above(nodes, [before])
        wanted = [node.id for node in plan.nodes if node.id in above and not _is_done(nodes[node.id])]
    else:
        wanted = []
    if not wanted:
        return
    who = "it" if wanted == [name] else ", ".join(wanted[:5])
    states = ", ".join(nodes[node].state for node in wanted[:5])
    lacks = "has not succeeded" if len(wanted) == 1 else "have not succeeded"
    raise UsageError(
        f"{name} is no checkpoint of this run: {who} {lacks} ({states})",
        fix="`agentflow checkpoints RUN` lists those that it has; before:NODE is what a node starts from",
        code="AF-ROLLBACK-001",
    )


def _has_ended_well(record: NodeRecord) -> bool:
    return record.state is NodeState.SUCCEEDED and record.id != INTEGRATE


def _above(nodes: Records, ids: Collection[str]) -> set[str]:
    """All that these nodes depend on, by the plan or because they locked the same paths later."""
    found: set[str] = set()
    layer = [parent for node in ids for parent in (*nodes[node].parents, *nodes[node].edges)]
    while layer:
        node = layer.pop()
        if node not in found and node in nodes:
            found.add(node)
            layer += [*nodes[node].parents, *nodes[node].edges]
    return found


def _below(nodes: Records, ids: Iterable[str]) -> set[str]:
    """All that depends on these nodes."""
    children = _children(nodes)
    found: set[str] = set()
    layer = [child for node in ids for child in children.get(node, ())]
    while layer:
        node = layer.pop()
        if node not in found:
            found.add(node)
            layer += children.get(node, ())
    return found


def _children(nodes: Records) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in nodes.values():
        for parent in (*record.parents, *record.edges):
            if record.id != INTEGRATE:
                found.setdefault(parent, []).append(record.id)
    return found


def last_good_stage(plan: Plan, nodes: Records, *, validated: bool) -> str:
    """The last stage whose work is kept when a run fails and `on_failure` says rollback; '' for none.

    The last stage of all ends with the run's validation, so it counts only when that was passed.
    """
    whole = whole_stages(plan, nodes)
    if not validated and len(whole) == len(stages_of(plan)):
        whole = whole[:-1]
    return whole[-1] if whole else ""
