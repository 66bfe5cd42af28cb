"""Stages, rules and roles that depend on each other: the edges against their definition."""

import itertools

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow import graph
from agentflow.agents import RoleConfig
from agentflow.canvas.plan import make_plan
from agentflow.config import Config, load_config
from agentflow.errors import SpecError
from agentflow.spec import conditions, ordering
from agentflow.spec.checks import check_spec
from agentflow.spec.models import Spec, Task
from agentflow.spec.ordering import default_stages, order_of
from agentflow.spec.reader import parse_spec

CONFIG = Config(default_runner="noop")


def parse(data, config=CONFIG):
    return parse_spec(yaml.safe_dump(data), name="f.yaml", config=config)


def plan_of(data, config=CONFIG):
    return make_plan(parse(data, config), config)


def task(name, role, *needs, **fields):
    return {"id": name, "role": role} | ({"needs": list(needs)} if needs else {}) | fields


STAGES = [
    {"stage": "plan", "agents": ["architecture"]},
    {"stage": "make", "agents": ["backend", "frontend"]},
    {"stage": "try", "agents": ["qa"], "parallel": False},
]


def test_a_pipeline_goes_stage_by_stage():
    tasks = [
        task("t2", "qa", "t1"), task("t1", "tester"), task("ui", "frontend"), task("api", "backend"),
        task("arch", "architect"), task("text", "docs", "ui"), task("free", "docs"),
    ]  # fmt: skip
    plan = plan_of({"feature": "f", "stages": STAGES, "tasks": tasks})
    assert {node.id: set(node.needs) for node in plan.nodes} == {
        "arch": set(), "free": set(),
        "ui": {"arch"}, "api": {"arch"},
        "t1": {"ui", "api"}, "t2": {"ui", "api", "t1"},
        "text": {"ui"},
    }  # fmt: skip
    assert {node.id: node.stage for node in plan.nodes} == {
        "arch": "plan", "ui": "make", "api": "make", "t1": "try", "t2": "try", "text": "", "free": "",
    }  # fmt: skip
    # What is handed over to a task is what the stage before it made.
    assert set(plan.by_id["t1"].inputs) == {"ui", "api"}


def test_the_stages_of_a_pipeline_that_names_none_hold_every_role_that_makes_or_judges():
    assert [stage.stage for stage in default_stages()] == ["design", "implement", "test", "review", "deploy"]
    staged = {role for stage in default_stages() for role in stage.agents}
    assert staged == set(CONFIG.roles) - {"docs", "planner"}
    data = {
        "feature": "f",
        "strategy": "pipeline",
        "tasks": [task("d", "devops"), task("r", "reviewer"), task("i", "implementer")],
    }
    assert {node.id: node.needs for node in plan_of(data).nodes} == {"i": (), "r": ("i",), "d": ("r",)}


def test_rules_say_who_takes_a_place_in_the_stages():
    tasks = [task(f"i{n}", "backend", tags=["fast"] if n == 1 else []) for n in (1, 2)]
    tasks += [task("t", "qa"), task("r", "reviewer")]
    rules = [
        {"condition": "tag == fast", "strategy": "concurrent"},
        {"condition": "tasks > 3 and role != reviewer", "strategy": "pipeline"},
    ]
    data = {"feature": "f", "rules": rules, "tasks": tasks}
    assert {n.id: set(n.needs) for n in plan_of(data).nodes} == {
        "i1": set(),
        "i2": set(),
        "t": {"i2"},
        "r": set(),
    }
    few = {**data, "tasks": tasks[1:]}
    assert all(not node.needs for node in plan_of(few).nodes)
    rules[1]["agents"] = ["reviewer", "quality"]
    assert all(not node.needs for node in plan_of(data).nodes if node.id != "r")


def config_with(tmp_path, **roles):
    (tmp_path / "agentflow.yaml").write_text(yaml.safe_dump({"roles": roles, "default_runner": "noop"}))
    return load_config(tmp_path, {"data_dir": tmp_path / "home"})


