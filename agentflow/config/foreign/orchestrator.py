"""`config.yaml` with orchestrator, redis, agno, worker, task_types: a swarm that works off Redis lists."""

from __future__ import annotations

from typing import Any

from agentflow.config.foreign import conversions as to
from agentflow.config.foreign import rates
from agentflow.config.foreign.rules import Draft, Kind, Rule, Steps, Unfit, in_spec, later, no

_LEASE = "a worker shows that it lives by a lease, renewed each second"
_LEDGER = "kept in the ledger, not in lists of their own"
_NETWORK = "time limits and connections of Redis are set in celeryconfig.py"
_MCP = "the MCP server is started by the agent that uses it, over stdio"


def _events(draft: Draft, _steps: Steps, value: Any) -> str:
    """The list of events has one name, and it is the one that these systems use."""
    del draft
    if value != "system_events":
        raise Unfit("the list is always called system_events")
    return "system_events; the list that every transition goes to has this name"


def _memory(draft: Draft, _steps: Steps, value: Any) -> str:
    """Memory of one agent, for a process that holds many."""
    found = to.number(value, whole=True, least=1)
    if isinstance(found, str):
        raise Unfit("memory of one agent from the environment cannot be turned into that of a process")
    agents = draft.at("orchestrator", "max_workers", default=to.SLOTS_PER_WORKER)
    many = isinstance(agents, int) and not isinstance(agents, bool) and agents >= 1
    slots = min(agents, to.SLOTS_PER_WORKER) if many else to.SLOTS_PER_WORKER
    ours = draft.set(("worker", "max_memory_mb"), found * slots)
    return f"{ours}; {found} MB for an agent, and a process has {slots} slots"


def _cpu(draft: Draft, _steps: Steps, value: Any) -> str:
    found = to.number(value, whole=True, least=1)
    if not isinstance(found, str) and found > 100:  # noqa: PLR2004 (percent)
        raise Unfit(f"{found} percent is more than the machine has")
    return draft.set(("worker", "host_cpu_percent"), found) + "; measured for the machine, not for one worker"


