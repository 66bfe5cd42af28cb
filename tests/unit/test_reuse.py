"""What a node is made from: whatever may decide over its work is in the digest, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from agentflow.canvas.plan import Plan, PlanNode, SetupPlan
from agentflow.store.verified import Verified
from agentflow.tasks import reuse

NODE = PlanNode(id="a", role="backend", acceptance=(("true",),), runner={"type": "command", "command": ["x"]})
PLAN = Plan(feature="f", nodes=(NODE,))


def digest(node: PlanNode = NODE, plan: Plan = PLAN, base: str = "b" * 40, prompt: str = "p") -> str:
    return reuse.digest_of(plan, node, base, prompt)


@pytest.mark.parametrize(
    "change",
    [
        {"role": "tester"},
        {"instructions": "be brief"},
        {"artifacts": ("a.txt",)},
        {"declared": True},
        {"acceptance": (("false",),)},
        {"expect": "red_then_green"},
        {"runner": {"type": "command", "command": ["y"]}},
        {"env": {"X": "1"}},
    ],
    ids=str,
)
def test_what_decides_changes_the_digest(change: dict[str, object]) -> None:
    assert digest(NODE.model_copy(update=change)) != digest()


def test_base_prompt_and_setup_change_the_digest() -> None:
    setup = SetupPlan(commands=(("true",),))
    others = [
        digest(base="c" * 40),
        digest(prompt="q"),
        digest(plan=PLAN.model_copy(update={"setup": setup})),
        digest(plan=PLAN.model_copy(update={"setup": setup.model_copy(update={"key": ("a",)})})),
    ]
    assert len({digest(), *others}) == 5


@pytest.mark.parametrize(
    "change",
    [{"priority": "high"}, {"retries": 9}, {"timeout_s": 1.0}, {"rank": 7.0}, {"optional": True}],
    ids=str,
)
def test_when_and_how_often_it_is_tried_does_not(change: dict[str, object]) -> None:
    assert digest(NODE.model_copy(update=change)) == digest()


@pytest.mark.parametrize("change", [{"output": "report"}, {"acceptance": ()}, {"expect": "none"}], ids=str)
def test_what_nothing_proves_is_not_used_again(change: dict[str, object]) -> None:
    assert reuse.applies(NODE)
    assert not reuse.applies(NODE.model_copy(update=change))


def test_only_the_data_directory_that_judged_knows_its_mark(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    made = Verified(commit="c" * 40, base="b" * 40, run="r", node="a")
    made = dataclasses.replace(made, mark=reuse._mark(mine, "digest", made.base, made.commit))
    assert reuse.is_ours(mine, "digest", made)
    assert not reuse.is_ours(theirs, "digest", made)
    assert not reuse.is_ours(mine, "another", made)
    assert not reuse.is_ours(mine, "digest", dataclasses.replace(made, commit="d" * 40))
    assert (mine / "verified.key").stat().st_mode & 0o077 == 0


def test_what_lies_outside_of_the_locks_is_not_taken_over() -> None:
    """The agent of before was given a further artifact; this node holds no lock on it."""
    declared = NODE.model_copy(update={"declared": True, "artifacts": ("src/**",), "appends": ("log.txt",)})
    assert reuse.is_locked(declared, ["src/a/b.py", "log.txt"])
    assert not reuse.is_locked(declared, ["src/a/b.py", "README.md"])
    assert reuse.is_locked(NODE, ["README.md"])
