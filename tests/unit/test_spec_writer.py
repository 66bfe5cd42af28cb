"""Feature files that are written are read back as the same spec, whatever stands in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.config import Config
from agentflow.graph import CycleError
from agentflow.spec.models import Spec
from agentflow.spec.reader import parse_spec
from agentflow.spec.writer import write_spec

CONFIG = Config()


def read(text: str) -> Spec:
    return parse_spec(text, name="written.yaml", config=CONFIG)


def task(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "role": "backend", "prompt": "Do it.", **more}


# What a file can hold: no control characters and no halves of surrogate pairs.
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t"), min_size=1).filter(
    lambda text: text.strip() and text == text.strip("\n")
)
TRICKY = st.sampled_from(
    ["1e5", "-.5E+3", "yes", "null", "~", "10:30", "0x1F", "- a", "a: b", "# c", "{a}", "'", "|", "a\n b"]
)  # fmt: skip


def without_trailing_blanks(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n") if "\n" in text else text


@given(prompt=TEXTS | TRICKY, goal=TEXTS | TRICKY)
def test_any_text_is_read_back(prompt: str, goal: str) -> None:
    spec = read(write_spec({"feature": "f", "goal": goal, "tasks": [task("a", prompt=prompt)]}))
    assert (spec.tasks[0].prompt, spec.goal) == tuple(map(without_trailing_blanks, (prompt, goal)))


def test_tasks_stand_in_the_order_in_which_they_can_start() -> None:
    text = write_spec(
        {
            "feature": "Two waves",
            "validate": ["pytest -q"],
            "tasks": [
                task("ui", needs=["api"], artifacts=["ui/**"], prompt="First.\n\nThen: more."),
                task("api", acceptance=["grep -q 'a b' x"]),
            ],
        },
        header=["Made by hand", "with a\nbreak"],
    )
    assert text.startswith("# Made by hand\n# with a break\nfeature: Two waves\n")
    assert "tasks:\n  # Starts at once\n  - id: api\n" in text
    assert "\n\n  # Wave 2: starts when what it needs is done\n  - id: ui\n" in text
    assert (
        "    needs: [api]\n    artifacts: [ui/**]\n    prompt: |-\n      First.\n\n      Then: more.\n"
        in text
    )
    spec = read(text)
    assert [t.id for t in spec.tasks] == ["api", "ui"]
    assert spec.tasks[0].acceptance == (("grep", "-q", "a b", "x"),)
    assert spec.validation == (("pytest", "-q"),)


def test_what_is_empty_is_left_out() -> None:
    text = write_spec({"feature": "f", "goal": "", "tasks": [task("a", needs=[], artifacts=[], title=None)]})
    assert (
        text == "feature: f\n\ntasks:\n  # Starts at once\n  - id: a\n    role: backend\n    prompt: Do it.\n"
    )


def test_a_prompt_that_looks_like_a_task_is_no_task() -> None:
    spec = read(
        write_spec({"feature": "f", "tasks": [task("a", prompt="tasks:\n  - id: b\n- id: c"), task("z")]})
    )
    assert [t.id for t in spec.tasks] == ["a", "z"]


def test_a_circle_is_refused() -> None:
    with pytest.raises(CycleError, match="a -> b -> a"):
        write_spec({"feature": "f", "tasks": [task("a", needs=["b"]), task("b", needs=["a"])]})
