"""Where a model answers, with which key, and what a token of it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from agentflow.environment import Usage
from agentflow.errors import ConfigError, ProviderError

#: How often a request is repeated before the attempt fails, unless the configuration says otherwise.
MAX_RETRIES = 4
#: The first back-off; it doubles from there, with jitter.
BACKOFF_S = 0.5
OPENAI_URL = "https://api.openai.com/v1"
DEFAULT_KEY_NAME = "OPENAI_API_KEY"
#: The SDK refuses an empty key; servers that need none ignore this one.
NO_KEY = "unused"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model behind one base URL. Prices are US dollars per million tokens."""

    base_url: str
    model: str
    api_key: str = NO_KEY
    key_name: str = ""
    temperature: float | None = None
    max_output_tokens: int | None = None
    input_price: float = 0.0
    output_price: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    max_retries: int = MAX_RETRIES
    backoff_s: float = BACKOFF_S
    #: Calls of one conversation, repeated ones too; 0: no limit.
    max_model_calls: int = 0

    @property
    def address(self) -> str:
        """Host and port (when it is not the scheme's own), as providers are told apart."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2].lower()

    @classmethod
    def read(cls, runner: Mapping[str, Any], environ: Mapping[str, str]) -> Self:
        """The endpoint of a configured runner; the key comes from the environment, never from a file.

        `environ` is that of the worker: OPENAI_BASE_URL and AGENTFLOW_MODEL stand in for what the runner
        leaves open. Raises `ConfigError` without a model, `ProviderError` (not retryable) without the key.
        """
        base_url = str(runner.get("base_url") or environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        model = str(runner.get("model") or environ.get("AGENTFLOW_MODEL") or "")
        if not model:
            raise ConfigError(
                "the openai runner has no model",
                fix="set `model:` of the runner or role, or $AGENTFLOW_MODEL",
            )
        key_name = str(runner.get("api_key_env") or "")
        if not environ.get(key_name) and _needs_key(base_url, key_name):
            raise _no_key(key_name, base_url)
        prices = runner.get("prices") or {}
        return cls(
            base_url=base_url,
            model=model,
            api_key=environ.get(key_name) or NO_KEY,
            key_name=key_name,
            temperature=runner.get("temperature"),
            # The role's limit (max_tokens) goes before the runner's.
            max_output_tokens=runner.get("max_tokens") or runner.get("max_output_tokens"),
            input_price=float(prices.get("input") or 0.0),
            output_price=float(prices.get("output") or 0.0),
            headers=dict(runner.get("headers") or {}),
            max_retries=int(_given(runner, "max_retries", MAX_RETRIES)),
            backoff_s=float(_given(runner, "backoff_s", BACKOFF_S)),
            max_model_calls=int(_given(runner, "calls_per_agent", 0)),
        )

    def bill(self, sent: int, received: int, *, estimated: bool) -> Usage:
        """One call's usage with its price."""
        cost = (sent * self.input_price + received * self.output_price) / 1_000_000
        share = {"calls": 1, "input_tokens": sent, "output_tokens": received, "cost_usd": cost}
        return Usage(1, sent, received, cost, estimated, models={self.model: share})


def _given(runner: Mapping[str, Any], name: str, default: float) -> float:
    """A number of the runner's; 0 is a choice, None is not."""
    value = runner.get(name)
    return default if value is None else value


def _needs_key(base_url: str, key_name: str) -> bool:
    """Whether a call without key is sure to be refused: many compatible servers (a local one) need none."""
    return base_url.startswith(OPENAI_URL) or key_name not in {"", DEFAULT_KEY_NAME}


def _no_key(name: str, base_url: str) -> ProviderError:
    error = ProviderError(
        f"${name or DEFAULT_KEY_NAME} is not set where the worker runs",
        why=f"the runner needs it for {base_url}",
        fix=f"export {name or DEFAULT_KEY_NAME}=... and start the worker again "
        "(`agentflow down` ends the local one)",
    )
    error.retryable = False
    return error
