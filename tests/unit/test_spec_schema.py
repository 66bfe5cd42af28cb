"""The published JSON Schema and the models agree: what one takes or refuses, so does the other."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentflow.spec.models import Spec
from agentflow.spec.schema import json_schema

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TASK = {"id": "a", "role": "docs", "prompt": "x"}


def model_takes(data):
    try:
        Spec.model_validate(data, by_alias=True, by_name=False)
    except ValidationError:
        return False
    return True


def spec(**fields):
    return {"feature": "f", "tasks": [TASK], **fields}


def with_task(**fields):
    return spec(tasks=[{**TASK, **fields}])


VALID = [
    spec(),
    spec(goal="g", base="origin/main", target="agentflow/x", description="d"),
    spec(setup={"commands": ["npm ci", ["a", 1]], "key": ["package.json"], "keep": ["node_modules"]}),
    spec(
        policy={
            "on_failure": "stop",
            "max_concurrent": 3,
            "retries": 0,
            "timeout": "1h",
            "constraints": {"a": [1]},
        }
    ),
    spec(validate=["pytest -q"], env={"A": "b", "C": 1}, runner="openai"),
    spec(runner={"command": ["agent", "{prompt_file}"], "pass_env": ["X"], "timeout": 3}),
    spec(runner={"type": "openai", "model": "m", "prices": {"input": 1, "output": 2.5}}),
    with_task(output="report", priority="critical", tags=["a"], reads=["src/**"]),
    with_task(artifacts=["src/**", {"path": "a/b", "mode": "write"}, {"path": "c"}], needs=[], inputs=[]),
    with_task(artifacts=[{"path": "a", "mode": "append"}, {"path": "src/**", "mode": "read"}]),
    with_task(acceptance=["pytest -q", ["sh", "-c", "a | b"]], expect="red_then_green"),
    with_task(timeout=1.5, retries=0, retry_delay=0, optional=True, runner={"type": "noop", "seconds": 0}),
    with_task(title=None, timeout=None, runner=None, env={}),
    with_task(for_each=["a", 1], shards=3, queue="gpu", shard="s"),
    spec(for_each={"items": ["a"]}, shards=1, queue="gpu", policy={"exclusive": True}),
    {"feature": "f", "chain": [TASK], "for_each": ["a"]},
    spec(strategy="pipeline", stages=[{"stage": "s", "agents": ["docs"], "parallel": False}]),
    spec(strategy="hybrid", rules=[{"condition": "tasks > 5", "strategy": "pipeline", "agents": ["qa"]}]),
]
INVALID = [
    [],
    "x",
    {"feature": "f"},
    {"tasks": [TASK]},
    spec(tasks=[]),
    spec(tasks={}),
    spec(feature=""),
    spec(feature=3),
    spec(feature="x" * 201),
    spec(validation=["x"]),
    spec(nope=1),
    spec(base="--upload-pack=x"),
    spec(target="a..b"),
    spec(target="refs/heads/x"),
    spec(setup={"key": []}),
    spec(setup={"commands": []}),
    spec(policy={"on_failure": "explode"}),
    spec(policy={"max_concurrent": 0}),
    spec(policy={"max_concurrent": True}),
    spec(policy={"strict_artifacts": 1}),
    spec(policy={"nope": 1}),
    spec(policy=None),
    spec(env={"A-B": "x"}),
    spec(env={"A": True}),
    spec(env={"A": 1.5}),
    spec(env=[]),
    spec(validate="pytest"),
    spec(runner={}),
    spec(runner={"model": "m"}),
    spec(runner={"type": "nope"}),
    spec(runner={"command": []}),
    spec(runner={"command": ["x"], "model": "m"}),
    spec(runner=3),
    spec(runner="Not A Name"),
    with_task(id="A b"),
    with_task(id=""),
    with_task(id="x" * 65),
    with_task(id=1),
    with_task(role=""),
    with_task(output="chnage"),
    with_task(needs="a"),
    with_task(needs=[1]),
    with_task(artifacts=[""]),
    with_task(artifacts=["x" * 2000]),
    with_task(artifacts=[{"mode": "write"}]),
    with_task(artifacts=[{"path": "a", "mode": "nope"}]),
    with_task(artifacts=[{"path": "a", "extra": 1}]),
    with_task(acceptance=[""]),
    with_task(acceptance=[[]]),
    with_task(acceptance=[{"run": "x"}]),
    with_task(acceptance=[["a", 1.5]]),
    with_task(acceptance=[["a", True]]),
    with_task(expect="purple"),
    with_task(priority="urgent"),
    with_task(timeout=0),
    with_task(timeout="10"),
    with_task(timeout="soon"),
    with_task(timeout=10**9),
    with_task(timeout=True),
    with_task(retries=-1),
    with_task(retries=1.5),
    with_task(retries="1"),
    with_task(retries=True),
    with_task(optional="yes"),
    with_task(optional=1),
    with_task(title=""),
    with_task(promt="x"),
    spec(tasks=[{"id": "a"}]),
    spec(for_each=[]),
    spec(for_each={"item": ["a"]}),
    spec(for_each="a"),
    with_task(for_each=["a", "a"]),
    with_task(for_each=[None]),
    with_task(for_each=[1.5]),
    with_task(for_each=[""]),
    with_task(shards=0),
    with_task(shards=10_001),
    with_task(shards=True),
    with_task(queue="A b"),
    {"feature": "f", "chain": []},
    spec(strategy="fast"),
    spec(stages=[]),
    spec(stages=[{"stage": "s", "agents": []}]),
    spec(stages=[{"stage": "s", "agents": ["docs"], "parallel": 1}]),
    spec(stages=[{"agents": ["docs"]}]),
    spec(rules=[{"condition": "true"}]),
    spec(rules=[{"strategy": "hybrid"}]),
    spec(rules=[{"strategy": "pipeline", "condition": "x" * 501}]),
    spec(tasks=["a"]),
]


def test_the_schema_is_a_schema_and_is_plain():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"].endswith("2020-12/schema")
    assert "validate" in SCHEMA["properties"]


@pytest.mark.parametrize("data", VALID)
def test_both_take_it(data):
    VALIDATOR.validate(data)
    assert model_takes(data)


@pytest.mark.parametrize("data", INVALID)
def test_both_refuse_it(data):
    assert not VALIDATOR.is_valid(data)
    assert not model_takes(data)


def test_what_is_not_built_is_in_the_schema_and_refused_by_the_model():
    fields = {
        (model, name)
        for model, definition in [("Spec", SCHEMA), *SCHEMA["$defs"].items()]
        for name, field in definition["properties"].items()
        if field.get("x-not-built")
    }
    assert fields == {
        ("Spec", "hooks"),
    }
    for data in [
        spec(hooks={"land": ["true"]}),
        with_task(output="effect"),
    ]:
        assert VALIDATOR.is_valid(data)
        with pytest.raises(ValidationError, match="not built yet"):
            Spec.model_validate(data, by_alias=True, by_name=False)


def test_every_field_says_what_it_is():
    for name, definition in [
        ("Spec", SCHEMA),
        *((n, d) for n, d in SCHEMA["$defs"].items() if n in {"Task", "Policy", "Setup", "Stage", "Rule"}),
    ]:
        missing = [field for field, value in definition["properties"].items() if not value.get("description")]
        assert not missing, name


scalars = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["", "a", "10m", "docs", "green", 1.5])
)
values = (
    scalars
    | st.lists(scalars, max_size=2)
    | st.dictionaries(st.sampled_from(["type", "command", "path"]), scalars, max_size=2)
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(SCHEMA["$defs"]["Task"]["properties"])), values)
def test_no_value_of_a_task_divides_them(field, value):
    if SCHEMA["$defs"]["Task"]["properties"][field].get("x-not-built") or field == "id":
        return
    data = with_task(**{field: value})
    assert VALIDATOR.is_valid(data) == model_takes(data), field


def test_what_the_model_writes_it_reads_again():
    for data in VALID:
        written = Spec.model_validate(data, by_alias=True, by_name=False)
        again = json.loads(written.model_dump_json(by_alias=True))
        assert Spec.model_validate(again, by_alias=True, by_name=False) == written
        VALIDATOR.validate(again)


def test_the_models_import_neither_celery_nor_a_client():
    heavy = "{'celery', 'redis', 'openai', 'rich'}"
    code = f"import sys, agentflow.spec.reader; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_names_every_field_and_which_are_not_built():
    lines = (Path(__file__).parents[2] / "docs/spec.md").read_text().splitlines()
    for model, definition in [("Spec", SCHEMA), *SCHEMA["$defs"].items()]:
        prefixes = {
            "Policy": "policy.",
            "Setup": "setup.",
            "Stage": "stages.",
            "Rule": "rules.",
            "Classes": "policy.complexity.",
        }
        prefix = prefixes.get(model, "")
        for name, field in definition["properties"].items():
            rows = [
                line
                for line in lines
                if f"`{prefix}{name}`" in line or (model.endswith("Runner") and name in line)
            ]
            assert rows or name in {"setup", "policy", "type", "input", "output"}, f"{model}.{name}"
            assert not field.get("x-not-built") or any("**not built yet**" in row for row in rows), name
