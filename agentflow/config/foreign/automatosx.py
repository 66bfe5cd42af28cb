"""`automatosx.config.json`: command-line agents as providers, with profiles ("abilities") and a memory."""

from __future__ import annotations

from typing import Any

from agentflow.config.foreign import conversions as to
from agentflow.config.foreign.rates import OWN_CALLS
from agentflow.config.foreign.rules import Draft, Kind, Rule, Steps, Unfit, in_spec, later, no
from agentflow.fields import slug

_MEMORY = "there is no memory between runs: what counts is in the repository"
_STAGES = "a run can be resumed from every node; nothing is to be set"


def _enabled(draft: Draft, steps: Steps, value: Any) -> str:
    """Whether the runner is there at all."""
    if value is False:
        raise Unfit("the provider is switched off and left out")
    if not draft.at("providers", steps[0], "command"):
        raise Unfit("the provider has no command")
    return f"runners.{slug(steps[0])}"


RULES = (
    Rule("providers.*.command", to.agent_command),
    Rule("providers.*.enabled", _enabled),
    Rule("providers.*.timeout", to.agent_timeout),
    Rule("providers.*.priority", to.agent_priority),
    no("providers.*.rateLimit.**", OWN_CALLS),
    no("providers.*.model", "write it into the runner's command"),
    no("providers.*.healthCheck.**", "an agent that is not there fails its first attempt with its name"),
    in_spec("execution.defaultTimeout", "policy: {timeout: 25m}"),
    Rule("execution.maxConcurrentAgents", to.to_slots("slots", "")),
    in_spec("execution.retry.maxAttempts", "policy: {retries: 2} is two further attempts"),
    in_spec("execution.retry.initialDelay", "policy: {retry_delay: 1s}"),
    no("execution.retry.maxDelay", "the delay doubles up to a fixed cap"),
    no("execution.retry.backoffFactor", "the delay doubles up to a fixed cap"),
    no("execution.retry.retryableErrors", "which errors are tried again is decided by their kind"),
    later("execution.provider.**", "falling back from one runner to another"),
    no("execution.stages.**", _STAGES),
    no("orchestration.session.**", "a run is a session: `agentflow runs`, `agentflow gc`"),
    later("orchestration.delegation.**", "delegation"),
    no("memory.**", _MEMORY),
    no("abilities.**", "roles.*.instructions tell a role what it needs to know"),
    no("workspace.**", "workspaces are clones below data_dir; `agentflow gc` removes them"),
    later("logging.**", "logging"),
    no("performance.rateLimit.**", OWN_CALLS),
    later("performance.responseCache.**", "cache"),
    no("performance.**", "nothing of theirs is there to be cached"),
    no("advanced.security.**", "artifacts of a task say what it may write"),
    no("advanced.**", "for parts of theirs that are not here"),
    no("integration.**", "there is no editor extension"),
    no("cli.**", "options of their commands"),
    Rule("router.providerCooldownMs", to.to_number("breaker.cool_down", per=1000)),
    later("router.**", "falling back from one runner to another"),
    no("version", "a version of their own"),
    no("$schema", "their schema; ours is printed by `agentflow config schema`"),
)

KIND = Kind(
    "automatosx",
    "automatosx.config.json",
    frozenset({"providers", "abilities", "orchestration"}),
    RULES,
)
