"""The prompt of an attempt: what is in it, and in which order."""

from __future__ import annotations

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.environment import Finding, Outcome
from agentflow.tasks import prompt
from agentflow.tasks.prompt import Input

NODE = PlanNode(
    id="pay",
    role="backend",
    prompt="Take the money.",
    inputs=("survey", "core"),
    artifacts=("src/pay.py",),
    acceptance=(("pytest", "-q"),),
)
SURVEY = PlanNode(id="survey", role="architect", output="report")
PLAN = Plan(feature="Shop", goal="Sell", nodes=(SURVEY, NODE))


def build(inputs=(), feedback="", conflict=""):
    return prompt.build(PLAN, NODE, inputs, feedback=feedback, conflict=conflict)


def titles(text):
    return [line[2:] for line in text.splitlines() if line.startswith("# ")]


def test_a_first_attempt_is_told_its_task_and_its_limits():
    assert titles(build()) == [
        "Feature", "Goal", "Your task (pay, role backend)", "What you deliver", "Files you may write",
        "How your work is checked",
    ]  # fmt: skip
    assert "- src/pay.py" in build()
    assert "- pytest -q" in build()


def test_a_later_attempt_is_told_what_went_wrong():
    text = build(feedback="E assert 1 == 2", conflict="cart changed shop.py")
    assert titles(text)[-2:] == ["Your previous attempt failed", "Another node changed the same lines"]
    assert "E assert 1 == 2" in text


def test_reports_and_hand_offs_arrive_under_their_nodes_name():
    items = [
        Input("survey", "architect", "report", "Round late.", "approve"),
        Input("core", "data", "change", "see db.py"),
    ]
    text = build(items)
    assert "## survey (architect): report\n\nverdict: approve\nRound late." in text
    assert "## core (data): hand-off\n\nsee db.py" in text


def test_only_inputs_of_the_plan_that_left_a_text_are_handed_over():
    found = prompt.inputs_of(NODE, PLAN, {"survey": "Round late.", "stranger": "x"}, {"survey": "approve"})
    assert found == [Input("survey", "architect", "report", "Round late.", "approve")]


def test_a_report_hands_over_every_finding():
    outcome = Outcome(
        "looked", "Careful.", "block", (Finding("high", "eval of input", "a.py", 3), Finding("low", "style"))
    )
    assert prompt.text_of(outcome, "report") == (
        "Careful.\n\nFindings:\n- high: a.py:3: eval of input\n- low: style"
    )
    assert prompt.text_of(Outcome("done"), "change") == ""
    assert prompt.text_of(Outcome("looked"), "report") == "looked"
