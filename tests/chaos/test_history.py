"""The history checker itself: a true story passes, and each kind of lie is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis
from chaos import history
from chaos.history import Telling
from helpers.repos import commit_all, git, make_repo

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.store.records import Event

PLAN = Plan(
    feature="f",
    nodes=(
        PlanNode(id="a", role="r", runner={"type": "noop"}),
        PlanNode(id="b", role="r", needs=("a",), runner={"type": "noop"}),
        PlanNode(id="c", role="r", runner={"type": "noop"}),
    ),
    max_concurrent=2,
)
STORY = (
    "started a running 1", "started c running 1", "requeued c ready 1", "started c running 2",
    "settled a succeeded 1", "started b running 1", "settled c succeeded 2", "settled b succeeded 1",
    "started @integrate running 1", "settled @integrate succeeded 1",
)  # fmt: skip


def told(lines: Sequence[str]) -> list[str]:
    events = []
    for number, line in enumerate(lines):
        kind, node, state, attempt = line.split()
        events.append(Event(f"{number}-0", "run", f"node.{kind}", number, node, state, int(attempt)))
    return Telling(PLAN).read(events)


def test_a_true_story() -> None:
    assert told(STORY) == []


@pytest.mark.parametrize(
    ("lie", "promise"),
    [
        (lambda s: [*s, "settled b succeeded 1"], "I1: succeeded after"),
        (lambda s: [*s, "started b running 2"], "I1: started after"),
        (lambda s: [*s[:1], "started a running 2", *s[1:]], "I2: claimed while"),
        (lambda s: [*s[:3], "started c running 1", *s[4:]], "I2: attempt 1 after 1"),
        (lambda s: [*s[:6], "settled c succeeded 1", *s[7:]], "I2: attempt 1 settled, 2 had the claim"),
        (lambda s: [line for line in s if line != "started b running 1"], "I2: succeeded while nobody"),
        (lambda s: ["started b running 1", *s], "I3: started before a had ended"),
        (
            lambda s: [line.replace("settled a succeeded", "settled a failed") for line in s],
            "I3: started though a",
        ),
        (lambda s: [*s[:4], *s[5:7], s[4], *s[7:]], "I3: started before a"),
    ],
)
def test_a_lie(lie: Callable[[Sequence[str]], Sequence[str]], promise: str) -> None:
    assert any(promise in what for what in told(lie(STORY))), told(lie(STORY))


@pytest.mark.parametrize(
    ("one", "other", "clashes"),
    [
        ("src", "src/a.py", True), ("src", "docs", False), ("", "docs", True), ("src/a", "src/ab", False),
    ],
)  # fmt: skip
def test_locks_that_clash(one: str, other: str, clashes: bool) -> None:  # noqa: FBT001
    assert history.clash(one, other) is clashes
    assert history.clash(other, one) is clashes


def test_a_key_that_would_live_for_ever(redis_client: redis.Redis) -> None:
    redis_client.set("af:run:r:plan", "x", ex=60)
    redis_client.set("af:schema", "1")
    assert history.check_keys(redis_client) == []
    redis_client.set("af:run:r:left", "x")
    redis_client.sadd("af:open", "r")
    assert len(history.check_keys(redis_client)) == 3
    redis_client.flushall()


def test_a_landed_branch(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"readme": "r\n"})
    base = git(repo, "rev-parse", "HEAD")
    commits = {}
    git(repo, "switch", "--quiet", "--create", "work")
    for name in ("a", "b"):
        (repo / name).write_text(name)
        commits[name] = commit_all(repo, name)
    git(repo, "branch", "target", "work")
    tree = git(repo, "rev-parse", "work^{tree}")
    needs: dict[str, list[str]] = {"a": [], "b": ["a"]}

    def check(tree: str = tree, needs: dict[str, list[str]] = needs) -> list[str]:
        return history.check_landed(repo, "target", base, commits, needs=needs, tree=tree)

    assert check() == []
    assert "I11" in check(tree=git(repo, "rev-parse", f"{base}^{{tree}}"))[0]
    assert "I3" in check(needs={"a": ["b"], "b": []})[0]
    commits["c"] = base
    assert "I8" in check()[0]
    del commits["c"]
    git(repo, "update-ref", "-m", "again", "refs/heads/target", base)
    git(repo, "update-ref", "-m", "again", "refs/heads/target", commits["b"])
    assert any("I12" in what for what in check())
