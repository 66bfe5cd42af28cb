"""Specs as they are read: defaults, places, all problems at once, commands, names between fields."""

import pytest
from pydantic import ValidationError

from agentflow.config import CommandRunner, Config, NoopRunner, load_config
from agentflow.errors import Exit, SpecError
from agentflow.fields import parse_command, slug
from agentflow.spec.checks import check_spec, resolve
from agentflow.spec.models import Spec, Task
from agentflow.spec.reader import PROBLEMS_MAX, load_spec, parse_spec

CONFIG = Config()
HEAD = "feature: f\ntasks:\n"


def parse(text, config=CONFIG, name="f.yaml"):
    return parse_spec(text, name=name, config=config)


def problems(text, config=CONFIG, name="f.yaml"):
    with pytest.raises(SpecError) as caught:
        parse(text, config, name)
    assert caught.value.exit_code == Exit.SPEC
    return list(map(str, caught.value.problems))


def one_problem(line):
    """The only problem of a spec whose one task has this line too (line 4, column 3 of the file)."""
    (problem,) = problems(
        f"{HEAD}- {{id: a, role: backend, prompt: x}}\n- id: b\n  role: backend\n  prompt: x\n  {line}\n"
    )
    return problem


def test_a_whole_spec(tmp_path):
    path = tmp_path / "feature.yaml"
    path.write_text(
        """\
feature: Sign in
goal: People sign in with a password.
base: main
target: agentflow/sign-in
setup: {commands: [npm ci], key: [package-lock.json], keep: [node_modules]}
policy: {on_failure: stop, max_concurrent: 3, strict_artifacts: false, retries: 1, timeout: 5m}
validate:
  - npm test
  - [sh, -c, "test -f x && echo ok"]
env: {CI: 1}
tasks:
  - id: api
    role: backend-engineer
    prompt: Write it.
    artifacts: [src/api/**, {path: CHANGELOG.md, mode: write}]
    acceptance: ["pytest -q 'tests/test_a b.py'"]
    expect: red_then_green
    timeout: 1h30m
    retries: 0
  - id: audit
    role: security
    title: Audit the API
    output: report
    needs: [api]
    inputs: [api]
    priority: high
    optional: true
    runner: {command: [audit, "{prompt_file}", 3], pass_env: [TOKEN]}
"""
    )
    spec = load_spec(path, CONFIG)
    api, audit = spec.tasks
    assert spec.validation == (("npm", "test"), ("sh", "-c", "test -f x && echo ok"))
    assert spec.env == {"CI": "1"}
    assert api.role == "backend"
    assert api.artifacts == ("src/api/**", "CHANGELOG.md")
    assert api.acceptance == (("pytest", "-q", "tests/test_a b.py"),)
    assert (api.timeout, api.retries, audit.timeout, audit.retries) == (5400, 0, 300, 1)
    assert audit.runner == CommandRunner(command=["audit", "{prompt_file}", 3], pass_env=["TOKEN"])
    assert spec.setup.keep == ("node_modules",)
    assert not spec.notes


def test_defaults():
    spec = parse("feature: f\ntasks: [{id: a, role: docs, prompt: x}]")
    (task,) = spec.tasks
    assert (spec.base, spec.target, spec.policy.on_failure, spec.policy.max_concurrent) == (
        "HEAD",
        None,
        "continue",
        None,
    )
    assert (task.output, task.expect, task.retries, task.timeout, task.priority) == (
        "change",
        "green",
        2,
        None,
        None,
    )
    assert (task.needs, task.artifacts, task.optional, task.env) == ((), (), False, {})