def test_tasks_that_declare_nothing_inherit_the_order_of_their_roles(tmp_path):
    config = config_with(
        tmp_path,
        backend={"depends_on": ["architecture"], "provides": ["rest"]},
        mobile={"depends_on": ["rest", "mobile"]},
    )
    tasks = [
        task("m", "mobile"), task("b1", "backend"), task("b2", "backend", "x"), task("a", "architect"),
        task("x", "docs"), {**task("n", "mobile"), "needs": []},
    ]  # fmt: skip
    plan = plan_of({"feature": "f", "tasks": tasks}, config)
    assert {node.id: set(node.needs) for node in plan.nodes} == {
        "a": set(), "x": set(), "n": set(), "b1": {"a"}, "b2": {"x"}, "m": {"b1", "b2"},
    }  # fmt: skip
    built = Spec(
        feature="f",
        tasks=(
            Task(id="m", role="mobile"),
            Task(id="b", role="backend"),
            Task(id="n", role="mobile", needs=()),
        ),
    )
    assert check_spec(built, config) == []
    assert {node.id: set(node.needs) for node in make_plan(built, config).nodes} == {
        "b": set(), "m": {"b"}, "n": set(),
    }  # fmt: skip


def test_a_circle_of_needs_and_roles_says_what_made_it(tmp_path):
    config = config_with(tmp_path, docs={"depends_on": ["tester"]})
    with pytest.raises(SpecError) as caught:
        parse({"feature": "f", "tasks": [task("d", "docs"), task("t", "tester", "d")]}, config)
    (problem,) = caught.value.problems
    assert problem.reason == "cycle: d -> t -> d (the role docs depends on tester)"
    assert (problem.code, problem.line, problem.value) == ("AF-SPEC-062", 7, "")


def test_a_role_that_depends_on_nobody_is_told(tmp_path):
    (tmp_path / "agentflow.yaml").write_text("roles: {mobile: {depends_on: [bakend]}}\n")
    with pytest.raises(Exception, match="problem") as caught:
        load_config(tmp_path)
    assert "depends on 'bakend', which no role is or provides" in caught.value.explain()
    assert "did you mean 'backend'?" in caught.value.explain()


def test_inputs_may_come_from_an_earlier_stage():
    data = {
        "feature": "f",
        "strategy": "pipeline",
        "tasks": [task("t", "qa", inputs=["i"]), task("i", "api")],
    }
    assert plan_of(data).by_id["t"].inputs == ("i",)
    with pytest.raises(SpecError):
        parse({**data, "strategy": "concurrent"})


def test_too_many_edges_are_a_problem_at_their_place(monkeypatch):
    monkeypatch.setattr(ordering, "EDGES_MAX", 8)
    tasks = [task(f"b{n}", "backend") for n in range(3)] + [task(f"t{n}", "qa") for n in range(3)]
    with pytest.raises(SpecError) as caught:
        parse({"feature": "f", "strategy": "pipeline", "tasks": tasks})
    assert [(p.code, p.line) for p in caught.value.problems] == [("AF-SPEC-061", 2)]


ROLES = ("architect", "backend", "tester", "docs", "reviewer")


@st.composite
def features(draw):
    """Tasks with needs on earlier ones, stages over some of the roles, and roles that depend on others."""
    size = draw(st.integers(1, 8))
    tasks = []
    for n in range(size):
        needs = draw(st.lists(st.integers(0, n - 1), unique=True)) if n else []
        tasks.append((f"n{n}", draw(st.sampled_from(ROLES)), [f"n{m}" for m in needs], draw(st.booleans())))
    roles = draw(st.permutations(ROLES))
    cuts = sorted(draw(st.sets(st.integers(1, 4), max_size=3)))
    bounds = list(zip([0, *cuts], [*cuts, 4], strict=True))
    stages = [(f"s{k}", list(roles[a:b]), draw(st.booleans())) for k, (a, b) in enumerate(bounds) if b > a]
    depends = {role: draw(st.sets(st.sampled_from(ROLES), max_size=2)) for role in ROLES}
    return tasks, draw(st.sampled_from([[], stages])), depends, draw(st.permutations(range(size)))


