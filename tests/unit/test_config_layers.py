"""Precedence for every key by itself, the environment of every key, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from agentflow.config import Config, ConfigFileError, OpenAIRunner, load_config
from agentflow.config.keys import Key, exported, file_keys, not_built, timing_keys
from agentflow.config.schema import json_schema
from agentflow.config.sections import Settings

#: A value for each key that is not its default, as it is written in a file.
VALUES: dict[str, Any] = {
    "project": "shop", "slots": 3, "idle_minutes": 2.5, "default_runner": "noop",
    "distributed.max_pack_mb": 7, "distributed.remote": "backup", "distributed.pack_ttl_days": 0.5,
    "worker.slots": 9, "worker.queues": ["docs", "gpu"], "worker.idle_minutes": 1.0,
    "worker.max_memory_mb": 512, "worker.host_memory_percent": 50, "worker.host_cpu_percent": 60,
    "worker.own_home": False,
    "fleet.autoscale": True, "fleet.min_workers": 1, "fleet.max_workers": 2, "fleet.slots_per_worker": 8,
    "fleet.queue_cap": 7,
    "limits.fleet": 40, "limits.roles": {"tester": 2, "docs": 1},
    "limits.queue_timeouts": {"gpu": 90.0}, "limits.losses": 3,
    "rate_limits.providers": {"noop": {"rpm": 5, "refill_rate": 1.5, "capacity": 2}},
    "rate_limits.roles": {"tester": {"tpm": 100}}, "rate_limits.calls_per_agent": 9,
    "breaker.role": 3, "breaker.provider": 4, "breaker.run": 2, "breaker.cool_down": 7.5,
    "routing.by": "feature", "routing.roles": {"backend": "gpu"},
    "budget.org.usd": 90.0, "budget.org.tokens": 10,
    "budget.day.usd": 20.5, "budget.day.tokens": 9_000_000,
    "budget.run.usd": 5.0, "budget.run.tokens": 800_000,
    "budget.roles": {"tester": {"usd": 2.0}}, "budget.node.usd": 0.5, "budget.node.tokens": 70_000,
    "budget.reserve.usd": 0.25, "budget.reserve.tokens": 40_000,
    "planner.runner": "noop", "planner.model": "big", "planner.max_tasks": 12,
    "data_dir": "/srv/agentflow", "redis.url": "redis://host:6380/1",
}  # fmt: skip
KEYS = {key.name: key for key in file_keys()}


class Place:
    """A home and a project with their files."""

    def __init__(self, tmp_path: Path) -> None:
        self.user = tmp_path / "home/.config/agentflow/agentflow.yaml"
        self.project = tmp_path / "project/agentflow.yaml"
        for path in (self.user, self.project):
            path.parent.mkdir(parents=True)

    def load(self, overrides: dict[str, Any] | None = None, **environ: str) -> Config:
        home = str(self.user.parents[2])
        return load_config(self.project.parent, overrides, {"HOME": home, **environ})

    def problems(self, text: str, **environ: str) -> list[str]:
        self.project.write_text(text)
        with pytest.raises(ConfigFileError) as caught:
            self.load(**environ)
        return [str(p).removeprefix(f"{self.project}:") for p in caught.value.problems]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def origin_of(config: Config, key: str) -> str:
    """Of a key, or of the first that stands in its mapping."""
    below = VALUES[key]
    while isinstance(below, dict):
        first = next(iter(below))
        key, below = f"{key}.{first}", below[first]
    return config.origin(key)


def nested(key: str, value: Any) -> dict[str, Any]:
    for step in reversed(key.split(".")):
        value = {step: value}
    return value


def value_of(config: Config, key: str) -> Any:
    found: Any = config
    for step in key.replace("redis.url", "redis_url").split("."):
        found = found[step] if isinstance(found, dict) else getattr(found, step)
    if isinstance(found, Path):
        return str(found)
    if isinstance(found, dict):
        return {
            name: item.model_dump(exclude_unset=True) if isinstance(item, BaseModel) else item
            for name, item in found.items()
        }
    return list(found) if isinstance(found, tuple) else found


def spelled(value: Any) -> str:
    """As an environment variable holds it."""
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, dict) and any(isinstance(item, dict) for item in value.values()):
        return yaml.safe_dump(value, default_flow_style=True)
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_table_of_this_test_has_every_key() -> None:
    assert set(VALUES) == set(KEYS)


@pytest.mark.parametrize("name", VALUES)
def test_a_key_in_a_file_in_the_environment_and_as_a_flag(place: Place, name: str) -> None:
    value, key = VALUES[name], KEYS[name]
    assert value_of(place.load(), name) != value
    place.user.write_text(yaml.safe_dump(nested(name, value)))
    assert value_of(place.load(), name) == value
    assert origin_of(place.load(), name).startswith(f"user {place.user}:")
    place.user.unlink()
    found = place.load(**{key.variable: spelled(value)})
    assert (value_of(found, name), found.origin(name)) == (value, f"env {key.variable}")
    for given in (value, spelled(value)):
        found = place.load({name: given})
        assert value_of(found, name) == value
        assert found.origin(name).startswith("flag --")
    assert value_of(place.load(**exported({name: value})), name) == value


@pytest.mark.parametrize("name", VALUES)
def test_a_section_that_is_above_hides_none_of_the_keys_below(place: Place, name: str) -> None:
    """Per key: a project that sets one key of a section leaves the user's others as they are."""
    whole: dict[str, Any] = {}
    for key, value in VALUES.items():
        step = whole
        *path, last = key.split(".")
        for part in path:
            step = step.setdefault(part, {})
        step[last] = value
    place.user.write_text(yaml.safe_dump(whole))
    place.project.write_text(yaml.safe_dump(nested(name, VALUES[name])))
    config = place.load()
    assert {key: value_of(config, key) for key in VALUES} == VALUES
    assert origin_of(config, name).startswith("project ")
    others = {origin_of(config, key).split()[0] for key in VALUES if key != name}
    assert others == {"user"}


