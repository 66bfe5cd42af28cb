"""for_each, shards and chain: copies, their needs against the definition, texts, places and bounds."""

import itertools

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow import graph
from agentflow.canvas.plan import make_plan
from agentflow.config import Config
from agentflow.errors import SpecError
from agentflow.spec.changes import Changes
from agentflow.spec.checks import check_spec, resolve
from agentflow.spec.models import Spec, Task
from agentflow.spec.reader import NO_CHANGES, parse_spec
from agentflow.spec.repeats import slots_of

CONFIG = Config(default_runner="noop")


def parse(text, changes=NO_CHANGES):
    return parse_spec(text, name="f.yaml", config=CONFIG, changes=changes)


def needs(spec):
    return {task.id: set(task.needs) for task in spec.tasks}


CHAIN = """\
feature: f
for_each: {items: [auth, Pay Roll]}
chain:
- {id: design, role: architect, output: report, prompt: "Design {item}, {index} of {count}; {{item}} stays."}
- {id: build, role: backend, prompt: Build., artifacts: ["src/{item}/**"], reads: ["{items}", "doc/{index}"]}
- {id: test, role: tester, needs: [design], acceptance: ["pytest 'tests/{item}'", [sh, -c, "x {item}"]]}
tasks:
- {id: all, role: docs, needs: [test, design]}
- {id: one, role: docs, needs: [build-auth]}
"""


def test_a_chain_once_for_each_item_beside_other_tasks():
    spec = parse(CHAIN)
    assert needs(spec) == {
        "design-auth": set(),
        "design-pay-roll": set(),
        "build-auth": {"design-auth"},
        "build-pay-roll": {"design-pay-roll"},
        "test-auth": {"design-auth", "build-auth"},
        "test-pay-roll": {"design-pay-roll", "build-pay-roll"},
        "all": {"test-auth", "test-pay-roll", "design-auth", "design-pay-roll"},
        "one": {"build-auth"},
    }
    tasks = {task.id: task for task in spec.tasks}
    assert tasks["design-pay-roll"].prompt == "Design Pay Roll, 2 of 2; {item} stays."
    assert tasks["build-pay-roll"].prompt == "Build.\n\nDo this for: Pay Roll"
    assert tasks["build-pay-roll"].artifacts == ("src/Pay Roll/**",)
    assert tasks["build-pay-roll"].reads == ("Pay Roll", "doc/2")
    # An item is one word of a command, whatever is in it.
    assert tasks["test-pay-roll"].acceptance == (("pytest", "tests/Pay Roll"), ("sh", "-c", "x Pay Roll"))
    assert {task.shard for task in spec.tasks} == {"auth", "pay-roll", None}
    plan = make_plan(spec, CONFIG)
    assert plan.by_id["test-auth"].shard == "auth"
    assert plan.by_id["all"].shard == ""


def test_at_the_top_without_a_chain_every_task_is_repeated_but_those_with_an_own():
    spec = parse(
        "feature: f\nshards: 2\ntasks:\n- {id: a, role: docs, prompt: x}\n"
        "- {id: 'b-{item}-x', role: docs, needs: [a, c]}\n- {id: c, role: docs, for_each: [k, l]}\n"
    )
    every = {"c-k", "c-l"}
    assert needs(spec) == {
        "a-1": set(), "a-2": set(), "b-1-x": {"a-1", *every}, "b-2-x": {"a-2", *every},
        "c-k": set(), "c-l": set(),
    }  # fmt: skip
    assert spec.tasks[1].prompt == "x\n\nDo part 2 of 2 of this; others do the other parts."
    assert (spec.shards, spec.for_each, spec.chain) == (None, None, None)


def test_shards_split_items_and_a_need_can_name_one_copy():
    spec = parse(
        "feature: f\ntasks:\n"
        "- {id: read, role: docs, for_each: [a, b, c, d, e], shards: 2, reads: ['{items}']}\n"
        "- {id: sum, role: docs, for_each: [1, 2], needs: ['read-{item}']}\n"
    )
    assert [task.reads for task in spec.tasks[:2]] == [("a", "b", "c"), ("d", "e")]
    assert needs(spec)["sum-2"] == {"read-2"}


@given(st.lists(st.integers(), unique=True, max_size=40), st.integers(1, 50))
def test_parts_hold_every_item_once_in_order_and_differ_by_one_at_most(items, shards):
    names = tuple(map(str, items))
    slots = slots_of(names or None, shards)
    assert len(slots) == (min(shards, len(names)) if names else shards)
    if names:
        assert tuple(itertools.chain(*(slot.items for slot in slots))) == names
        sizes = {len(slot.items) for slot in slots}
        assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.text(min_size=1, max_size=60), unique=True, min_size=1, max_size=30))
def test_keys_are_endings_of_ids_each_once(items):
    keys = [slot.key for slot in slots_of(items, None)]
    assert len(set(keys)) == len(items)
    spec = Spec(feature="f", tasks=(Task(id="x" * 64, role="docs", for_each=tuple(items)),))
    assert all(len(task.id) <= 64 for task in resolve(spec, CONFIG).tasks)


GROUPS = {"once": None, "top": "top", "own": "own"}


