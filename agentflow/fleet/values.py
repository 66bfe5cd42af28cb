"""What the commands on the fleet answer. Slots and processes are told apart by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The fleet at one glance.

    `orchestrator_running`: some worker leads, that is wakes, reaps and reconciles. `tasks`: nodes of open
    runs by state. `workers`: processes by state, and slots. `queues`: messages that wait, by queue. `paused`:
    why, by `fleet` or `role:<role>`.
    """

    orchestrator_running: bool
    tasks: dict[str, int]
    workers: dict[str, Any]
    queues: dict[str, int]
    limits: dict[str, int] = field(default_factory=dict)
    drained: bool = False
    reason: str = ""
    paused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scaled:
    """What `scale` did: `target` and `slots` (that live workers have) are slots, `spawned` processes."""

    status: str
    target: int
    spawned: int
    slots: int = 0
    dismissed: int = 0
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drained:
    """What `drain` did: `drained`, or `draining` while workers in `left` still finish their attempts."""

    status: str
    workers_killed: int
    snapshot: dict[str, Any]
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Killed:
    """What `kill` did: `killed`, or `incomplete` when workers in `left` (on other machines) did not obey."""

    status: str
    workers_killed: int
    attempts_ended: int = 0
    left: tuple[str, ...] = ()