def definition(tasks, stages, depends):
    """Every edge, straight from the words of docs/spec.md; None when they run against each other."""
    stage = {name: k for name, role, _, _ in tasks for k, (_, roles, _) in enumerate(stages) if role in roles}
    parents = {name: set(needs) for name, _, needs, _ in tasks}
    edges = {name: set(needs) for name, needs in parents.items()}
    for one, its in stage.items():
        before = [k for k in set(stage.values()) if k < its]
        edges[one] |= {other for other, k in stage.items() if before and k == max(before)}
    for k, (_, _, parallel) in enumerate(stages):
        if not parallel:
            if graph.find_cycle({name: sorted(needs) for name, needs in edges.items()}):
                return None
            # What a task of an earlier stage is needed for delays no task of this one: all wait for it.
            order = graph.topological({name: sorted(needs) for name, needs in edges.items()})
            for one, following in itertools.pairwise([name for name in order if stage.get(name) == k]):
                edges[following].add(one)
    for name, role, needs, declares in tasks:
        if not needs and not declares and name not in stage:
            edges[name] |= {other for other, its, _, _ in tasks if its in depends[role] and its != role}
    return None if graph.find_cycle(edges) else edges


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(features())
def test_edges_are_those_of_the_definition(feature):
    tasks, stages, depends, shuffled = feature
    roles = {
        **CONFIG.roles,
        **{
            name: RoleConfig(**{**dict(CONFIG.roles[name]), "depends_on": tuple(depends[name])})
            for name in ROLES
        },
    }
    config = CONFIG.model_copy(update={"roles": roles})
    tasks = [tasks[n] for n in shuffled]
    data = {
        "feature": "f",
        "tasks": [
            {"id": name, "role": role} | ({"needs": needs} if needs or declares else {})
            for name, role, needs, declares in tasks
        ],
    }
    if stages:
        data["stages"] = [{"stage": s, "agents": roles, "parallel": p} for s, roles, p in stages]
    expected = definition(tasks, stages, depends)
    if expected is None:
        with pytest.raises(SpecError) as caught:
            parse(data, config)
        assert {problem.code for problem in caught.value.problems} == {"AF-SPEC-062"}
        return
    spec = parse(data, config)
    assert {name: set(needs) for name, needs in order_of(spec, config).needs.items()} == expected
    built = Spec.model_validate(data)
    assert check_spec(built, config) == []
    assert {node.id: set(node.needs) for node in make_plan(built, config).nodes} == expected
    # Asking twice changes nothing: what stages order is never written into the needs.
    assert spec.tasks[0].needs == tuple(data["tasks"][0].get("needs", ()))


# -- conditions --------------------------------------------------------------------------------------

FACTS = {
    "tasks": 6, "roles": 2, "files": 0, "role": frozenset({"backend", "server"}), "id": frozenset({"a-1"}),
    "tag": frozenset({"x", "y z"}), "priority": frozenset({"low"}), "output": frozenset({"change"}),
    "shard": frozenset({""}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("tasks > 5", True), ("tasks>=7", False), ("tasks == 6 and roles != 2", False),
        ("role == server", True),
        ("role != server", False), ("not role == docs", True), ("tag == 'y z'", True),
        ("tag not in [x, q]", False),
        ("id in [a-1]", True), ("files < 1 or false and false", True),
        ("(files < 1 or false) and false", False),
        ("true", True), ("not not true", True), ('shard == ""', True), ("tag == and", False),
    ],
)  # fmt: skip
def test_conditions_hold_or_do_not(text, holds):
    assert conditions.parse(text)(FACTS) is holds


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1), ("tasks >", 8), ("tasks > x", 9), ("size > 5", 1), ("role > 5", 6), ("tasks in [5]", 1),
        ("role", 5),
        ("role == a b", 11), ("(true", 6), ("true)", 5), ("role in a", 9), ("role in [a", 11), ("a; b", 2),
        ("'role' == a", 1), ("not " * 30 + "true", 85), ("(" * 30 + "true", 22), ("role == 'a", 9),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_read_say_where(text, column):
    with pytest.raises(conditions.ConditionError) as caught:
        conditions.parse(text)
    assert caught.value.column == column


@given(st.text(max_size=60) | st.text("()<>=! andortskg'\"[],0123", max_size=60))
def test_no_text_does_more_than_fail(text):
    try:
        assert conditions.parse(text)(FACTS) in (True, False)
    except conditions.ConditionError as error:
        assert 1 <= error.column <= len(text) + 1  # noqa: PT017 (either is right)
