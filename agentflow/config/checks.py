"""What must hold between keys, whatever sources they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentflow.config.layers import Layers
from agentflow.config.sections import Settings
from agentflow.errors import Problem
from agentflow.explain import did_you_mean


def cross_problems(layers: Layers) -> list[Problem]:
    """All of them, each at the place of the value that is to change."""
    checks = (_runners, _aliases, _roles, _edges, _providers, _numbers)
    return [problem for check in checks for problem in check(layers)]


def _runners(layers: Layers) -> Iterator[Problem]:
    """Runners that are named and not configured."""
    values, runners = layers.values, layers.values["runners"]
    named = {
        "default_runner": values.get("default_runner", Settings.model_fields["default_runner"].default),
        "planner.runner": values.get("planner", {}).get("runner"),
    }
    named |= {f"roles.{name}.runner": role.get("runner") for name, role in values["roles"].items()}
    for key, runner in named.items():
        if runner is not None and runner not in runners:
            yield layers.problem(
                key, "025", f"{key} names the runner {runner!r}, which is not configured",
                did_you_mean(runner, runners) or f"runners are: {', '.join(sorted(runners))}",
            )  # fmt: skip


def _aliases(layers: Layers) -> Iterator[Problem]:
    """Words that stand for two roles."""
    roles: Mapping[str, Any] = layers.values["roles"]
    owners = {name: name for name in roles}
    for name, role in roles.items():
        for alias in role["aliases"]:
            owner = owners.setdefault(alias, name)
            if owner != name:
                reason = f"the alias {alias!r} of the role {name} already stands for {owner}"
                yield layers.problem(f"roles.{name}.aliases", "020", reason, "choose another word")


def _roles(layers: Layers) -> Iterator[Problem]:
    """Roles that limits and routing name and that are not there."""
    roles = layers.values["roles"]
    for section in ("limits", "routing", "rate_limits", "budget"):
        for word in layers.values.get(section, {}).get("roles", {}):
            if word not in roles:
                known = [*roles, *(alias for role in roles.values() for alias in role["aliases"])]
                reason = f"{section}.roles names the role {word!r}, which is not there"
                fix = did_you_mean(word, known) or f"roles are: {', '.join(sorted(roles))}"
                yield layers.problem(f"{section}.roles.{word}", "026", reason, fix)


def _edges(layers: Layers) -> Iterator[Problem]:
    """What roles depend on and nobody is or provides."""
    roles = layers.values["roles"]
    known = {
        word for name, role in roles.items() for word in (name, *role["aliases"], *role.get("provides", ()))
    }
    for name, role in roles.items():
        for word in role.get("depends_on", ()):
            if word not in known:
                reason = f"the role {name} depends on {word!r}, which no role is or provides"
                fix = did_you_mean(word, known) or f"roles are: {', '.join(sorted(roles))}"
                yield layers.problem(f"roles.{name}.depends_on", "026", reason, fix)


def _providers(layers: Layers) -> Iterator[Problem]:
    """Providers whose rates are limited and that are neither a runner nor a host."""
    runners = layers.values["runners"]
    for name in layers.values.get("rate_limits", {}).get("providers", {}):
        if name not in runners and "." not in name and name != "localhost":
            reason = f"rate_limits.providers names {name!r}, which is no runner and no host"
            fix = did_you_mean(name, runners) or f"runners are: {', '.join(sorted(runners))}"
            yield layers.problem(f"rate_limits.providers.{name}", "025", reason, fix)


def _numbers(layers: Layers) -> Iterator[Problem]:
    """Numbers that do not go together."""
    fleet = Settings(fleet=layers.values.get("fleet", {})).fleet
    if fleet.min_workers > fleet.max_workers:
        key = "fleet.min_workers" if "fleet.min_workers" in layers.origins else "fleet.max_workers"
        reason = f"fleet.min_workers is {fleet.min_workers} and fleet.max_workers {fleet.max_workers}"
        yield layers.problem(key, "027", reason, "the first must not be above the second")
    if "" in layers.values.get("worker", {}).get("queues", ()):
        yield layers.problem("worker.queues", "014", "a queue without a name", "remove it")
