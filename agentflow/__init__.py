"""agentflow runs a feature as a DAG of coding agents over a git repository.

`plan`, `run` and their like are for people (docs/python.md), `celery` is for `celery -A agentflow`. All are
loaded when first asked for, so that `agentflow --help` does not import Celery.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentflow.api import Planned, plan, result, run, shutdown, status, submit, watch
    from agentflow.app import app as celery
    from agentflow.results import RunResult
    from agentflow.runs import SubmitOptions
    from agentflow.spec.models import Spec, Task

__version__ = "0.1.0"
__all__ = [
    "Planned", "RunResult", "Spec", "SubmitOptions", "Task", "celery", "plan", "result", "run", "shutdown",
    "status", "submit", "watch",
]  # fmt: skip

_WHERE = {
    "celery": ("agentflow.app", "app"),
    "RunResult": ("agentflow.results", "RunResult"),
    "Spec": ("agentflow.spec.models", "Spec"),
    "SubmitOptions": ("agentflow.runs", "SubmitOptions"),
    "Task": ("agentflow.spec.models", "Task"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'agentflow' has no attribute {name!r}")
    module, attribute = _WHERE.get(name, ("agentflow.api", name))
    return getattr(import_module(module), attribute)