def test_all_problems_at_once_in_the_order_of_the_file():
    found = problems(
        "feature: f\npolcy: {}\ntasks:\n- id: A!\n  role: wizard\n  needs: [b]\n  retries: two\n"
        "- id: b\n  role: docs\n  promt: x\n  prompt: x\n  budget: much\n  artifacts: [../x]\n"
    )
    assert [p.split(": ")[0] + " " + p.split(": ")[1] for p in found] == [
        "f.yaml:2:1 AF-SPEC-010",
        "f.yaml:4:3 AF-SPEC-011",
        "f.yaml:4:7 AF-SPEC-014",
        "f.yaml:5:9 AF-SPEC-020",
        "f.yaml:7:12 AF-SPEC-012",
        "f.yaml:10:3 AF-SPEC-010",
        "f.yaml:12:11 AF-SPEC-012",
        "f.yaml:13:15 AF-SPEC-030",
    ]
    assert "did you mean 'policy'?" in found[0]
    assert "for example 'a'" in found[2]
    assert "did you mean 'prompt'?" in found[5]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("needs: [aa]", "7:11: AF-SPEC-021: there is no such task (got 'aa')\n    fix: did you mean 'a'?"),
        ("needs: [b]", "7:11: AF-SPEC-022: cycle: b -> b"),
        ("inputs: [a]", "7:12: AF-SPEC-024: 'a' does not come before 'b'"),
        ("inputs: [zz]", "7:12: AF-SPEC-021: there is no such task"),
        ("needs: a", "7:10: AF-SPEC-012: expected a list (got 'a')"),
        ("needs: [1]", "7:11: AF-SPEC-012: expected a string"),
        ("runner: opena", "7:11: AF-SPEC-025: there is no such runner (got 'opena')\n    fix: did you mean"),
        ("runner: 3", "7:11: AF-SPEC-012: expected a name"),
        ("runner: {type: noops}", "7:18: AF-SPEC-013: there is no runner of this type"),
        ("runner: {model: x}", "7:11: AF-SPEC-011: the runner's type is missing"),
        ("runner: {command: [x], modl: y}", "7:26: AF-SPEC-010: unknown key 'modl'\n    fix: known here:"),
        ("runner: {type: openai, modl: y}", "7:26: AF-SPEC-010: unknown key 'modl'\n    fix: did you mean"),
        ("output: effect", "7:11: AF-SPEC-090: 'effect' is not built yet"),
        ("output: chnage", "7:11: AF-SPEC-013: expected 'change' or 'report' (got 'chnage')\n    fix: did"),
        ("complexity: huge", "7:15: AF-SPEC-013: expected 'low', 'medium' or 'high' (got 'huge')"),
        ("budget: -1", "7:11: AF-SPEC-013: input should be greater than or equal to 0 (got -1)"),
        ("budget: {tokens: 1.5}", "7:20: AF-SPEC-012: expected a whole number (got 1.5)"),
        ("budget: {dollars: 5}", "7:12: AF-SPEC-010: unknown key 'dollars'"),
        ("for_each: 1", "7:13: AF-SPEC-012: expected a list (got 1)"),
        ("for_each: []", "7:13: AF-SPEC-013: the list is empty"),
        ("for_each: {things: [a]}", "7:13: AF-SPEC-060: for_each takes a list, or a mapping with items:"),
        ("for_each: [a, [b]]", "7:17: AF-SPEC-060: an item is a word or a whole number (got ['b'])"),
        ("for_each: [a, b, a]", "7:13: AF-SPEC-060: the item 'a' stands there twice"),
        ("shards: 0", "7:11: AF-SPEC-013: input should be greater than or equal to 1 (got 0)"),
        ("shards: many", "7:11: AF-SPEC-012: expected a whole number (got 'many')"),
        ("queue: agentflow.system", "7:10: AF-SPEC-014: queues that begin with agentflow."),
        ("artifacts: [{path: x, mode: wriet}]", "7:15: AF-SPEC-013: 'wriet' is not a mode"),
        ("artifacts: [{pat: x}]", "7:15: AF-SPEC-010: unknown key 'pat'"),
        ("artifacts: src/**", "7:14: AF-SPEC-012: expected a list"),
        ("artifacts: [README.md, readme.md]", "7:26: AF-SPEC-032: where case does not count"),
        ("output: report\n  artifacts: [x]", "8:14: AF-SPEC-050: a report changes no file"),
        ("output: report\n  acceptance: [x]", "8:15: AF-SPEC-050"),
        ("expect: red_then_green", "7:11: AF-SPEC-051"),
        (
            "acceptance: pytest",
            "7:15: AF-SPEC-012: expected a list of commands (got 'pytest')\n    fix: write",
        ),
        ("acceptance: ['']", "7:16: AF-SPEC-041: the command is empty"),
        ("acceptance: [[]]", "7:16: AF-SPEC-041: the command is empty"),
        ("acceptance: [{run: x}]", "7:16: AF-SPEC-012: a command is a string or a list of words, not"),
        ("acceptance: [[a, true]]", "7:16: AF-SPEC-012: a word of a command must be a string, not true"),
        ("acceptance: ['a | b']", "7:16: AF-SPEC-040"),
        ("acceptance: ['CI=1 pytest']", "fix: use env:, or [env, CI=1, pytest]"),
        ("timeout: soon", "7:12: AF-SPEC-012: expected a time"),
        ("timeout: 0", "7:12: AF-SPEC-013: the time must be more than nothing"),
        ("timeout: 8d", "7:12: AF-SPEC-013: the time must be between 0 and 7 days"),
        ("timeout: true", "7:12: AF-SPEC-012: expected a time"),
        ("retries: -1", "7:12: AF-SPEC-013: input should be greater than or equal to 0"),
        ("retries: 1.5", "7:12: AF-SPEC-012: expected a whole number"),
        ("retries: '1'", "7:12: AF-SPEC-012: expected a whole number"),
        ("retries: true", "7:12: AF-SPEC-012: expected a whole number"),
        ("optional: yes", "7:13: AF-SPEC-012: expected true or false (got 'yes')"),
        ("optional: 1", "7:13: AF-SPEC-012: expected true or false"),
        ("env: {A-B: x}", "7:8: AF-SPEC-014: 'A-B' is not the name of a variable"),
        ("env: {A: true}", "7:8: AF-SPEC-012: the value of A must be a string, not true/false"),
        ("env: [A]", "7:8: AF-SPEC-012: expected a mapping"),
        ("title: ''", "7:10: AF-SPEC-013: the text is empty"),
        ("priority: urgent", "7:13: AF-SPEC-013: expected 'critical', 'high', 'medium' or 'low'"),
    ],
)
def test_one_wrong_line_is_one_problem_at_its_place(line, said):
    assert said in one_problem(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("base: --upload-pack=x", "AF-SPEC-014: this cannot be the name of a commit"),
        ("base: a;b", "AF-SPEC-014"),
        ("target: refs/heads/x", "AF-SPEC-014: this cannot be the name of a branch"),
        ("target: a..b", "AF-SPEC-014"),
        ("target: a$(b)", "AF-SPEC-014"),
        ("target: x.lock", "AF-SPEC-014"),
        ("target: -x", "AF-SPEC-014"),
        ("setup: {key: [x]}", "AF-SPEC-011: the key 'commands' is missing"),
        ("setup: {commands: []}", "AF-SPEC-013: the list is empty"),
        ("setup: {commands: [x], keep: ['node_modules/*']}", "AF-SPEC-030: expected one path"),
        ("policy: {on_failure: undo}", "AF-SPEC-013: expected 'continue', 'stop' or 'rollback' (got 'undo')"),
        ("policy: {max_concurrent: 0}", "AF-SPEC-013"),
        ("strategy: fast", "AF-SPEC-013: expected 'concurrent', 'pipeline' or 'hybrid' (got 'fast')"),
        ("strategy: hybrid", "AF-SPEC-063: a hybrid needs rules"),
        ("stages: []", "AF-SPEC-013: the list is empty"),
        ("hooks: {land: [x]}", "AF-SPEC-090"),
        ("validation: [x]", "AF-SPEC-010: unknown key 'validation'"),
        ("name: g", "AF-SPEC-016: 'name' says the same as 'feature'"),
    ],
)
def test_one_wrong_line_at_the_top(line, said):
    (problem,) = problems(f"{line}\n{HEAD}- {{id: a, role: backend, prompt: x}}\n")
    assert problem.startswith("f.yaml:1:")
    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("just words", "f.yaml:1:1: AF-SPEC-009: a spec is a mapping"),
        ("feature: f", "f.yaml:1:1: AF-SPEC-011: the key 'tasks' is missing"),
        ("feature: f\ntasks: []", "f.yaml:2:8: AF-SPEC-013: the list is empty"),
        ("feature: f\ntasks: {a: {}}", "f.yaml:2:8: AF-SPEC-012: expected a list"),
        ("feature: f\ntasks: [a]", "f.yaml:2:9: AF-SPEC-012: expected a mapping"),
        ("tasks: [{id: a, role: docs, prompt: x}]", "f.yaml:1:1: AF-SPEC-011: the key 'feature' is missing"),
    ],
)
def test_documents_that_are_no_spec(text, said):
    (problem,) = problems(text)
    assert said in problem


