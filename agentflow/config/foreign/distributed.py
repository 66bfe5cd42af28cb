"""A file with `distributed: {...}`: where the workers of an agent system meet."""

from __future__ import annotations

from typing import Any

from agentflow.config.foreign import conversions as to
from agentflow.config.foreign.rules import Draft, Kind, Rule, Steps, Unfit, in_spec, no


def _enabled(draft: Draft, _steps: Steps, value: Any) -> str:
    """Runs go through the team's Redis when its address is configured."""
    if value is False:
        raise Unfit("switched off: the address of the Redis is left out")
    if value is not True:
        raise Unfit(f"expected true or false, got {value!r}")
    if not (draft.at("distributed", "redis_url") or draft.at("distributed", "celery_broker")):
        raise Unfit("no address is given with it")
    return "redis.url"


def _address(draft: Draft, steps: Steps, value: Any) -> str:
    if draft.at("distributed", "enabled") is False:
        raise Unfit("switched off: left out")
    return to.redis_url(draft, steps, value)


def _broker(draft: Draft, steps: Steps, value: Any) -> str:
    if draft.at("distributed", "redis_url"):
        raise Unfit("one Redis carries both messages and state: redis_url is taken")
    return _address(draft, steps, value)


def _backend(draft: Draft, _steps: Steps, value: Any) -> str:
    del draft
    if value not in {"redis", "celery"}:
        raise Unfit(f"there is no {value!r}: Celery on Redis is what carries runs")
    return "redis.url; Celery on Redis is what carries runs"


RULES = (
    Rule("distributed.enabled", _enabled),
    Rule("distributed.backend", _backend),
    Rule("distributed.redis_url", _address),
    Rule("distributed.celery_broker", _broker),
    no("distributed.celery_backend", "one Redis carries messages, state and results"),
    Rule("distributed.max_workers", to.to_slots("limits.fleet")),
    Rule("distributed.workers", to.to_slots("limits.fleet")),
    Rule("distributed.min_workers", to.to_processes("fleet.min_workers")),
    Rule("distributed.auto_scale", to.to_flag("fleet.autoscale")),
    in_spec("distributed.timeout_sec", "policy: {timeout: 1h}"),
    in_spec("distributed.max_retries", "policy: {retries: 3}"),
    no("distributed.queue", "each role has a queue of its own name; routing.roles renames one"),
    no("distributed.heartbeat_interval", "a worker shows that it lives by a lease, renewed each second"),
    no("distributed.shards", "said with each run"),
    no("distributed.kubernetes.**", "a worker is a process or a container; nothing here starts pods"),
)

KIND = Kind("distributed", "a file with distributed: {...}", frozenset({"distributed"}), RULES)
