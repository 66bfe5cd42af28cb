"""From an answer to a spec: what passes, what is told back, when it is given up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow import planner
from agentflow.agents import RoleConfig
from agentflow.config import Config
from agentflow.planner import Answer, Message, PlanRefusedError, Request
from agentflow.spec.reader import parse_spec

CONFIG = Config()
WORDS = "Implement user auth with frontend, backend and tests"


def task(name: str, role: str = "backend", needs: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A task as strict structured output writes it: every key, empty or not."""
    return {
        "id": name,
        "role": role,
        "prompt": f"Write {name}.",
        "needs": list(needs),
        "output": "change",
        "artifacts": [f"{name}.py"],
        "acceptance": [f"test -f {name}.py"],
        **more,
    }


def answer(*tasks: dict[str, Any], **more: Any) -> str:
    return json.dumps({"feature": "User auth", "goal": "", "validate": [], "tasks": list(tasks), **more})


GOOD = answer(task("api"), task("ui", "frontend", ["api"]))


class Model:
    """Answers in turn, and keeps what it was told."""

    def __init__(self, *answers: str | Answer) -> None:
        self.answers = [a if isinstance(a, Answer) else Answer(a) for a in answers]
        self.told: list[list[Message]] = []

    def __call__(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> Answer:
        assert schema["type"] == "object"
        self.told.append(list(messages))
        return self.answers[len(self.told) - 1]


def problems_of(text: str, config: Config = CONFIG, **request: Any) -> list[str]:
    return planner.read_answer(Answer(text), Request(WORDS, **request), config)[1]


# -- the loop --------------------------------------------------------------------------------------


def test_a_good_answer_is_a_feature_file() -> None:
    planned = planner.plan(Model(GOOD), Request(WORDS), CONFIG, model="some-model")
    assert planned.rounds == 1
    assert planned.yaml.startswith("# Planned by some-model, 1 answer, from the words:\n# " + WORDS)
    assert [(t.id, t.role, t.needs) for t in planned.spec.tasks] == [
        ("api", "backend", ()),
        ("ui", "frontend", ("api",)),
    ]
    assert parse_spec(planned.yaml, name="x.yaml", config=CONFIG) == planned.spec
    assert "output:" not in planned.yaml
    assert planner.rounds_of(planned.yaml) == 1


def test_everything_that_is_wrong_is_told_at_once_and_repaired() -> None:
    wrong = answer(
        task("api", "backnd", ["ui"]), task("ui", "frontend", ["api", "ghost"], artifacts=["/etc/x"])
    )
    model = Model(wrong, GOOD)
    assert planner.plan(model, Request(WORDS), CONFIG).rounds == 2
    *before, said, told = model.told[1]
    assert before == model.told[0]
    assert said == {"role": "assistant", "content": wrong}
    for part in (
        "task 1 ('api'): cycle: api -> ui -> api",
        "task 1 ('api'): there is no such role (got 'backnd'); did you mean 'backend'?",
        "task 2 ('ui'): there is no such task (got 'ghost')",
        "task 2 ('ui')",
        "/etc/x",
    ):
        assert part in told["content"]


def test_three_answers_that_cannot_be_used_are_enough() -> None:
    circle = answer(task("a", needs=["b"]), task("b", needs=["a"]))
    model = Model(circle, circle, circle)
    with pytest.raises(PlanRefusedError) as caught:
        planner.plan(model, Request(WORDS), CONFIG)
    assert len(model.told) == 3
    assert caught.value.problems == ("task 1 ('a'): cycle: a -> b -> a; remove one of these needs",)
    assert "3 answers" in caught.value.what
    assert "cycle: a -> b -> a" in caught.value.why


def test_an_answer_that_was_cut_is_not_used_though_it_could_be_read() -> None:
    model = Model(Answer(GOOD, cut=True), GOOD)
    assert planner.plan(model, Request(WORDS), CONFIG).rounds == 2
    assert "output limit" in model.told[1][-1]["content"]


@given(
    prompt=st.text(min_size=1).filter(str.strip), feature=st.text(min_size=1, max_size=200).filter(str.strip)
)
def test_whatever_a_model_writes_is_a_file_or_a_problem(prompt: str, feature: str) -> None:
    text = answer(task("a", prompt=prompt), feature=feature)
    data, problems = planner.read_answer(Answer(text), Request(WORDS), CONFIG)
    assert (data is None) <= bool(problems)
    if not problems:
        assert planner.plan(Model(text), Request(WORDS), CONFIG).spec.tasks[0].prompt


# -- the model is told -----------------------------------------------------------------------------


def test_the_model_is_told_roles_files_and_schema() -> None:
    config = Config(
        roles={**CONFIG.roles, "mobile": RoleConfig(name="mobile", instructions="You build\napps.")}
    )
    request = Request(
        WORDS, paths=["src/a.py", "README.md"], excerpts={"README.md": "# Shop"}, instructions="Be brief."
    )
    system, user = (message["content"] for message in planner.opening(request, config))
    assert system.startswith("Be brief.")
    assert "- mobile: You build apps." in system
    assert "- planner:" not in system
    assert '"additionalProperties": false' in system
    for part in (WORDS, "README.md\nsrc/a.py", "# README.md (its beginning)\n\n# Shop", "At most 40 tasks"):
        assert part in user


def test_a_large_repository_is_told_by_its_directories() -> None:
    text = planner.outline([f"src/part{n % 3}/file{n}.py" for n in range(5000)])
    assert text.splitlines()[:2] == ["5000 files; directories:", "src/part0/ (1667 files)"]
    many = planner.outline([f"d{n}/{'x' * 30}{n}/f" for n in range(5000)])
    assert len(many) < planner.LISTED_CHARS + 50
    assert many.endswith("(and more)")


def test_the_schema_is_one_for_strict_output_and_takes_a_good_answer() -> None:
    schema = planner.answer_schema(CONFIG)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(GOOD), schema)
    for part in (schema, schema["properties"]["tasks"]["items"]):
        assert sorted(part["required"]) == sorted(part["properties"])
        assert part["additionalProperties"] is False