@st.composite
def documents(draw):
    """Tasks in an order, each once, repeated with all others, or by itself; with needs on earlier ones."""
    size = draw(st.integers(1, 7))
    top = draw(st.none() | st.integers(1, 3))
    own = {n: draw(st.none() | st.integers(1, 3)) for n in range(size)}
    edges = {n: draw(st.lists(st.integers(0, n - 1), unique=True)) if n else [] for n in range(size)}
    return size, top, own, edges


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_edges_are_those_of_the_definition(document):
    size, top, own, edges = document
    # The definition: what a task is repeated for, and which copies a need means.
    repeat = {n: ("own", n, own[n]) if own[n] else ("top", 0, top) if top else None for n in range(size)}

    def copies(n):
        return [f"t{n}"] if repeat[n] is None else [f"t{n}-{k}" for k in range(1, repeat[n][2] + 1)]

    expected = {}
    for n in range(size):
        for number, name in enumerate(copies(n)):
            expected[name] = {
                copy
                for need in edges[n]
                for position, copy in enumerate(copies(need))
                if repeat[need] is None or repeat[need] != repeat[n] or position == number
            }
    tasks = [
        {"id": f"t{n}", "role": "docs", "needs": [f"t{m}" for m in edges[n]]}
        | ({"shards": own[n]} if own[n] else {})
        for n in range(size)
    ]
    data = {"feature": "f", "tasks": tasks} | ({"shards": top} if top else {})
    assert needs(parse(yaml.safe_dump(data))) == expected
    built = Spec.model_validate(data)
    assert check_spec(built, CONFIG) == []
    assert needs(resolve(built, CONFIG)) == expected
    plan = make_plan(built, CONFIG)
    assert {node.id: set(node.needs) for node in plan.nodes} == expected
    assert graph.topological(expected)


def test_problems_of_a_spec_built_in_python_name_the_field_that_was_written():
    spec = Spec(
        feature="f",
        for_each=("a", "b"),
        chain=(Task(id="x", role="docs"), Task(id="y", role="docs", needs=("nope",), shards=2)),
    )
    assert [str(p).split("\n")[0] for p in check_spec(spec, CONFIG)] == [
        "Spec.chain[1].shards: AF-SPEC-060: a task of a chain has no shards of its own"
    ]
    spec = Spec(feature="f", for_each=("a", "b"), tasks=(Task(id="x", role="docs", needs=("nope",)),))
    assert [str(p).split("\n")[0] for p in check_spec(spec, CONFIG)] == [
        "Spec.tasks[0].needs[0]: AF-SPEC-021: there is no such task (got 'nope')"
    ]


def test_what_a_spec_in_python_cannot_be_is_an_error_when_it_is_planned():
    spec = Spec(feature="f", shards=10_000, tasks=(Task(id="x", role="docs"), Task(id="y", role="docs")))
    with pytest.raises(SpecError, match="1 problem"):
        make_plan(spec, CONFIG)


def test_ten_thousand_tasks_are_read():
    spec = parse(
        "feature: f\nshards: 5000\nchain: [{id: a, role: docs}, {id: b, role: docs, prompt: '{item}'}]\n"
    )
    assert len(spec.tasks) == 10_000
    assert spec.tasks[-1].needs == ("a-5000",)


# -- what the command line changes ------------------------------------------------------------------

PLAIN = "feature: f\ntasks:\n- {id: a, role: docs, reads: [x.md]}\n- {id: b, role: docs, needs: [a]}\n"


def test_shards_of_the_command_line_repeat_a_plain_file_as_chains():
    spec = parse(PLAIN, Changes(shards=2))
    assert needs(spec) == {"a-1": set(), "a-2": set(), "b-1": {"a-1"}, "b-2": {"a-2"}}


def test_shards_of_the_command_line_replace_those_of_the_file():
    text = PLAIN.replace("id: a,", "id: a, shards: 7,")
    assert [task.id for task in parse(text, Changes(shards=2)).tasks] == ["a-1", "a-2", "b"]
    assert len(parse(f"{PLAIN}shards: 9\n", Changes(shards=3)).tasks) == 6


def test_files_are_read_by_every_task_and_with_shards_in_parts():
    spec = parse(PLAIN, Changes(files=("p.py", "x.md")))
    assert [task.reads for task in spec.tasks] == [("x.md", "p.py"), ("p.py", "x.md")]
    spec = parse(PLAIN, Changes(files=("p.py", "q.py", "r.py"), shards=2))
    assert {task.id: task.reads for task in spec.tasks} == {
        "a-1": ("x.md", "p.py", "q.py"), "a-2": ("x.md", "r.py"), "b-1": ("p.py", "q.py"), "b-2": ("r.py",),
    }  # fmt: skip


def test_files_are_whole_where_the_file_repeats_something_of_its_own():
    text = PLAIN.replace("id: a,", "id: a, for_each: [k],")
    spec = parse(text, Changes(files=("p.py", "q.py"), shards=1))
    assert {task.id: task.reads for task in spec.tasks} == {
        "a-k": ("x.md", "p.py", "q.py"), "b-1": ("p.py", "q.py"),
    }  # fmt: skip


def test_strategy_and_runner_of_the_command_line_stand_above_the_file():
    text = f"{PLAIN}stages: [{{stage: s, agents: [docs], parallel: false}}]\nrunner: openai\n"
    spec = parse(text, Changes(strategy="concurrent", runner="noop"))
    assert (spec.strategy, spec.stages, spec.runner) == ("concurrent", None, "noop")
