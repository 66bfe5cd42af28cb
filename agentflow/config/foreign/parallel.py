"""`parallel-agents-config.json`: a pool of agents with strategies, resource limits and a role graph."""

from __future__ import annotations

from typing import Any

from agentflow.config.foreign import conversions as to
from agentflow.config.foreign import rates
from agentflow.config.foreign.rules import Convert, Draft, Kind, Rule, Steps, Unfit, in_spec, later, no
from agentflow.fields import slug

_SPEC_RETRY = "policy: {retries: 3, retry_delay: 5s}"
_LOCKS = "two tasks that write the same artifact run one after the other: there is nothing to choose"


def _percent(draft: Draft, _steps: Steps, value: Any) -> str:
    found = to.number(value, whole=True, least=1)
    if not isinstance(found, str) and found > 100:  # noqa: PLR2004 (percent)
        raise Unfit(f"{found} percent is more than the machine has")
    return draft.set(("worker", "host_cpu_percent"), found)


def _agent(key: str) -> Convert:
    """A key of an entry of `agents:`, which is a list; its role (else its name) is the role."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        agents = draft.at("agents")
        entry = agents[int(steps[0])] if isinstance(agents, list) else draft.at("agents", steps[0])
        word = entry.get("role") or entry.get("name") or (steps[0] if isinstance(agents, dict) else "")
        if not isinstance(word, str) or not word:
            raise Unfit("the agent has neither name nor role")
        name = (word,)
        if key == "name":
            return draft.set(("roles", to.role_of(word), "aliases"), _alias(entry, to.role_of(word)))
        if key == "role":
            return f"roles.{to.role_of(word)}"
        if key == "max_concurrent":
            return to.role_limit(draft, name, value)
        if key == "priority":
            return to.role_priority(draft, name, value)
        if key in {"depends_on", "provides"}:
            return to.role_edges(key)(draft, name, value)
        return to.role(key)(draft, name, value)

    return convert


def _alias(entry: dict[str, Any], role: str) -> list[str]:
    """The agent's name as a further word for its role."""
    name = slug(to.text(entry.get("name")))
    if to.role_of(name) == role:
        raise Unfit(f"it stands for the role {role} already")
    return [name]


RULES = (
    no("enabled", "nothing runs before `agentflow run`"),
    Rule("maxParallelAgents", to.to_slots("slots", "")),
    Rule("maxParallel", to.to_slots("slots", "")),
    in_spec("defaultStrategy", "strategy: concurrent"),
    Rule("execution.workerPool.minWorkers", to.to_processes("fleet.min_workers")),
    Rule("execution.workerPool.maxWorkers", to.to_slots("limits.fleet")),
    Rule("execution.workerPool.autoScale", to.to_flag("fleet.autoscale")),
    later("execution.taskQueue.maxQueueSize", "a cap on what waits"),
    no("execution.taskQueue.priorityLevels", "the levels are critical, high, medium and low"),
    in_spec("execution.taskQueue.timeout", "policy: {timeout: 10m}"),
    in_spec("strategies.concurrent.maxConcurrency", "policy: {max_concurrent: 5}"),
    in_spec("strategies.pipeline.defaultPipeline", "stages: [{stage, agents}]"),
    in_spec("strategies.hybrid.rules", "strategy: hybrid"),
    in_spec("strategies.**", "strategy: concurrent, pipeline or hybrid"),
    Rule("dependencies.dependencyGraph.*.dependsOn", to.role_edges("depends_on")),
    Rule("dependencies.dependencyGraph.*.provides", to.role_edges("provides")),
    no("dependencies.**", "order follows from needs and roles; a cycle is an error of the spec"),
    Rule("agents.*.name", _agent("name")),
    Rule("agents.*.role", _agent("role")),
    Rule("agents.*.model", _agent("model")),
    Rule("agents.*.temperature", _agent("temperature")),
    Rule("agents.*.maxTokens", _agent("max_tokens")),
    Rule("agents.*.instructions", _agent("instructions")),
    Rule("agents.*.prompt", _agent("instructions")),
    Rule("agents.*.maxConcurrent", _agent("max_concurrent")),
    Rule("agents.*.priority", _agent("priority")),
    Rule("agents.*.dependsOn", _agent("depends_on")),
    Rule("agents.*.provides", _agent("provides")),
    no("agents.*.tools", "these are tools of their own; roles.*.tools chooses among agentflow's"),
    in_spec("agents.*.timeout", "timeout of a task"),
    Rule("redis.url", to.redis_url),
    Rule("redis.host", to.redis_part("host")),
    Rule("redis.port", to.redis_part("port")),
    Rule("redis.db", to.redis_part("db")),
    Rule("redis.username", to.redis_part("username")),
    Rule("redis.password", to.redis_part("password")),
    Rule("redis.ssl", to.redis_part("ssl")),
    no("worktrees.**", "each attempt has a clone of its own, never a worktree"),
    in_spec("timeouts.**", "policy: {timeout: 10m}, and timeout of a task"),
    no("checkpointIntegration.rollbackOnFailure", "a run that fails lands nothing"),
    no("checkpointIntegration.**", "each node's commit is a checkpoint; there is nothing to switch on"),
    Rule("resourceManagement.cpu.maxCpuPercent", _percent),
    no("resourceManagement.cpu.throttleThreshold", "above worker.host_cpu_percent no attempt starts"),
    later("resourceManagement.cpu.perAgentLimit", "sandbox"),
    Rule("resourceManagement.memory.maxMemoryMB", to.to_slots("worker.max_memory_mb", "")),
    later("resourceManagement.memory.perAgentLimitMB", "sandbox"),
    Rule("resourceManagement.api.maxConcurrentRequests", rates.provider_limit("concurrency")),
    Rule("resourceManagement.api.requestsPerMinute", rates.provider_limit("rpm")),
    Rule("resourceManagement.api.tokensPerMinute", rates.provider_limit("tpm")),
    Rule("resourceManagement.api.rateLimit.capacity", rates.provider_limit("capacity")),
    Rule("resourceManagement.api.rateLimit.refillRate", rates.provider_limit("refill_rate")),
    no("resourceManagement.api.perAgentLimit", "an agent makes one call at a time"),
    no("resourceManagement.api.**", "agentflow counts calls and tokens a minute and calls at once"),
    no("retryPolicy.enabled", "retries: 0 in a spec switches them off"),
    in_spec("retryPolicy.**", _SPEC_RETRY),
    no("conflictResolution.**", _LOCKS),
    no("costOptimization.budgetAware", "budgets are always kept; budget.run.usd sets one"),
    no("costOptimization.**", "agentflow keeps budgets (budget.run.usd) and does not choose models by price"),
    later("monitoring.**", "monitoring"),
    later("notifications.**", "notify"),
    later("logging.**", "logging"),
    no("version", "a version of their own"),
    no("$schema", "their schema; ours is printed by `agentflow config schema`"),
)

KIND = Kind(
    "parallel-agents",
    "parallel-agents-config.json",
    frozenset({"maxParallelAgents", "maxParallel", "strategies", "conflictResolution"}),
    RULES,
)