def test_a_cycle_is_a_path_and_two_cycles_are_two_problems():
    tasks = "".join(
        f"- {{id: {name}, role: docs, prompt: x, needs: [{needs}]}}\n"
        for name, needs in [("a", "c"), ("b", "a"), ("c", "b"), ("d", "c, e"), ("e", "d")]
    )
    first, second = problems(HEAD + tasks)
    assert first.startswith("f.yaml:3:42: AF-SPEC-022: cycle: a -> c -> b -> a")
    assert second.startswith("f.yaml:6:45: AF-SPEC-022: cycle: d -> e -> d")


def test_a_duplicate_id_names_the_other_task():
    (problem,) = problems(f"{HEAD}- {{id: a, role: docs, prompt: x}}\n- {{id: a, role: docs, prompt: x}}\n")
    assert problem.startswith("f.yaml:4:8: AF-SPEC-023: the id is that of task 1 too (got 'a')")


def test_strict_artifacts_wants_them_of_every_change():
    head = "feature: f\npolicy: {strict_artifacts: true}\ntasks:\n"
    tasks = "- {id: a, role: docs, prompt: x}\n- {id: b, role: docs, prompt: x, output: report}\n"
    (problem,) = problems(head + tasks)
    assert problem.startswith("f.yaml:4:3: AF-SPEC-052: strict_artifacts wants the artifacts of every change")
    roles = {**CONFIG.roles, "docs": CONFIG.roles["docs"].model_copy(update={"artifacts": ("docs/**",)})}
    assert parse(head + tasks, Config(roles=roles))


