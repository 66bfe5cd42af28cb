"""What providers allow: shown with what is used of it, and changed while everything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agentflow import runs
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.store.governor import ALLOWANCES, HOST, ROLE, RUNNER, Governor, Looked

_FIX = "WHERE.LIMIT=NUMBER: model.rpm=500, api.example.com.tpm=9000, role:tester.concurrency=none"


@dataclass(frozen=True, slots=True)
class Rate:
    """One window: what it allows (0 and absent: no limit), and what is used of it now."""

    window: str
    allowed: Mapping[str, float]
    used: Looked

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self.used), "allowed": dict(self.allowed)}


def rates(config: Config) -> list[Rate]:
    """Every window that is limited, and the endpoints that are closed now."""
    governor = _governor(config)
    allowed = governor.rates()
    closed = [found for name in governor.endpoints() if (found := governor.look(name)).closed_s > 0]
    limited = [Rate(window, limits, governor.look(window)) for window, limits in allowed.items()]
    return [*limited, *(Rate(found.window, {}, found) for found in closed)]


def change_rates(config: Config, words: Sequence[str]) -> list[Rate]:
    """Set what `WHERE.LIMIT=NUMBER` says, at once and for good; `none` is what the configuration says.

    Raises `UsageError` for any word that means nothing, before anything is changed.
    """
    changes = [_change(word, config) for word in words]
    governor = _governor(config)
    for window, name, value in changes:
        governor.set_rate(window, name, value)
    return rates(config)


def _governor(config: Config) -> Governor:
    return Governor(runs.open_ledger(config).client, window_ms=config.rate_window_ms)


def _change(word: str, config: Config) -> tuple[str, str, float | None]:
    key, _, text = word.partition("=")
    where, _, name = key.rpartition(".")
    if not where or name not in ALLOWANCES:
        raise UsageError(
            f"{word!r} is no limit of a provider", why=f"limits: {', '.join(ALLOWANCES)}", fix=_FIX
        )
    try:
        value = None if text == "none" else float(text)
    except ValueError:
        raise UsageError(f"{text!r} is no number", fix=_FIX) from None
    if value is not None and (
        not 0 <= value < math.inf or (name != "refill_rate" and not value.is_integer())
    ):
        raise UsageError(f"{name} cannot be {text}", fix=_FIX)
    return _window(where, config), name, value if value is None or name == "refill_rate" else int(value)


def _window(where: str, config: Config) -> str:
    if where.startswith(ROLE):
        word = where.removeprefix(ROLE)
        return ROLE + (config.role_name(word) or word)
    if where in config.runners:
        return RUNNER + where
    if "." in where or where == "localhost":
        return HOST + where
    raise UsageError(
        f"{where!r} is neither a runner nor a host",
        fix=f"runners are: {', '.join(sorted(config.runners))}; a role is written role:NAME",
    )
