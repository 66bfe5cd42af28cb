"""What a provider allows, and when something that fails again and again is paused."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from agentflow.agents import Closed
from agentflow.fields import Count, Duration, Name, Number, refusal

#: Other systems' words for the keys of a bucket.
_WORDS = {"refillRate": "refill_rate"}


def _publish_other_words(schema: dict[str, Any]) -> None:
    for theirs, ours in _WORDS.items():
        schema["properties"][theirs] = schema["properties"][ours]


class RateLimit(Closed):
    """What may be asked of a provider, by all workers together; 0: no limit.

    `rpm` and `tpm` hold for any minute; `capacity` and `refill_rate` are a bucket of calls (all of it at
    once, then so many a second). What is given holds together.
    """

    model_config = ConfigDict(json_schema_extra=_publish_other_words)

    rpm: Count = Field(default=0, description="Calls a minute")
    tpm: Count = Field(default=0, description="Tokens a minute, sent and received")
    concurrency: Count = Field(default=0, description="Calls at once")
    capacity: Count = Field(default=0, description="Calls at once out of a full bucket")
    refill_rate: Number = Field(default=0.0, description="Calls a second that the bucket gets back")

    @model_validator(mode="before")
    @classmethod
    def _other_words(cls, value: Any) -> Any:
        """`{capacity, refillRate}` is the same bucket in other systems' words."""
        if not isinstance(value, dict):
            return value
        return {_WORDS.get(key, key): item for key, item in value.items()}

    @model_validator(mode="after")
    def _whole_bucket(self) -> RateLimit:
        if bool(self.capacity) != bool(self.refill_rate):
            raise refusal("013", "a bucket has both capacity and refill_rate", "give the other one too")
        return self


class RateLimitSettings(Closed):
    """How much may be asked of providers; written to the ledger, where an operator may set other figures."""

    providers: dict[Name, RateLimit] = Field(
        default_factory=dict,
        description="rpm, tpm, concurrency, capacity and refill_rate, by a runner's name or its host",
    )
    roles: dict[Name, RateLimit] = Field(default_factory=dict, description="The same for the calls of a role")
    calls_per_agent: Count = Field(
        default=0, description="Calls of the model in one attempt, repeated ones too; 0: no limit"
    )


class BreakerSettings(Closed):
    """When what fails again and again is paused; a success closes the breaker and begins the count anew."""

    role: Count = Field(
        default=5, description="Failed nodes of a role in a row, over all runs, that pause it; 0: never"
    )
    provider: Count = Field(
        default=5, description="Attempts in a row that failed for an endpoint's sake and pause it; 0: never"
    )
    run: Count = Field(default=0, description="Failed nodes of a run that pause it; 0: never")
    cool_down: Duration = Field(
        default=60.0, description="Until one trial is let through; doubled with each trial that fails"
    )