def test_flag_over_environment_over_project_over_user(place: Place) -> None:
    for path, slots in ((place.user, 1), (place.project, 2)):
        path.write_text(f"worker:\n  slots: {slots}\n")
    variable = {"AGENTFLOW_WORKER_SLOTS": "3"}
    assert place.load({"worker.slots": 4}, **variable).worker.slots == 4
    assert place.load(**variable).worker.slots == 3
    assert place.load().worker.slots == 2
    place.project.unlink()
    assert place.load().worker.slots == 1
    assert place.load().origin("worker.slots") == f"user {place.user}:2"


def test_one_key_of_a_runner_is_changed_and_the_others_stay(place: Place) -> None:
    place.user.write_text(
        "runners:\n  openai: {base_url: http://mine/v1}\n  cli: {command: [agent], timeout: 5m}\n"
    )
    place.project.write_text("runners:\n  openai: {model: small}\n  cli: {timeout: 1m}\n")
    config = place.load()
    assert config.runners["openai"] == OpenAIRunner(base_url="http://mine/v1", model="small")
    assert config.runners["cli"].model_dump(include={"command", "timeout"}) == {
        "command": ("agent",), "timeout": 60,
    }  # fmt: skip
    assert config.origins["runners.openai.base_url"].startswith("user ")
    assert config.origins["runners.openai.model"].startswith("project ")
    assert "runners.openai.type" not in config.origins


def test_a_runner_of_another_type_replaces_the_one_below(place: Place) -> None:
    place.user.write_text("runners:\n  openai: {base_url: http://mine/v1}\n")
    place.project.write_text("runners:\n  openai: {command: 'agent --fast'}\n")
    config = place.load()
    assert config.runners["openai"].model_dump(exclude_unset=True) == {"command": ("agent", "--fast")}
    assert not [key for key in config.origins if "base_url" in key]


def test_keys_of_single_roles_and_runners_come_from_the_environment_too(place: Place) -> None:
    config = place.load(
        AGENTFLOW_ROLES_TESTER_MODEL="small",
        AGENTFLOW_RUNNERS_OPENAI_MAX_TURNS="9",
        AGENTFLOW_ROLES_DOCS_ARTIFACTS="docs/**,README.md",
    )
    assert config.roles["tester"].model == "small"
    assert config.roles["docs"].artifacts == ("docs/**", "README.md")
    assert config.runners["openai"] == OpenAIRunner(max_turns=9)
    assert config.origins["roles.tester.model"] == "env AGENTFLOW_ROLES_TESTER_MODEL"