RULES = (
    Rule("system.name", to.to_name("project")),
    no("system.version", "a version of their own"),
    later("system.debug", "the level of the logs"),
    later("system.log_level", "the level of the logs"),
    Rule("orchestrator.max_workers", to.to_slots("limits.fleet")),
    Rule("orchestrator.min_workers", to.to_processes("fleet.min_workers")),
    Rule("orchestrator.auto_scale", to.to_flag("fleet.autoscale")),
    no("orchestrator.spawn_timeout", "nothing waits for a worker: it takes work when it is there"),
    no("orchestrator.health_check_interval", _LEASE),
    no("orchestrator.heartbeat_interval", _LEASE),
    no("orchestrator.heartbeat_timeout", _LEASE),
    in_spec("orchestrator.task_timeout", "policy: {timeout: 5m}"),
    in_spec("orchestrator.retry_limit", "policy: {retries: 3}"),
    in_spec("orchestrator.retry_delay", "policy: {retry_delay: 10s}"),
    Rule("orchestrator.failure_threshold", to.to_number("breaker.role", whole=True, least=1)),
    no("orchestrator.replacement_delay", "a dead worker is replaced at once, then more slowly"),
    Rule("redis.url", to.redis_url),
    Rule("redis.host", to.redis_part("host")),
    Rule("redis.port", to.redis_part("port")),
    Rule("redis.db", to.redis_part("db")),
    Rule("redis.username", to.redis_part("username")),
    Rule("redis.password", to.redis_part("password")),
    Rule("redis.ssl", to.redis_part("ssl")),
    no("redis.socket_timeout", _NETWORK),
    no("redis.socket_connect_timeout", _NETWORK),
    no("redis.max_connections", _NETWORK),
    no("redis.queues.task_queue", "each role has a queue of its own name; routing.roles renames one"),
    no("redis.queues.task_type_prefix", "each role has a queue of its own name; routing.roles renames one"),
    no("redis.queues.task_feature_prefix", "routing: {by: feature} gives each feature a queue"),
    Rule("redis.queues.event_queue", _events),
    no("redis.queues.*", _LEDGER),
    no("redis.message_ttl", "a message waits until a worker has taken it"),
    no("storage.**", "the ledger is in Redis; no other store is needed"),
    Rule("agno.model", to.openai_runner("model")),
    Rule("agno.provider", to.openai_runner("provider", to.provider)),
    Rule("agno.base_url", to.openai_runner("base_url")),
    Rule("agno.api_key_env", to.openai_runner("api_key_env")),
    no("agno.api_key", "keys stay in the environment: runners.agno.api_key_env names the variable"),
    Rule("agno.temperature", to.openai_runner("temperature", to.to_number("runners.agno.temperature"))),
    Rule(
        "agno.max_tokens",
        to.openai_runner("max", to.to_number("runners.agno.max_output_tokens", whole=True, least=1)),
    ),
    Rule("agno.max_retries", to.openai_runner("max", to.to_number("runners.agno.max_retries", whole=True))),
    Rule("agno.retry_delay", to.openai_runner("backoff_s", to.to_number("runners.agno.backoff_s"))),
    in_spec("agno.timeout", "policy: {timeout: 5m} covers the calls of an attempt"),
    Rule("worker.idle_timeout", to.to_number("worker.idle_minutes", per=60)),
    Rule("worker.max_memory_mb", _memory),
    Rule("worker.max_cpu_percent", _cpu),
    Rule("worker.concurrency", to.to_slots("worker.slots", "")),
    no("worker.heartbeat_interval", _LEASE),
    no("worker.crash_restart_delay", "a dead worker is replaced at once, then more slowly"),
    Rule("budgets.daily_usd", to.to_number("budget.day.usd")),
    Rule("budgets.default_tokens", to.to_number("budget.node.tokens", whole=True, remark="of each node")),
    Rule("budgets.per_task_type.*", to.role_tokens),
    no("budgets.**", "agentflow has budgets of the day, the run, a role and a node"),
    Rule("rate_limits.rpm", rates.provider_limit("rpm")),
    Rule("rate_limits.tpm", rates.provider_limit("tpm")),
    Rule("rate_limits.concurrency", rates.provider_limit("concurrency")),
    Rule("rate_limits.capacity", rates.provider_limit("capacity")),
    Rule("rate_limits.refillRate", rates.provider_limit("refill_rate")),
    Rule("rate_limits.max_requests", rates.in_window),
    Rule("rate_limits.window_seconds", rates.in_window),
    no("rate_limits.**", "agentflow counts calls and tokens a minute and calls at once"),
    no("mcp.server.**", _MCP),
    no("mcp.tools.**", "the tools are built in, under the same names"),
    no("task_types.*.tools", "these are tools of their own; roles.*.tools chooses among agentflow's"),
    Rule("task_types.*.max_concurrent", to.role_limit),
    Rule("task_types.*.priority", to.role_priority),
    Rule("task_types.*.model", to.role("model")),
    Rule("task_types.*.temperature", to.role("temperature")),
    Rule("task_types.*.max_tokens", to.role("max_tokens")),
    Rule("task_types.*.instructions", to.role("instructions")),
    Rule("task_types.*.system_prompt", to.role("instructions")),
    no("task_types.*.agent", "the task type is the role here"),
    in_spec("task_types.*.timeout", "timeout of a task"),
    later("logging.**", "logging"),
    later("monitoring.**", "monitoring"),
    no("network.**", _NETWORK),
    no("security.enable_auth", "who may use the Redis may use the fleet: give it a password and an ACL"),
    no("security.api_key", "who may use the Redis may use the fleet: give it a password and an ACL"),
    later("security.enable_sandbox", "sandbox"),
    later("security.SANDBOX_MODE", "sandbox"),
    later("security.sandbox_mode", "sandbox"),
    later("security.sandbox_root", "sandbox"),
    later("security.redact_patterns", "security"),
    no("security.allow_env", "runners.*.pass_env lists what a command-line agent may see"),
    no("security.rate_limit.**", "for their own API: there is none here"),
    later("SANDBOX_MODE", "sandbox"),
    no("development.mock_llm", "a scripted model is a runner: see `agentflow demo`"),
    no("development.**", "for developing their system"),
)

KIND = Kind("orchestrator", "config.yaml", frozenset({"orchestrator", "agno", "task_types"}), RULES)
