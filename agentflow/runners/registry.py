"""Which class runs which `type:` of runner; imported only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from agentflow.environment import Runner
from agentflow.errors import ConfigError

#: type -> module:class. Importing the SDK takes half a second, so a worker without models never pays it.
RUNNERS = {
    "command": "agentflow.runners.command:CommandRunner",
    "noop": "agentflow.runners.noop:NoopRunner",
    "openai": "agentflow.runners.openai_agent:OpenAIRunner",
    "planner": "agentflow.runners.planner_agent:PlannerRunner",
}


def make_runner(config: Mapping[str, Any]) -> Runner:
    """The runner for a configuration with a `type`; raises `ConfigError` when nothing has that type."""
    kind = str(config.get("type") or "")
    place = RUNNERS.get(kind)
    if place is None:
        raise ConfigError(
            f"there is no runner of type {kind!r}", fix="use one of: " + ", ".join(sorted(RUNNERS))
        )
    module, _, name = place.partition(":")
    return cast("Runner", getattr(importlib.import_module(module), name)())
