"""What the tools answer, as models: their JSON Schemas are published and every answer is checked.

Clients hand the structured part of an answer to the model and drop the rest, so everything that a
model should know is a field. Times are seconds.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Spawned(_Answer):
    """Answer of spawn_workers."""

    status: str = Field(description="spawned")
    spawned: int = Field(description="Worker processes that were started")
    workers: list[str] = Field(description="Their names")


class Scaled(_Answer):
    """Answer of scale_workers."""

    status: str = Field(description="What was done")
    target: int = Field(description="Slots that may be busy at once from now on")
    spawned: int = Field(description="Worker processes that were started")


class Killed(_Answer):
    """Answer of kill_all."""

    status: str = Field(description="What was done")
    workers_killed: int = Field(description="Worker processes that were ended")


class Drained(_Answer):
    """Answer of drain."""

    status: str = Field(description="What was done")
    workers_killed: int = Field(description="Worker processes that were ended")
    snapshot: dict[str, Any] = Field(description="Runs, nodes and queues as they were left")


class FleetState(_Answer):
    """Answer of get_status."""

    orchestrator_running: bool = Field(description="Whether a worker leads: wakes, reaps and reconciles")
    tasks: dict[str, int] = Field(description="Nodes of open runs by state")
    workers: dict[str, int] = Field(
        description="total: worker processes; idle, working, dead: of them; slots: what they can run at once;"
        " busy: what they run"
    )
    queues: dict[str, int] = Field(description="Messages that wait in each queue")


class PlannedTask(_Answer):
    """One node of a plan."""

    id: str
    role: str
    needs: list[str] = Field(description="Nodes that must succeed first")
    artifacts: list[str] = Field(description="Paths that it may write")
    output: str = Field(description="change or report")
    optional: bool


class Planned(_Answer):
    """Answer of plan."""

    feature: str
    target: str = Field(description="The branch that a run would land on")
    spec: str = Field(description="The whole spec as YAML, for run_start; change it as you like")
    tasks: list[PlannedTask]
    waves: list[list[str]] = Field(description="Nodes that can run side by side, wave after wave")
    critical_path: list[str]
    rounds: int = Field(description="Calls of the planning model; 0 when the spec was given")
    notes: list[str] = Field(description="What was read and has no effect, and the like")


class Started(_Answer):
    """Answer of run_start."""

    run: str = Field(description="The run's id, for the other tools")
    state: str
    feature: str
    target: str = Field(description="The branch that run_land moves")
    total: int = Field(description="Nodes of the run")
    notes: list[str]
    next: str = Field(description="What to call now")


class NodeView(_Answer):
    """One node of a run."""

    id: str
    role: str
    state: str
    attempt: int
    waits: str = Field(description="What it waits for, when it has not started")
    reason: str = Field(description="Why it is where it is")
    summary: str = Field(description="What its agent said it did")
    seconds: float = Field(description="How long its last attempt took, or has taken so far")


class RunView(_Answer):
    """A run and its nodes."""

    run: str
    state: str
    feature: str
    finished: bool = Field(description="Whether nothing happens any more without a further call")
    total: int
    done: int = Field(description="Nodes that have ended, well or not")
    succeeded: int
    failed_nodes: list[str]
    seconds: float
    target: str = Field(description="The branch that run_land moves")
    branch: str = Field(description="The branch that was moved, once it has landed")
    commit: str = Field(description="The tested result, once there is one")
    reason: str
    calls: int = Field(description="Model calls")
    tokens: int
    cost_usd: float
    nodes: list[NodeView] = Field(description="Those that need a look first; the integration is @integrate")
    nodes_left_out: int
    next: str = Field(description="What to call now")


class RunLine(_Answer):
    """A run in the list of runs."""

    run: str
    state: str
    feature: str
    done: int
    total: int
    opened_ms: int


class Cancelled(_Answer):
    """Answer of run_cancel."""

    run: str
    state: str


class Paused(_Answer):
    """Answer of run_pause."""

    run: str
    state: str
    running: int = Field(description="Nodes that run still, to their end")
    next: str = Field(description="What to call now")


class Reason(_Answer):
    """Answer of why."""

    run: str
    node: str
    state: str
    why: str
    fix: str
    feedback: str = Field(description="What its last red attempt left for the next one")


class EventView(_Answer):
    """One transition."""

    id: str = Field(description="Position, to read on from")
    at_ms: int
    kind: str
    node: str
    state: str
    attempt: int
    reason: str


class Events(_Answer):
    """Answer of events."""

    run: str
    events: list[EventView]
    last: str = Field(description="Give it as `after` to read on")
    more: bool = Field(description="Whether there is more to read now")


class Runs(_Answer):
    """The resource that lists runs."""

    runs: list[RunLine] = Field(description="Newest first")
