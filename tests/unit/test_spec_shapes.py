"""Other systems' files are read as they are, and their problems stand at their own places."""

import json

import pytest

from agentflow.config import Config
from agentflow.errors import SpecError
from agentflow.spec.reader import parse_spec

CONFIG = Config()


def parse(text, name="f.yaml"):
    return parse_spec(text, name=name, config=CONFIG)


def problems(text, name="f.yaml"):
    with pytest.raises(SpecError) as caught:
        parse(text, name)
    return list(map(str, caught.value.problems))


AX = """\
version: "1.0"
metadata:
  name: Auth system
  description: Sign-in with tokens
policy:
  goal: cost
  constraints: {privacy: private, maxLatency: 5000}
agents:
  - name: Design API
    agent: software-architect
  - name: Build JWT
    agent: backend-engineer
    task: Implement it.
    dependencies: [Design API]
  - agent: quality
    task: Test it.
    dependencies: [Build JWT, design-api]
  - agent: quality
    task: Test it again.
"""


def test_a_list_with_names_agents_and_dependencies():
    spec = parse(AX, "auth.ax.yaml")
    assert (spec.feature, spec.description) == ("Auth system", "Sign-in with tokens")
    design, build, test, again = spec.tasks
    assert [t.id for t in spec.tasks] == ["design-api", "build-jwt", "quality", "quality-2"]
    assert [t.role for t in spec.tasks] == ["architect", "backend", "tester", "tester"]
    assert [t.needs for t in spec.tasks] == [(), ("design-api",), ("build-jwt", "design-api"), ()]
    assert (build.prompt, test.prompt, again.prompt) == ("Implement it.", "Test it.", "Test it again.")
    assert design.title == "Design API"
    assert design.prompt == "Design API\n\nThis is one task of: Auth system. Sign-in with tokens"


def test_constraints_are_kept_and_said_to_have_no_effect():
    spec = parse(AX, "auth.ax.yaml")
    assert spec.policy.constraints == {"privacy": "private", "maxLatency": 5000}
    assert spec.notes == (
        "auth.ax.yaml:7: policy.constraints.privacy is kept but has no effect: not built yet",
        "auth.ax.yaml:7: policy.constraints.maxLatency is kept but has no effect: not built yet",
        "auth.ax.yaml:6: policy.goal is kept but has no effect: not built yet",
    )


def test_a_bare_list_is_named_after_its_file():
    spec = parse("- {name: A b, agent: docs}\n", "work/my-plan.ax.yaml")
    assert spec.feature == "my-plan"
    assert spec.tasks[0].prompt == "A b\n\nThis is one task of: my-plan"


def test_agent_type_task_id_description():
    spec = parse(
        "feature: f\ntasks:\n- {agent_type: frontend, task_id: ui-1, description: Do it., depends_on: []}\n"
    )
    assert spec.tasks[0].model_dump(include={"id", "role", "prompt", "description"}) == {
        "id": "ui-1",
        "role": "frontend",
        "prompt": "Do it.",
        "description": None,
    }


def test_id_type_acceptance_tests():
    text = "name: f\ntasks:\n- {id: t, type: qa, prompt: x, description: y, acceptance_tests: [pytest -q]}\n"
    (task,) = parse(text).tasks
    assert (task.role, task.acceptance, task.prompt, task.description) == (
        "tester",
        (("pytest", "-q"),),
        "x",
        "y",
    )


def test_json():
    spec = {"feature": "f", "tasks": [{"id": "a", "role": "docs", "prompt": "x\n\U0001f600", "timeout": 1.5}]}
    assert parse(json.dumps(spec, indent="\t"), "f.json").tasks[0].prompt == "x\n\U0001f600"
    assert problems('{"feature": "f",\n "tasks": [{"id": "a", "role": 3}]}', "f.json")[0].startswith(
        "f.json:2:"
    )
    assert "f.json:1:13: AF-SPEC-004: not JSON" in problems('{"feature": f}', "f.json")[0]


def test_problems_stand_at_the_keys_of_the_file():
    found = problems(
        "name: f\ntasks:\n- name: One\n  agent: wizard\n  dependencies: [Two]\n  acceptance_tests: [a | b]\n"
        "- name: Three\n  agent: docs\n  agent_type: docs\n  dependencies: [One, Ohne]\n"
    )
    assert [p.split("\n")[0].split(" to a shell")[0] for p in found] == [
        "f.yaml:4:10: AF-SPEC-020: there is no such role (got 'wizard')",
        "f.yaml:5:18: AF-SPEC-021: there is no such task (got 'Two')",
        "f.yaml:6:22: AF-SPEC-040: '|' means something only",
        "f.yaml:9:3: AF-SPEC-016: 'agent_type' says the same as 'agent'",
        "f.yaml:10:23: AF-SPEC-021: there is no such task (got 'Ohne')",
    ]


def test_names_that_become_one_id_are_refused():
    assert (
        "AF-SPEC-023"
        in problems("name: f\ntasks:\n- {name: A b, agent: docs}\n- {name: a-b, agent: docs}\n")[0]
    )


def test_our_own_tasks_are_not_completed():
    assert (
        "AF-SPEC-011: the key 'id' is missing" in problems("feature: f\ntasks: [{role: docs, prompt: x}]")[0]
    )
    assert (
        "AF-SPEC-011: the key 'feature' is missing" in problems("tasks: [{id: a, role: docs, prompt: x}]")[0]
    )


@pytest.mark.parametrize(
    "text",
    [
        "- 1\n- [a]\n",
        "tasks: {}\nname: 3\n",
        "metadata: 3\ntasks: 3\n",
        "name: [a]\ntasks: [{name: [b], agent: {c: d}}]\n",
        "- {name: 3, agent: 4, dependencies: 5}\n",
        "- {agent: docs, dependencies: [{a: b}]}\n",
        "policy: {constraints: [a]}\ntasks: [{}]\n",
    ],
)
def test_wrong_types_are_problems_not_crashes(text):
    assert problems(text)


def test_a_chain_may_be_written_in_other_keys_too():
    spec = parse(
        "feature: f\nshards: 2\nchain:\n- {name: Design it, agent: software-architect}\n"
        "- {name: Build it, agent: backend-engineer, description: Do it., dependencies: [Design it]}\n"
        "tasks:\n- {name: All, agent: quality, dependencies: [Build it]}\n"
    )
    assert {task.id: task.needs for task in spec.tasks} == {
        "design-it-1": (), "design-it-2": (), "build-it-1": ("design-it-1",), "build-it-2": ("design-it-2",),
        "all": ("build-it-1", "build-it-2"),
    }  # fmt: skip
    assert spec.tasks[2].prompt.startswith("Do it.")
