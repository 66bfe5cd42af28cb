"""Rate limits of older systems: they belong to the one runner that such a file makes."""

from __future__ import annotations

from typing import Any

from agentflow.config.foreign import conversions as to
from agentflow.config.foreign.rules import Convert, Draft, Steps, Unfit

_MINUTE_S = 60
#: Why a command-line agent's own calls cannot be limited.
OWN_CALLS = "a command-line agent calls its provider itself: limits.roles says how many run at once"


def provider_limit(key: str) -> Convert:
    """A limit of the provider that their agents use: `agno`, where the file has such a section, else ours."""

    def convert(draft: Draft, _steps: Steps, value: Any) -> str:
        found = to.number(value, whole=key != "refill_rate", least=0 if key == "refill_rate" else 1)
        return draft.set(("rate_limits", "providers", _runner(draft), key), found)

    return convert


def in_window(draft: Draft, _steps: Steps, value: Any) -> str:
    """So many requests in a window of their own length, as requests a minute."""
    if draft.at("rate_limits", "rpm") is not None:
        raise Unfit("rpm says it")
    most = to.number(draft.at("rate_limits", "max_requests"), least=1)
    window = to.number(draft.at("rate_limits", "window_seconds", default=_MINUTE_S), least=1)
    if isinstance(most, str) or isinstance(window, str):
        raise Unfit("requests and window from the environment cannot be turned into requests a minute")
    rpm = max(1, round(most * _MINUTE_S / window))
    del value
    return draft.set(("rate_limits", "providers", _runner(draft), "rpm"), rpm) + "; requests a minute"


def _runner(draft: Draft) -> str:
    return "agno" if draft.at("agno") else "openai"