def test_a_role_is_the_same_by_each_of_its_words(place: Place) -> None:
    place.user.write_text("limits: {roles: {qa: 5, docs: 1}}\nroles: {qa: {model: a, temperature: 1}}\n")
    place.project.write_text("limits: {roles: {tester: 2}}\nroles: {quality: {model: b}}\n")
    config = place.load()
    assert config.limits.roles == {"tester": 2, "docs": 1}
    assert (config.roles["tester"].model, config.roles["tester"].temperature) == ("b", 1)


def test_a_role_that_only_routing_names_is_refused_with_a_guess(place: Place) -> None:
    (problem,) = place.problems("routing:\n  roles: {bakend: gpu}\n")
    assert problem == (
        "2:19: AF-CONFIG-026: routing.roles names the role 'bakend', which is not there\n"
        "    fix: did you mean 'backend'?"
    )
    place.project.write_text("routing: {roles: {mobile: gpu}}\nroles: {mobile: {}}\n")
    assert place.load().routing.roles == {"mobile": "gpu"}


def test_all_problems_of_all_sources_at_once(place: Place) -> None:
    place.user.write_text("sluts: 3\n")
    variable = "AGENTFLOW_WORKER_HOST_CPU_PERCENT"
    found = place.problems(
        "slots: three\nworker: {queue: docs, slots: 0}\nbudget: {usd: 3}\nslots: 4\n",
        **{"AGENTFLOW_LIMITS_FLEET": "many", variable: "101"},
    )
    assert [line.split("\n")[0] for line in found] == [
        f"{place.user}:1:1: AF-CONFIG-010: unknown key 'sluts'",
        "1:8: AF-CONFIG-012: expected a whole number (got 'three')",
        "2:10: AF-CONFIG-010: unknown key 'queue'",
        "2:30: AF-CONFIG-013: input should be greater than or equal to 1 (got 0)",
        "3:10: AF-CONFIG-010: unknown key 'usd'",
        "4:1: AF-CONFIG-007: the key 'slots' stands here twice (got first in line 1)",
        f"env {variable}: AF-CONFIG-013: input should be less than or equal to 100 (got 101)",
        "env AGENTFLOW_LIMITS_FLEET: AF-CONFIG-012: expected a whole number (got 'many')",
    ]
    assert "did you mean 'queues'?" in found[2]


@pytest.mark.parametrize("section", not_built())
def test_sections_of_later_versions_are_known_and_refused(place: Place, section: str) -> None:
    assert place.problems(f"slots: 3\n{section}: {{a: 1}}\n")[0].startswith(
        f"2:{len(section) + 3}: AF-CONFIG-090: this field is not built yet"
    )
    assert json_schema()["properties"][section]["x-not-built"] is True


def test_numbers_that_do_not_go_together(place: Place) -> None:
    place.user.write_text("fleet: {max_workers: 2}\n")
    (problem,) = place.problems("fleet: {min_workers: 3}\n")
    assert problem == (
        "1:22: AF-CONFIG-027: fleet.min_workers is 3 and fleet.max_workers 2\n"
        "    fix: the first must not be above the second"
    )


def test_a_queue_of_agentflows_own_is_refused(place: Place) -> None:
    (problem,) = place.problems("routing: {roles: {docs: agentflow.system}}\n")
    assert "AF-CONFIG-014: queues that begin with agentflow. are agentflow's own" in problem


def test_an_unknown_flag_is_refused_with_a_guess(place: Place) -> None:
    with pytest.raises(ConfigFileError) as caught:
        place.load({"worker.slot": "3"})
    assert str(caught.value.problems[0]) == (
        "flag --set worker.slot: AF-CONFIG-010: unknown key 'worker.slot'\n"
        "    fix: did you mean 'worker.slots'?"
    )


