"""What agentflow.yaml may hold: one model for each section, with the default of each key.

The published schema (`agentflow config schema`) and the table of docs/configuration.md are made from
these models. Sections of later versions are here already: giving one is refused with "not built yet".
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from agentflow.agents import Closed, RoleSettings, RunnerConfig
from agentflow.config.address import address_problem
from agentflow.config.budget import BudgetSettings
from agentflow.config.rates import BreakerSettings, RateLimitSettings
from agentflow.fields import AtLeastOne, Count, Duration, Flag, Name, NotBuilt, Number, Text, refusal

#: Queues with this beginning are agentflow's own.
OWN_QUEUES = "agentflow."

Percent = Annotated[int, Field(strict=True, ge=0, le=100)]
#: Fewer would catch nodes that only ran beside the cause (store/lua/caps.lua).
Losses = Annotated[int, Field(strict=True, ge=3, le=100)]
Days = Annotated[float, Field(strict=True, gt=0, le=365)]


def _address(value: Any) -> str:
    """A Redis address, checked as far as that goes without connecting."""
    if not isinstance(value, str):
        raise refusal("012", "expected an address (a string)", "for example redis://localhost:6379/0")
    problem = address_problem(value)
    if problem:
        raise refusal("013", *problem)
    return value


RedisUrl = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string", "minLength": 1})]


def _queue(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(OWN_QUEUES):
        raise refusal(
            "014", f"queues that begin with {OWN_QUEUES} are agentflow's own", "choose another name"
        )
    return value


QueueName = Annotated[Name, BeforeValidator(_queue)]


class RedisSettings(Closed):
    """The team's Redis."""

    url: RedisUrl | None = Field(
        default=None,
        description="Address of the team's Redis; without one each data directory has a private server",
    )


class DistributedSettings(Closed):
    """How a run travels to other machines."""

    max_pack_mb: AtLeastOne = Field(
        default=200, description="Largest base or result that goes through Redis, in MB; above it: `remote`"
    )
    remote: Text | None = Field(
        default=None, description="A git remote that carries what is larger than `max_pack_mb`"
    )
    pack_ttl_days: Days = Field(default=14.0, description="How long Redis keeps a pack, in days")


class WorkerSettings(Closed):
    """A worker on this machine."""

    slots: AtLeastOne | None = Field(
        default=None, description="Attempts at once in one worker process (the top-level `slots`)"
    )
    queues: tuple[Name, ...] = Field(default=(), description="Queues that it serves (every role's)")
    idle_minutes: Number = Field(
        default=0.0, description="A worker with nothing to do leaves after this many minutes; 0: never"
    )
    max_memory_mb: Count = Field(
        default=0, description="Memory of one worker process with its children, in MB; 0: no ceiling"
    )
    host_memory_percent: Percent = Field(
        default=90, description="Start no attempt while the machine uses more memory than this; 0: off"
    )
    host_cpu_percent: Percent = Field(
        default=0, description="Start no attempt while the machine's processors are busier than this; 0: off"
    )
    own_home: Flag = Field(
        default=True, description="Each attempt has an empty HOME of its own; false: the worker's HOME"
    )


class FleetSettings(Closed):
    """Worker processes that agentflow starts on this machine."""

    autoscale: Flag = Field(default=False, description="Start and end worker processes by queue depth")
    min_workers: Count = Field(default=0, description="Worker processes that stay, with `autoscale`")
    max_workers: AtLeastOne = Field(default=4, description="Worker processes at most, on one machine")
    slots_per_worker: AtLeastOne = Field(default=32, description="Slots of each worker process it starts")
    queue_cap: Count = Field(
        default=0, description="A run is refused while so many nodes wait for a slot; 0: no cap"
    )


