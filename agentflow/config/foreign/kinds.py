"""The older systems, and which one a file is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentflow.config.foreign import automatosx, distributed, orchestrator, parallel
from agentflow.config.foreign.rules import Kind
from agentflow.config.sections import Settings
from agentflow.errors import UsageError

KINDS = (orchestrator.KIND, automatosx.KIND, parallel.KIND, distributed.KIND)


def kind_of(name: str, document: Mapping[str, Any]) -> Kind:
    """The kind whose keys the file has most of. Raises `UsageError` when it is none."""
    keys = set(document)
    fitting = [kind for kind in KINDS if keys & kind.signs]
    if fitting:
        return max(fitting, key=lambda kind: (len(keys & kind.signs), len(keys & kind.top())))
    if keys and keys <= set(Settings.model_fields):
        raise UsageError(
            f"{name} is in agentflow's own form already",
            why="every key at its top is one of agentflow.yaml's",
            fix="put it beside the repository's top as agentflow.yaml",
            code="AF-CONFIG-051",
        )
    raise UsageError(
        f"{name} is not a configuration that agentflow can read",
        why=f"its top-level keys are: {', '.join(sorted(keys)[:12]) or 'none'}",
        fix="; ".join(f"{kind.file} has {' or '.join(sorted(kind.signs))}" for kind in KINDS),
        code="AF-CONFIG-050",
    )
