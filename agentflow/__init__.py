"""agentflow runs a feature as a DAG of coding agents over a git repository.

`Spec`, `Task`, `run` and `plan` are for people, `celery` is for `celery -A agentflow`. All are
loaded when first asked for, so that `agentflow --help` does not import Celery.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Spec", "Task", "celery", "plan", "run"]

_WHERE = {
    "Spec": ("agentflow.spec.models", "Spec"),
    "Task": ("agentflow.spec.models", "Task"),
    "celery": ("agentflow.app", "app"),
    "plan": ("agentflow.runs", "plan"),
    "run": ("agentflow.runs", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'agentflow' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)