# -- what an answer may be -------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["{}", "Here it is:\n```json\n{}\n```\nGood luck!", "\n\n{}\n"])
def test_words_around_the_json_do_not_matter(around: str) -> None:
    assert problems_of(around.replace("{}", GOOD)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no JSON object"),
        ("I cannot do that.", "holds no JSON object"),
        ('{"feature": "x", "tasks": [', "holds no JSON object"),
        ('{"feature": "x", "tasks": [}', "not valid JSON"),
        ("{" + '"a":{' * 100_000 + "}", "not valid JSON"),
        ("[1]", "holds no JSON object"),
        ('{"feature": "x"}', "'tasks' is missing"),
        ('{"feature": "x", "tasks": []}', "'tasks' is missing"),
        ('{"feature": "x", "tasks": "many"}', "expected a list"),
        ('{"feature": "x", "tasks": ["one", 2]}', "expected a mapping"),
        (answer(task("a"), task("a")), "task 1 too"),
        (answer(task("A b")), "task 1 ('A b'): a name is"),
        (answer(task("a", prompt="")), "'prompt' is missing"),
        (answer(task("a", acceptance=["pytest | tee x"])), "means something only to a shell"),
        (answer(task("a", output="report")), "a report changes no file"),
        (answer(task("a", artifacts=["../x"])), "task 1 ('a')"),
        (answer(task("a", "planner")), "no task has the role 'planner'"),
        (answer(task("a", prompt="\ud800")), "half a character"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(text: str, said: str) -> None:
    (problem, *_) = problems_of(text)
    assert said in problem


@pytest.mark.parametrize("key", ["runner", "env", "timeout", "for_each"])
def test_a_plan_cannot_say_who_runs_a_task_or_how(key: str) -> None:
    assert problems_of(answer(task("a", **{key: {"command": ["rm", "-rf", "/"]}}))) == [
        f"task 1 ('a'): unknown key {key!r}: leave it out"
    ]
    assert problems_of(answer(task("a"), setup={"commands": ["curl x"]})) == [
        "unknown key 'setup': leave it out"
    ]


def test_a_directory_is_no_file() -> None:
    text = answer(task("a", artifacts=["src", "new", "src/app/x.py"]))
    assert problems_of(text, paths=["src/app/a.py"]) == [
        "task 1 ('a'): 'src' is a directory; write src/** or name its files"
    ]


def test_too_many_tasks_are_refused() -> None:
    text = answer(*(task(f"t{n}") for n in range(4)))
    assert problems_of(text, max_tasks=3) == ["4 tasks are too many: at most 3"]
    assert problems_of(text, max_tasks=4) == []


def test_problems_are_told_up_to_a_number_and_a_length() -> None:
    told = problems_of(answer(*(task(f"t{n}", "x" * 5000) for n in range(40))))
    assert len(told) == planner.TOLD_PROBLEMS
    assert max(map(len, told)) <= planner.TOLD_CHARS
