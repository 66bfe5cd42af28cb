"""The forms of `agentflow plan`, from plain data and from small specs."""

from __future__ import annotations

import pytest

from agentflow.canvas.plan import make_plan
from agentflow.cli import planning, render_plan
from agentflow.config import Config
from agentflow.spec.models import Spec, Task

#: Not series-parallel: d needs b and c, e needs c only.
SHAPE = {"a": [], "b": ["a"], "c": ["a"], "d": ["a", "b", "c"], "e": ["c"]}


def spec(shape: dict[str, list[str]], **fields: dict[str, object]) -> Spec:
    tasks = [
        Task(id=name, role="backend", prompt="x", needs=needs, **fields.get(name, {}))  # type: ignore[arg-type]
        for name, needs in shape.items()
    ]
    return Spec(feature="A feature", tasks=tasks)


def view(shape: dict[str, list[str]], **fields: dict[str, object]) -> render_plan.PlanView:
    return planning.view_of(spec(shape, **fields), Config(), jobs=3)


def test_the_text_holds_waves_the_critical_path_and_the_canvas() -> None:
    lines = render_plan.text(view(SHAPE))
    assert lines[0] == "A feature: 5 nodes, 5 edges, 3 waves, at most 3 at once"
    assert lines[lines.index("wave 2") + 1 : lines.index("wave 3")] == [
        "  b  (backend)  needs a",
        "  c  (backend)  needs a",
    ]
    assert lines[lines.index("wave 3") + 1] == "  d  (backend)  needs b, c"
    assert "  a → b → d" in lines
    assert "  chord([b, c], d)" in lines


def test_the_canvas_names_what_is_sent_at_once_every_fork_and_every_chord() -> None:
    lines = render_plan.canvas(view(SHAPE))
    assert lines[1:4] == ["  at once: a", "  after a: group(b, c)", "  after c: e"]
    assert sorted(lines[4:]) == ["  chord([b, c], d)", "  chord([d, e], integrate)"]


def test_a_line_is_one_chain() -> None:
    lines = render_plan.canvas(view({"a": [], "b": ["a"], "c": ["b"]}))
    assert lines[1:] == ["  at once: a|b|c", "  chord([c], integrate)"]


def test_marks_and_artifacts_are_shown() -> None:
    shown = render_plan.text(
        view(
            {"a": [], "b": []},
            a={"output": "report", "priority": "high"},
            b={"artifacts": ["src/**"], "optional": True},
        )
    )
    assert "  a  (backend, report, high)" in shown
    assert "  b  (backend, optional)  writes src/**" in shown


def test_unordered_nodes_that_write_the_same_are_named() -> None:
    shape: dict[str, list[str]] = {"all": [], "one": [], "two": [], "after": ["all"]}
    made = make_plan(
        spec(
            shape,
            all={"artifacts": ["src/**"]},
            one={"artifacts": ["src/a/x.py"]},
            two={"artifacts": ["docs/x.md"]},
            after={"artifacts": ["src/**"]},
        ),
        Config(),
    )
    # `after` and `all` write the same too, but are ordered.
    assert planning.overlaps(made) == [
        render_plan.Overlap("all", "one", "src/a/x.py"),
        render_plan.Overlap("one", "after", "src/a/x.py"),
    ]


def test_mermaid_does_not_use_ids_as_names() -> None:
    lines = render_plan.mermaid(view({"end": [], "x.y-z": ["end"]}))
    assert lines[:4] == [
        "flowchart TD",
        '  n0["end<br/>backend"]',
        '  n1["x.y-z<br/>backend"]',
        "  n0 --> n1",
    ]


def test_dot_holds_every_node_and_reduced_edge() -> None:
    lines = render_plan.dot(view(SHAPE))
    assert lines[0] == "digraph feature {"
    assert sorted(line.strip() for line in lines if "->" in line) == [
        '"a" -> "b";', '"a" -> "c";', '"b" -> "d";', '"c" -> "d";', '"c" -> "e";',
    ]  # fmt: skip


def test_many_overlaps_are_counted_not_listed() -> None:
    base = view({"a": []})
    many = tuple(render_plan.Overlap(f"a{i}", f"b{i}", "x") for i in range(render_plan.OVERLAPS_SHOWN + 5))
    shown = render_plan.text(render_plan.PlanView(**{**_fields(base), "overlaps": many}))
    assert "  … and 5 more" in shown


def _fields(value: render_plan.PlanView) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}


@pytest.mark.parametrize("form", [render_plan.text, render_plan.mermaid, render_plan.dot])
def test_no_line_of_any_form_holds_a_line_break(form: object) -> None:
    made = view(SHAPE)
    broken = render_plan.PlanView(**{**_fields(made), "feature": "two\nlines"})  # type: ignore[arg-type]
    assert not [line for line in form(broken) if "\n" in line]  # type: ignore[operator]
