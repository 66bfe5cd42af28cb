"""The Celery application: settings from celeryconfig.py, one queue per role, one for the system."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from agentflow import broker
from agentflow.config import Config, load_config
from agentflow.errors import AgentflowError

#: The queue that every worker consumes: integration and maintenance.
SYSTEM_QUEUE = "agentflow.system"
#: A worker's own queue is this and the worker's name (tasks/affinity.py).
WORKER_QUEUE = broker.OWN_QUEUE
#: The Celery task name of a role is this and the role.
ROLE_TASK = "agentflow.role."
INTEGRATE_TASK = "agentflow.integrate"
_HERE = Path(__file__).parent


def settings(name: str = "celeryconfig") -> ModuleType:
    """celeryconfig.py (or flowerconfig.py): from the wheel's package, else from the project's top level."""
    shipped = _HERE / f"{name}.py"
    path = shipped if shipped.exists() else _HERE.parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"agentflow_{name}", path)
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
        _prepare_flower()
        try:
            return get_app()
        except AgentflowError as error:
            # The `celery` command would show a traceback, or only that there is no application.
            sys.stderr.write(error.explain() + "\n")
            raise SystemExit(int(error.exit_code)) from error
    raise AttributeError(name)


def _prepare_flower() -> None:
    """Give Flower the defaults of flowerconfig.py; its environment, its file and its flags come later.

    The `celery` command has imported Flower when it asks for the application, whatever it is to do next.
    """
    flower = sys.modules.get("flower.options")
    if flower:
        for name, value in vars(settings("flowerconfig")).items():
            if not name.startswith("_"):
                setattr(flower.default_options, name, value)
