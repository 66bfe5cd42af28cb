"""Where a message goes and how soon it is served: a function of role, user priority and rank."""

from __future__ import annotations

from agentflow.app import INTEGRATE_TASK, ROLE_TASK, SYSTEM_QUEUE

#: First and last message priority of each user priority. On Redis **0 is served first**; a broker
#: where 9 is the highest turns the number around here.
_BANDS = {"critical": (0, 1), "high": (2, 3), "medium": (4, 6), "low": (7, 9)}
INTEGRATE_PRIORITY = 0


def priority_of(priority: str, rank: float, longest: float) -> int:
    """The message priority 0-9: the user's band, and in it the longest way to the end first."""
    first, last = _BANDS[priority]
    share = 1.0 - min(1.0, rank / longest) if longest > 0 else 0.0
    return first + round(share * (last - first))


def task_name(role: str) -> str:
    """The Celery task of a role."""
    return ROLE_TASK + role


def queue_of(role: str) -> str:
    """The queue of a role: its own name."""
    return role


__all__ = ["INTEGRATE_PRIORITY", "INTEGRATE_TASK", "SYSTEM_QUEUE", "priority_of", "queue_of", "task_name"]