def test_secrets_are_masked_where_the_configuration_is_shown(place: Place) -> None:
    place.project.write_text(
        "redis: {url: 'rediss://me:hunter2@host'}\n"
        "runners:\n  a: {command: agent, env: {API_TOKEN: hunter2, SIZE: big}}\n"
        "  b: {type: openai, base_url: 'http://me:hunter2@host/v1', headers: {Authorization: hunter2}}\n"
    )
    shown = json.dumps(place.load().as_dict())
    assert "hunter2" not in shown
    assert '"SIZE": "big"' in shown
    assert place.load().shown_url() == "rediss://me:***@host"


def test_a_bad_address_is_refused_without_showing_its_password(place: Place) -> None:
    for url in ("redis://me:hunter2@", "redis://me:hun/ter2@host:6379/0", "redis://:hunter2@host:63790000/0"):
        (problem,) = place.problems(f"redis: {{url: '{url}'}}\n")
        assert "AF-CONFIG-013" in problem
        assert "ter2" not in problem


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "has no redis:// before it"),
        ("sentinel://h:26379", "Sentinel is not built yet"),
        ("redis+cluster://h", "Cluster is not supported"),
        ("amqp://h", "RabbitMQ"),
        ("http://h:6379", "web address"),
        ("rediz://h", "is not an address of Redis"),
        ("redis://h:port/0", "the port is no port"),
        ("redis:///0", "the host is missing"),
        ("redis://h/zero", "the database is not a number"),
        ("redis://:pa#ss@h", "the port is no port"),
        ("redis://h/0#x", "cut off by a #"),
        ("redis://h?db=x", "is not a number"),
        ("redis://h?ssl_ca_certs=/ca.crt", "redis:// is plain"),
        ("rediss://h?ssl_ca_cert=/ca.crt", "unknown option 'ssl_ca_cert'"),
        ("rediss://h?ssl_ca_certs=ca.crt", "must be an absolute path"),
        ("rediss://h?ssl_cert_reqs=maybe", "means nothing"),
        ("unix://", "cut short"),
        ("redis://h h", "holds a space"),
    ],
)
def test_addresses_that_cannot_be_used(place: Place, url: str, reason: str) -> None:
    (problem,) = place.problems(yaml.safe_dump({"redis": {"url": url}}))
    assert reason in problem
    assert "fix: " in problem


@pytest.mark.parametrize(
    ("url", "client", "broker"),
    [
        ("redis://:p%40ss@h:1/2", "redis://:p%40ss@h:1/2", "redis://:p%40ss@h:1/2"),
        ("redis://h?db=3", "redis://h?db=3", "redis://h/3"),
        ("rediss://h/1", "rediss://h/1", "rediss://h/1?ssl_cert_reqs=required"),
        (
            "rediss://h/1?ssl_ca_certs=/a%20b/ca.crt&ssl_cert_reqs=none",
            "rediss://h/1?ssl_ca_certs=/a%20b/ca.crt&ssl_cert_reqs=none",
            "rediss://h/1?ssl_ca_certs=/a%20b/ca.crt&ssl_cert_reqs=none",
        ),
        ("unix:///r.sock?db=2", "unix:///r.sock?db=2", "redis+socket:///r.sock?virtual_host=2"),
        ("redis+socket:///r.sock", "unix:///r.sock?db=0", "redis+socket:///r.sock"),
    ],
)
def test_an_address_is_spelled_for_each_client(url: str, client: str, broker: str) -> None:
    config = Config(redis_url=url)
    assert (config.client_url(), config.broker_url()) == (client, broker)


@pytest.mark.parametrize("name", VALUES)
def test_the_schema_takes_each_key_and_refuses_what_is_unknown(name: str) -> None:
    schema = json_schema()
    jsonschema.validate(nested(name, VALUES[name]), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(nested(f"{name}x", VALUES[name]), schema)


def test_no_two_keys_share_a_variable() -> None:
    keys: list[Key] = [*file_keys(), *timing_keys()]
    assert len({key.variable for key in keys}) == len(keys)
    assert all(key.field.description for key in file_keys())
    assert {key.path[0] for key in keys} <= {*Settings.model_fields, *Config.model_fields}
