"""One Celery task per role. The name is `agentflow.role.<role>`, the queue the role's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from agentflow.app import ROLE_TASK, get_app
from agentflow.tasks import attempt
from agentflow.tasks.affinity import NEAR
from agentflow.tasks.context import current

# Agents may run for hours: a message is never taken back by Celery's own limits, which do nothing in
# a threads pool anyway. Deadlines are the attempt's.
_OPTIONS: dict[str, Any] = {"acks_late": True, "ignore_result": False, "max_retries": None}


def register(app: Celery, role: str) -> bool:
    """Give a role its Celery task on this application; False when it has one."""
    name = ROLE_TASK + role
    if name in app.tasks:
        return False
    task: Any = app.task(name=name, bind=True, **_OPTIONS)
    task(_body(role))
    return True


def _body(role: str) -> Callable[[Any, str, str], dict[str, Any]]:
    def run(self: Any, run_id: str, node_id: str) -> dict[str, Any]:
        done = attempt.perform(current(), run_id, node_id, str(self.request.hostname))
        NEAR.steer(current(), self.request, run_id, node_id)
        return done

    run.__doc__ = f"One attempt of role {role}."
    run.__name__ = f"role_{role.replace('-', '_').replace('.', '_')}"
    return run


def register_all(app: Celery) -> None:
    """The tasks of every role in this worker's configuration."""
    for role in current().config.roles:
        register(app, role)


register_all(get_app())
