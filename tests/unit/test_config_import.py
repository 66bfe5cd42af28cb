"""Files of older systems, key by key: each has a line of its own here or is refused with a reason."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentflow.config import Config, ConfigFileError, load_config
from agentflow.config.foreign.kinds import KINDS
from agentflow.config.foreign.reading import Imported, read_foreign
from agentflow.config.foreign.writing import as_yaml
from agentflow.errors import UsageError

FILES = Path(__file__).with_name("foreign")
NAMES = ("config.yaml", "automatosx.config.json", "parallel-agents-config.json", "distributed.json")

#: File, key -> key of ours and its value there. All other keys of the files must be named as unsupported.
TAKEN: dict[str, dict[str, tuple[str, Any]]] = {
    "config.yaml": {
        "system.name": ("project", "checkout-swarm"),
        "orchestrator.max_workers": ("limits.fleet", 80),
        "orchestrator.min_workers": ("fleet.min_workers", 2),
        "orchestrator.auto_scale": ("fleet.autoscale", True),
        **dict.fromkeys(
            ["redis.host", "redis.port", "redis.db", "redis.username", "redis.password", "redis.ssl"],
            ("redis.url", "redis://swarm:hunter2@redis.team.example:6390/2"),
        ),
        "redis.queues.event_queue": ("system_events", None),
        "agno.model": ("runners.agno.model", "a-model"),
        "agno.provider": ("runners.agno.api_key_env", "TEAM_KEY"),
        "agno.base_url": ("runners.agno.base_url", "https://models.team.example/v1"),
        "agno.api_key_env": ("runners.agno.api_key_env", "TEAM_KEY"),
        "agno.temperature": ("runners.agno.temperature", 0.2),
        "agno.max_tokens": ("runners.agno.max_output_tokens", 3000),
        "agno.max_retries": ("runners.agno.max_retries", 4),
        "agno.retry_delay": ("runners.agno.backoff_s", 2),
        "worker.idle_timeout": ("worker.idle_minutes", 10),
        "worker.max_memory_mb": ("worker.max_memory_mb", 256 * 32),
        "worker.max_cpu_percent": ("worker.host_cpu_percent", 70),
        "worker.concurrency": ("worker.slots", 8),
        "orchestrator.failure_threshold": ("breaker.role", 6),
        "rate_limits.rpm": ("rate_limits.providers.agno.rpm", 100),
        "rate_limits.tpm": ("rate_limits.providers.agno.tpm", 200_000),
        "rate_limits.concurrency": ("rate_limits.providers.agno.concurrency", 12),
        "rate_limits.capacity": ("rate_limits.providers.agno.capacity", 9),
        "rate_limits.refillRate": ("rate_limits.providers.agno.refill_rate", 1.5),
        "budgets.default_tokens": ("budget.node.tokens", 9000),
        "budgets.daily_usd": ("budget.day.usd", 20),
        "budgets.per_task_type.backend": ("budget.roles.backend.tokens", 4000),
        "task_types.frontend.max_concurrent": ("limits.roles.frontend", 12),
        "task_types.frontend.priority": ("roles.frontend.priority", "high"),
        "task_types.qa.model": ("roles.tester.model", "small-model"),
        "task_types.qa.temperature": ("roles.tester.temperature", 0),
        "task_types.qa.max_tokens": ("roles.tester.max_tokens", 1200),
        "task_types.qa.instructions": (
            "roles.tester.instructions", "Look at the edges.\nIt costs $$5.",
        ),
        "task_types.mobile.max_concurrent": ("limits.roles.mobile", 3),
        "task_types.mobile.system_prompt": ("roles.mobile.instructions", "Build apps."),
    },
    "automatosx.config.json": {
        "providers.Claude Code.enabled": ("runners.claude-code", None),
        "providers.Claude Code.timeout": ("runners.claude-code.timeout", 900),
        "providers.Claude Code.command": (
            "runners.claude-code.command",
            ("sh", "-c", 'claude -p --permission-mode acceptEdits < "$1"', "sh", "{prompt_file}"),
        ),
        "providers.openai.enabled": ("runners.openai", None),
        "providers.openai.priority": ("default_runner", "openai"),
        "providers.openai.timeout": ("runners.openai.timeout", 600),
        "providers.openai.command": (
            "runners.openai.command",
            ("sh", "-c", 'codex exec --sandbox workspace-write - < "$1"', "sh", "{prompt_file}"),
        ),
        "providers.own.command": (
            "runners.own.command", ("sh", "-c", 'our-agent < "$1"', "sh", "{prompt_file}"),
        ),
        "execution.maxConcurrentAgents": ("slots", 6),
        "router.providerCooldownMs": ("breaker.cool_down", 1.0),
    },
    "parallel-agents-config.json": {
        "maxParallelAgents": ("slots", 7),
        "execution.workerPool.minWorkers": ("fleet.min_workers", 1),
        "execution.workerPool.maxWorkers": ("limits.fleet", 9),
        "execution.workerPool.autoScale": ("fleet.autoscale", True),
        "dependencies.dependencyGraph.backend-engineer.dependsOn": (
            "roles.backend.depends_on", ("architect",),
        ),
        "dependencies.dependencyGraph.backend-engineer.provides": (
            "roles.backend.provides", ("api", "database"),
        ),
        "agents.0.name": ("roles.backend.aliases", ("server", "backend-dev", "neo")),
        "agents.0.role": ("roles.backend", None),
        "agents.0.model": ("roles.backend.model", "m-1"),
        "agents.0.temperature": ("roles.backend.temperature", 0.3),
        "agents.0.maxTokens": ("roles.backend.max_tokens", 900),
        "agents.0.instructions": ("roles.backend.instructions", "Keep it small."),
        "agents.0.maxConcurrent": ("limits.roles.backend", 2),
        "agents.0.priority": ("roles.backend.priority", "high"),
        "agents.1.prompt": ("roles.games.instructions", "Build games."),
        "agents.1.dependsOn": ("roles.games.depends_on", ("tester",)),
        "agents.1.provides": ("roles.games.provides", ("game",)),
        **dict.fromkeys(
            ["redis.host", "redis.password", "redis.ssl"],
            ("redis.url", "rediss://:hunter3@10.0.0.5:6379/0"),
        ),
        "resourceManagement.cpu.maxCpuPercent": ("worker.host_cpu_percent", 75),
        "resourceManagement.memory.maxMemoryMB": ("worker.max_memory_mb", 2048),
        "resourceManagement.api.maxConcurrentRequests": ("rate_limits.providers.openai.concurrency", 6),
        "resourceManagement.api.requestsPerMinute": ("rate_limits.providers.openai.rpm", 120),
        "resourceManagement.api.tokensPerMinute": ("rate_limits.providers.openai.tpm", 90_000),
        "resourceManagement.api.rateLimit.capacity": ("rate_limits.providers.openai.capacity", 10),
        "resourceManagement.api.rateLimit.refillRate": ("rate_limits.providers.openai.refill_rate", 2.5),
    },
    "distributed.json": {
        "distributed.enabled": ("redis.url", None),
        "distributed.backend": ("redis.url", None),
        "distributed.redis_url": ("redis.url", "redis://:hunter2@10.1.2.3:6379/4"),
        "distributed.max_workers": ("limits.fleet", 12),
        "distributed.min_workers": ("fleet.min_workers", 1),
        "distributed.auto_scale": ("fleet.autoscale", False),
    },
}  # fmt: skip
#: Keys of the table whose value in these files has no counterpart.
UNFIT = {
    ("automatosx.config.json", "providers.Claude Code.priority"): "falling back",
    ("automatosx.config.json", "providers.own.priority"): "falling back",
    ("automatosx.config.json", "providers.gemini-cli.enabled"): "switched off",
    ("automatosx.config.json", "providers.gemini-cli.priority"): "falling back",
    ("automatosx.config.json", "providers.gemini-cli.timeout"): "switched off",
    ("automatosx.config.json", "providers.gemini-cli.command"): "switched off",
    ("parallel-agents-config.json", "agents.1.name"): "stands for the role games already",
    ("distributed.json", "distributed.celery_broker"): "redis_url is taken",
    ("config.yaml", "rate_limits.max_requests"): "rpm says it",
    ("config.yaml", "rate_limits.window_seconds"): "rpm says it",
}
ENVIRON = {"REDIS_PASSWORD": "hunter2", "SWARM_PASSWORD": "hunter3"}


Made = tuple[Imported, str, Config]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A file, read and written, and what the result loads as."""

    @functools.cache
    def make(name: str) -> Made:
        imported = read_foreign(FILES / name)
        text = as_yaml(imported, name)
        place = tmp_path_factory.mktemp("imported")
        (place / "agentflow.yaml").write_text(text)
        return imported, text, load_config(place, environ={"HOME": str(place), **ENVIRON})

    return make