class LimitSettings(Closed):
    """How many attempts run at once; written to the ledger when it holds no limit yet."""

    fleet: Count = Field(default=0, description="Attempts at once over all workers; 0: no limit")
    roles: dict[Name, Count] = Field(
        default_factory=dict, description="Attempts at once over all workers, by role; 0: no limit"
    )
    queue_timeouts: dict[Name, Duration] = Field(
        default_factory=dict, description="Longest wait of a node that can start, by queue; then it fails"
    )
    losses: Losses = Field(
        default=5,
        description="Deaths of its worker in a row, nothing settled between, that quarantine a node (3..)",
    )


class RoutingSettings(Closed):
    """Which queue a node goes through."""

    by: Literal["role", "feature"] = Field(
        default="role", description="role: one queue for each role; feature: one for each feature"
    )
    roles: dict[Name, QueueName] = Field(default_factory=dict, description="The queue of a role, by role")


class PlannerSettings(Closed):
    """Who turns words into a spec."""

    runner: Name | None = Field(default=None, description="The runner that plans (`default_runner`)")
    model: Text | None = Field(default=None, description="The model that plans (the runner's)")
    max_tasks: AtLeastOne = Field(default=40, description="Most tasks of a plan")


def default_slots() -> int:
    """Slots of the private worker: agents wait more than they compute."""
    return max(4, 2 * (os.cpu_count() or 2))


class Common(Closed):
    """What the files and the program's own view have alike."""

    project: Name | None = Field(
        default=None, description="The repository's name for the team; its root commit when there is none"
    )
    slots: AtLeastOne = Field(default_factory=default_slots, description="Attempts at once on this machine")
    idle_minutes: Number = Field(
        default=10.0, description="The private Redis and its worker end after this many idle minutes"
    )
    default_runner: Name = Field(default="openai", description="The runner of what names none")
    distributed: DistributedSettings = Field(default_factory=DistributedSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    fleet: FleetSettings = Field(default_factory=FleetSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    rate_limits: RateLimitSettings = Field(default_factory=RateLimitSettings)
    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    routing: RoutingSettings = Field(default_factory=RoutingSettings)
    planner: PlannerSettings = Field(default_factory=PlannerSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)


class Settings(Common):
    """agentflow.yaml as a whole."""

    data_dir: Text | None = Field(
        default=None, description="Where ledger, logs and workspaces are kept ($XDG_DATA_HOME/agentflow)"
    )
    redis: RedisSettings = Field(default_factory=RedisSettings)
    runners: dict[Name, RunnerConfig] = Field(default_factory=dict, description="Who does the work, by name")
    roles: dict[Name, RoleSettings] = Field(
        default_factory=dict, description="Roles that are changed or added, by name or alias"
    )
    providers: NotBuilt = Field(
        default=None, description="Presets of endpoints, and which role may use which"
    )
    sandbox: NotBuilt = Field(default=None, description="How commands are kept from the machine")
    security: NotBuilt = Field(default=None, description="Redaction patterns, signing, protected files")
    hooks: NotBuilt = Field(default=None, description="Commands at checkpoint, merge, validate and land")
    cache: NotBuilt = Field(default=None, description="Reuse of nodes and of model calls")
    notify: NotBuilt = Field(default=None, description="A command or webhook for what happens")
    monitoring: NotBuilt = Field(default=None, description="Metrics, alerts and their thresholds")
    telemetry: NotBuilt = Field(default=None, description="Traces by OpenTelemetry")
    logging: NotBuilt = Field(default=None, description="Level, form and place of the logs")


class Timing(Closed):
    """For tests and for looking for faults: read from the environment only."""

    lease_ttl_ms: AtLeastOne = 3000
    renew_ms: AtLeastOne = 1000
    scan_ms: AtLeastOne = 500
    #: Length of the windows in which calls and tokens are counted (`rpm` and `tpm` hold for it).
    rate_window_ms: AtLeastOne = 60_000
    #: Seconds that a leaving worker lets its attempts go on.
    grace_s: Number = 10.0
    #: Off only to show that the canvas carries a run by itself.
    reconcile: Flag = True
