"""Where a message goes and how soon it is served: functions of role, feature, user priority and rank."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentflow.app import INTEGRATE_TASK, ROLE_TASK, SYSTEM_QUEUE

#: First and last message priority of each user priority. On Redis **0 is served first**; a broker
#: where 9 is the highest turns the number around here.
_BANDS = {"critical": (0, 1), "high": (2, 3), "medium": (4, 6), "low": (7, 9)}
INTEGRATE_PRIORITY = 0
WOKEN_PRIORITY = 0


def priority_of(priority: str, rank: float, longest: float) -> int:
    """The message priority 0-9: the user's band, and in it the longest way to the end first."""
    first, last = _BANDS[priority]
    share = 1.0 - min(1.0, rank / longest) if longest > 0 else 0.0
    return first + round(share * (last - first))


def first_of_band(priority: str) -> int:
    """The message priority that is served first of a user priority."""
    return _BANDS[priority][0]


def task_name(role: str) -> str:
    """The Celery task of a role."""
    return ROLE_TASK + role


def queue_of(role: str, queue: str = "") -> str:
    """The queue of a node: the one decided when it was planned, else its role's own (the role's name)."""
    return queue or role


def feature_queue(feature: str) -> str:
    """The queue of a feature, for workers that serve nothing else: `feature.` and its slug."""
    return "feature." + (re.sub(r"[^a-z0-9]+", "-", feature.lower()).strip("-")[:40].strip("-") or "feature")


def decide_queue(
    role: str,
    *,
    asked: str | None,
    by: str = "role",
    roles: Mapping[str, str] | None = None,
    feature: str = "",
) -> str:
    """The queue that a node is planned to go through; '' for its role's own.

    What the spec asks for (`queue:`) comes first, then the queue configured for the role
    (`routing.roles`), then, with `routing.by: feature`, the feature's.
    """
    if asked:
        return asked
    if roles and role in roles:
        return roles[role]
    return feature_queue(feature) if by == "feature" else ""


__all__ = [
    "INTEGRATE_PRIORITY",
    "INTEGRATE_TASK",
    "SYSTEM_QUEUE",
    "WOKEN_PRIORITY",
    "decide_queue",
    "feature_queue",
    "first_of_band",
    "priority_of",
    "queue_of",
    "task_name",
]
