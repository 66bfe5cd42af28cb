"""The Celery application: settings from celeryconfig.py, one queue per role, one for the system."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from agentflow import broker
from agentflow.config import Config, load_config

#: The queue that every worker consumes: integration and maintenance.
SYSTEM_QUEUE = "agentflow.system"
#: The Celery task name of a role is this and the role.
ROLE_TASK = "agentflow.role."
INTEGRATE_TASK = "agentflow.integrate"
_HERE = Path(__file__).parent


def settings() -> ModuleType:
    """celeryconfig.py as a module: from the wheel's package, else from the project's top level."""
    shipped = _HERE / "celeryconfig.py"
    path = shipped if shipped.exists() else _HERE.parent / "celeryconfig.py"
    spec = importlib.util.spec_from_file_location("agentflow_celeryconfig", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def queue(name: str) -> Queue:
    """A direct queue of that name (role or system)."""
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def make_app(config: Config) -> Celery:
    """The application for a configuration, one for each broker; the attribute `app` is this process' own."""
    return _app_at(config.broker_url(), frozenset(config.roles))


@functools.cache
def _app_at(url: str, roles: frozenset[str]) -> Celery:
    broker.use()
    app = Celery("agentflow", set_as_current=True)
    app.config_from_object(settings())
    app.conf.update(
        broker_url=url,
        result_backend=url,
        task_queues=[queue(SYSTEM_QUEUE), *(queue(role) for role in sorted(roles))],
        imports=("agentflow.tasks.roles", "agentflow.tasks.integrate", "agentflow.tasks.worker"),
    )
    return app


def get_app() -> Celery:
    """The application of this process, configured from where it was started."""
    return make_app(_own_config())


@functools.cache
def _own_config() -> Config:
    return load_config(Path.cwd())


def __getattr__(name: str) -> Any:
    if name == "app":
        return get_app()
    raise AttributeError(name)
