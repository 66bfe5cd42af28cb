"""Feature files to start from, without a model: `agentflow plan --template NAME`."""

from __future__ import annotations

import json
from importlib.resources import files

from agentflow.errors import UsageError
from agentflow.explain import did_you_mean

_PLACE = "feature: FEATURE\n"


def names() -> list[str]:
    """The templates that there are."""
    return sorted(
        found.name.removesuffix(".yaml")
        for found in files("agentflow").joinpath("templates").iterdir()
        if found.name.endswith(".yaml")
    )


def template(name: str, feature: str) -> str:
    """The text of a template with the feature's name in it. Raises `UsageError` when there is none."""
    known = names()
    if name not in known:
        raise UsageError(
            f"there is no template {name!r}",
            fix=did_you_mean(name, known) or f"templates are: {', '.join(known)}",
            code="AF-USAGE-015",
        )
    written = files("agentflow").joinpath("templates", f"{name}.yaml").read_text("utf-8")
    said = " ".join(feature.split())[:200] or f"My {name}"
    return written.replace(_PLACE, f"feature: {json.dumps(said, ensure_ascii=False)}\n", 1)