def value_of(config: Config, key: str) -> Any:
    value: Any = config
    for step in key.replace("redis.url", "redis_url").split("."):
        value = value[step] if isinstance(value, dict) else getattr(value, step)
    return value


@pytest.mark.parametrize(("name", "key"), [(n, k) for n in NAMES for k in TAKEN[n]])
def test_a_key_that_is_taken_over(name: str, key: str, made: Callable[[str], Made]) -> None:
    imported, _, config = made(name)
    ours, value = TAKEN[name][key]
    (row,) = [row for row in imported.rows if row.key == key]
    assert row.ours == ours
    if value is not None:
        assert value_of(config, ours) == value


@pytest.mark.parametrize("name", NAMES)
def test_every_other_key_is_named_with_its_reason(name: str, made: Callable[[str], Made]) -> None:
    imported, text, _ = made(name)
    assert {row.key for row in imported.taken} == set(TAKEN[name])
    for row in imported.left:
        assert row.remark
        expected = UNFIT.get((name, row.key))
        if expected:
            assert expected in row.remark
        elif not row.key.startswith("formatting"):
            assert row.remark != "not a key of such a file that is known here", row
        assert f"{row.key}: " in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_rule_of_the_tables_is_met_by_a_file(kind: Any) -> None:
    """A rule that no file of these tests has would be a rule that nobody has seen work."""
    documents = [read_foreign(FILES / name) for name in NAMES]
    keys = [tuple(row.key.split(".")) for doc in documents if doc.kind is kind for row in doc.rows]
    unseen = [rule.pattern for rule in kind.rules if not any(rule.match(key) is not None for key in keys)]
    assert set(unseen) <= {
        # Other spellings of what the files have, tested below.
        "redis.url", "redis.port", "redis.db", "redis.username", "maxParallel", "distributed.workers",
        "agents.*.dependsOn", "agents.*.provides",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_copied_or_shown(name: str, made: Callable[[str], Made]) -> None:
    imported, text, _ = made(name)
    assert "not-to-be-copied" not in text
    assert "not-to-be-copied" not in str(imported.rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_result_says_where_each_key_comes_from(name: str, made: Callable[[str], Made]) -> None:
    imported, text, _ = made(name)
    assert text.startswith(f"# agentflow.yaml, made from {name}")
    assert yaml.safe_load(text)
    for row in imported.taken:
        if row.ours not in {"system_events", "redis.url", "roles.backend"} and row.ours.count(".") > 1:
            assert f"{row.key}" in text


def imported_text(tmp_path: Path, document: dict[str, Any]) -> Imported:
    path = tmp_path / "given.json"
    path.write_text(json.dumps(document))
    return read_foreign(path)


@pytest.mark.parametrize(
    ("document", "key", "value"),
    [
        ({"orchestrator": {}, "redis": {"url": "redis://h:1/2"}}, "redis.url", "redis://h:1/2"),
        ({"agno": {}, "redis": {"host": "h"}}, "redis.url", "redis://h:6379/0"),
        (
            {"maxParallel": 3, "redis": {"port": 7, "db": 1, "username": "u"}},
            "redis.url", "redis://u@localhost:7/1",
        ),
        ({"maxParallel": 3, "redis": {"url": "redis://h:1/2"}}, "redis.url", "redis://h:1/2"),
        ({"maxParallel": 3}, "slots", 3),
        ({"distributed": {"workers": 5}}, "limits.fleet", 5),
        ({"distributed": {"celery_broker": "redis://h:1/0"}}, "redis.url", "redis://h:1/0"),
        (
            {"orchestrator": {"max_workers": 4}, "worker": {"max_memory_mb": 100}},
            "worker.max_memory_mb", 400,
        ),
        (
            {"agno": {"model": "m"}, "rate_limits": {"max_requests": 90, "window_seconds": 30}},
            "rate_limits.providers.agno.rpm", 180,
        ),
        ({"task_types": {}, "rate_limits": {"max_requests": 90}}, "rate_limits.providers.openai.rpm", 90),
        ({"agno": {"provider": "ollama"}}, "runners.agno.base_url", "http://localhost:11434/v1"),
        ({"task_types": {"docs": {"priority": "low"}}}, "roles.docs.priority", "low"),
        ({"task_types": {"docs": {"priority": 11}}}, "roles.docs.priority", "low"),
        ({"redis": {"port": "${PORT:-7000}"}, "agno": {}}, "redis.url", "redis://localhost:7000/0"),
        ({"orchestrator": {"max_workers": "${MANY:-9}"}}, "limits.fleet", 9),
    ],
)  # fmt: skip
def test_other_spellings(tmp_path: Path, document: dict[str, Any], key: str, value: Any) -> None:
    (tmp_path / "agentflow.yaml").write_text(as_yaml(imported_text(tmp_path, document), "given.json"))
    config = load_config(tmp_path, environ={"HOME": str(tmp_path)})
    assert value_of(config, key) == value


@pytest.mark.parametrize(
    ("document", "key", "why"),
    [
        ({"orchestrator": {"max_workers": "many"}}, "orchestrator.max_workers", "expected a number"),
        ({"orchestrator": {"max_workers": 0}}, "orchestrator.max_workers", "below 1"),
        ({"agno": {"model": ""}}, "agno.model", "nothing is given"),
        ({"agno": {"provider": "acme"}}, "agno.provider", "no endpoint is known"),
        ({"agno": {}, "redis": {"password": None}}, "redis.password", "nothing is given"),
        ({"agno": {}, "worker": {"max_cpu_percent": 200}}, "worker.max_cpu_percent", "more than the machine"),
        ({"task_types": {"docs": {"priority": 0}}}, "task_types.docs.priority", "a number from 1"),
        (
            {"agno": {}, "redis": {"queues": {"event_queue": "mine"}}},
            "redis.queues.event_queue", "always called system_events",
        ),
        (
            {"distributed": {"enabled": False, "redis_url": "redis://h"}},
            "distributed.redis_url", "switched off",
        ),
        ({"distributed": {"enabled": True}}, "distributed.enabled", "no address"),
        ({"distributed": {"backend": "rabbitmq"}}, "distributed.backend", "Celery on Redis"),
        ({"orchestrator": {"sharks": 3}}, "orchestrator.sharks", "not a key of such a file"),
        (
            {"task_types": {}, "rate_limits": {"max_requests": "${N:-3}", "window_seconds": 30}},
            "rate_limits.max_requests", "from the environment",
        ),
        ({"providers": {"a": {"enabled": True}}}, "providers.a.enabled", "has no command"),
    ],
)  # fmt: skip
def test_a_value_without_a_counterpart_is_named(
    tmp_path: Path, document: dict[str, Any], key: str, why: str
) -> None:
    imported = imported_text(tmp_path, document)
    (row,) = [row for row in imported.left if row.key == key]
    assert why in row.remark
    as_yaml(imported, "given.json")


def test_a_file_of_no_kind_that_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a configuration that agentflow can read") as caught:
        imported_text(tmp_path, {"services": {}, "volumes": {}})
    assert caught.value.code == "AF-CONFIG-050"
    assert "services, volumes" in caught.value.why
    assert "automatosx.config.json has" in caught.value.fix


def test_a_file_of_ours_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="own form already") as caught:
        imported_text(tmp_path, {"slots": 3})
    assert caught.value.code == "AF-CONFIG-051"


@pytest.mark.parametrize("text", ["{", "[1, 2]", "a: 1\na: 2\n"])
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises((ConfigFileError, UsageError)):
        read_foreign(path)


def test_a_value_that_would_not_load_is_told_before_anything_is_written(tmp_path: Path) -> None:
    imported = imported_text(tmp_path, {"orchestrator": {}, "redis": {"url": "localhost"}})
    with pytest.raises(ConfigFileError, match="1 problem"):
        as_yaml(imported, "given.json")