def test_a_prompt_is_needed_only_by_a_model():
    bare = "feature: f\n{}tasks: [{{id: a, role: docs}}]"
    assert "AF-SPEC-011: the key 'prompt' is missing" in problems(bare.format(""))[0]
    assert parse(bare.format("runner: {command: restore}\n")).tasks[0].prompt is None
    assert parse(bare.format("runner: noop\n")).runner == "noop"
    assert parse(bare.format(""), Config(default_runner="noop"))


def test_a_file_of_another_kind_does_not_flood():
    found = problems(HEAD + "- {x: 1}\n" * 20_000)
    assert len(found) == PROBLEMS_MAX + 1
    assert "more problems" in found[-1]


def test_roles_and_runners_of_the_configuration_are_known(tmp_path):
    (tmp_path / "agentflow.yaml").write_text("roles: {mobile: {}}\nrunners: {mine: {command: agent}}\n")
    config = load_config(tmp_path, environ={"HOME": str(tmp_path)})
    text = f"{HEAD}- {{id: a, role: mobile-engineer, runner: mine}}\n"
    assert parse(text, config).tasks[0].role == "mobile"
    assert len(problems(text)) == 2


# -- commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "argv"),
    [
        ("pytest -q", ["pytest", "-q"]),
        ("pytest -k 'a|b' x", ["pytest", "-k", "a|b", "x"]),
        ('echo "a;b" c\\;d', ["echo", "a;b", "c;d"]),
        ("pytest tests/t.py::test[a-1]", ["pytest", "tests/t.py::test[a-1]"]),
        ("echo '$HOME' a#b x~y --k=v", ["echo", "$HOME", "a#b", "x~y", "--k=v"]),
        ("run {prompt_file} {workspace}", ["run", "{prompt_file}", "{workspace}"]),
        (["sleep", 1], ["sleep", "1"]),
        (["sh", "-c", "a | b > c"], ["sh", "-c", "a | b > c"]),
        ("  make\n", ["make"]),
    ],
)
def test_commands(given, argv):
    assert list(parse_command(given)) == argv


@pytest.mark.parametrize(
    "text",
    [
        "a | b",
        "a && b",
        "a; b",
        "a > f",
        "a < f",
        "$HOME/x",
        "a `b`",
        "a $(b)",
        'a "$b"',
        "rm *.py",
        "ls a?",
        "(a)",
        "~/bin/x",
        "a # b",
        "a\nb",
        "A=1 b",
    ],
)
def test_shell_metacharacters_are_refused_with_an_argv_list_as_fix(text):
    with pytest.raises(Exception, match="means something only to a shell") as caught:
        parse_command(text)
    assert "[" in caught.value.context["fix"]


def test_slugs():
    assert slug("Design the API!") == "design-the-api"
    assert slug("Übersicht/ÄÖ") == "ubersicht-ao"
    assert slug("日本") == "task"
    assert len(slug("x" * 200)) == 64


# -- specs built in Python -------------------------------------------------------------------------


def test_python_objects_are_checked_alike():
    spec = Spec(
        feature="f",
        tasks=[
            Task(id="a", role="qa", prompt="x", needs=["b"], timeout="10m"),
            Task(id="b", role="wizard", prompt="x", needs=["a"], runner=NoopRunner()),
        ],
    )
    assert [str(p).split("\n")[0] for p in check_spec(spec, CONFIG)] == [
        "Spec.tasks[1].role: AF-SPEC-020: there is no such role (got 'wizard')",
        "Spec.tasks[0].needs[0]: AF-SPEC-022: cycle: a -> b -> a",
    ]
    with pytest.raises(ValidationError):
        Task(id="a", role="qa", prompt="x", nedds=["b"])
    with pytest.raises(ValidationError, match="Extra inputs"):
        Spec(feature="f", tasks=[], polcy=None)


def test_resolving_gives_roles_and_defaults_and_changes_nothing_else():
    spec = Spec(
        feature="f", policy={"retries": 5, "timeout": 60}, tasks=[Task(id="a", role="qa", prompt="x")]
    )
    assert check_spec(spec, CONFIG) == []
    task = resolve(spec, CONFIG).tasks[0]
    assert (task.role, task.retries, task.timeout) == ("tester", 5, 60)
    assert spec.tasks[0].retries is None
    assert resolve(resolve(spec, CONFIG), CONFIG) == resolve(spec, CONFIG)
