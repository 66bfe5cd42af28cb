"""The history checker itself: a true story passes, and each kind of lie is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis
from chaos import bills, history
from chaos.bills import Trouble
from chaos.history import Telling
from helpers import promises
from helpers.ledgers import open_run
from helpers.metered import Allowed, Call
from helpers.repos import commit_all, git, make_repo

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.spec.artifacts import Lock
from agentflow.states import RunState
from agentflow.store.budgets import Amount, Purse
from agentflow.store.ledger import Ledger
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
Lie = Callable[[redis.Redis], object]
STORY = (
    "started a running 1", "started c running 1", "requeued c ready 1", "started c running 2",
    "settled a succeeded 1", "started b running 1", "settled c succeeded 2", "settled b succeeded 1",
    "started @integrate running 1", "settled @integrate succeeded 1",
)  # fmt: skip


#: Two that may not run together, and one that may with either.
LOCKED = Plan(
    feature="f",
    nodes=tuple(
        PlanNode(id=node, role="r", runner={"type": "noop"}, locks=(Lock(path),))
        for node, path in (("x", "src"), ("y", "src/y.py"), ("z", "docs"))
    ),
    max_concurrent=2,
)


def told(lines: Sequence[str], plan: Plan = PLAN, losses: Sequence[int] = ()) -> list[str]:
    """A story read. A line is `kind node state attempt`, '-' for no state; a line about a run is its kind."""
    events = []
    for number, line in enumerate(lines):
        kind, node, state, attempt = line.split() if " " in line else (line, "", "-", "0")
        kind = f"node.{kind}" if node else f"run.{kind}"
        events.append(Event(f"{number}-0", "run", kind, number, node, state.strip("-"), int(attempt)))
    return Telling(plan, losses).read(events)


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


TOGETHER = ("started x running 1", "settled x succeeded 1", "started y running 1", "started z running 1")


@pytest.mark.parametrize(
    ("story", "broken"),
    [
        (TOGETHER, ""),
        ((TOGETHER[0], *TOGETHER[2:3]), "I4: ran together with x"),
        (("started y running 1", "started x running 1"), "I4: ran together with y"),
        ((TOGETHER[0], "throttled x - 1", TOGETHER[2]), "I4: ran together with x"),
        ((TOGETHER[0], "lost x ready 1", TOGETHER[2]), ""),
        ((TOGETHER[0], *TOGETHER[3:], "started @integrate running 1"), "I3"),
        ((TOGETHER[3], TOGETHER[0], "started c running 1"), "more than 2 at a time"),
    ],
)
def test_what_runs_together(story: Sequence[str], broken: str) -> None:
    nodes = (*LOCKED.nodes, PlanNode(id="c", role="r", runner={"type": "noop"}))
    found = told(story, LOCKED.model_copy(update={"nodes": nodes}))
    assert any(broken in what for what in found) if broken else not found


FAILED = ("started c running 1", "settled c failed 1")


@pytest.mark.parametrize(
    ("story", "broken"),
    [
        ((*FAILED, "retried", "again c pending 0", "ready c ready 0", "started c running 2"), ""),
        ((*FAILED, "reopened", "started c running 2"), ""),
        ((*FAILED, "retried", "started c running 2"), "I1: started after it had failed"),
        (("started c running 1", "settled c succeeded 1", "again c pending 0"), "I1: done again though"),
        (("started c running 1", "settled c succeeded 1", "reopened", "started c running 2"), "I1: started"),
        (
            (
                "started c running 1", "settled c succeeded 1", "undone c cancelled 1", "reopened",
                "started c running 2",
            ),
            "",
        ),
    ],
)  # fmt: skip
def test_what_is_done_again(story: Sequence[str], broken: str) -> None:
    assert (broken in told(story)[0]) if broken else not told(story)


@pytest.mark.parametrize(
    ("story", "broken"),
    [
        # a and b are running when the server comes back with an older ledger; it is read on from there.
        (("settled a succeeded 1", "started b running 1", "settled b succeeded 1"), ""),
        (("restored a running 1", "settled a succeeded 1", "started b running 1"), ""),
        (("settled a succeeded 1", "settled a succeeded 1"), "I1: succeeded after it had succeeded"),
        (("started c running 3", "started c running 4"), "I2: claimed while"),
        (("started c running 3", "lost c ready 3", "started c running 3"), "I2: attempt 3 after 3"),
        (("started c running 1", "lost c ready 1", "settled c succeeded 1"), "I2: succeeded while nobody"),
        (("started a running 2", "started b running 2"), "I3: started before a had ended"),
        (("settled a failed 1", "started b running 2"), "I3: started though a had failed"),
    ],
)
def test_what_is_told_after_a_loss(story: Sequence[str], broken: str) -> None:
    before = ["started a running 1", "settled a succeeded 1", "started b running 1"]
    found = told([*before, *story], losses=[len(before)])
    assert (broken in found[0]) if broken else not found
    assert told([*before, *story])


@pytest.mark.parametrize(
    ("one", "other", "clashes"),
    [
        ("src", "src/a.py", True), ("src", "docs", False), ("", "docs", True), ("src/a", "src/ab", False),
    ],
)  # fmt: skip
def test_locks_that_clash(one: str, other: str, clashes: bool) -> None:  # noqa: FBT001
    assert history.clash(one, other) is clashes
    assert history.clash(other, one) is clashes


ENDED = "af:run:run-1"
PARTS = ("locks", "lockwait", "open", "ready", "parked", "waiting", "waits")


def _node(field: str, value: str) -> Lie:
    return lambda client: client.hset(f"{ENDED}:node:c", field, value)


def _holds(part: str) -> Lie:
    return lambda client: client.hset(f"{ENDED}:{part}", "x", "1")


def _budget(**fields: int) -> Lie:
    table = {name.replace("_", ":"): value for name, value in fields.items()}
    return lambda client: client.hset(f"{ENDED}:budget", mapping=table)


@pytest.mark.breaks_store("each lie is put into a ledger that is whole")
@pytest.mark.parametrize(
    ("lie", "broken"),
    [
        (lambda _: None, ""),
        (_node("state", "running"), "c: I1: running at the end"),
        (_node("state", "failed"), "c: failed ("),
        (_node("failures", "9"), "c: I9: failed 9 times"),
        (_node("losses", "11"), "c: I9: 11 losses"),
        (_node("conflicts", "6"), "c: I9: 0 losses, 6 conflicts"),
        *((_holds(part), f"I7: `{part}` of a run") for part in PARTS),
        (lambda client: client.hset(f"{ENDED}:roles", "r", "1"), "I7: 1 of role r are still counted"),
        (lambda client: client.zadd("af:leases", {"run-1|c|1": 1}), "still leased"),
        (_budget(limit_run_usd=10, spent_run_usd=11), "I5: run has spent"),
        (_budget(limit_run_tokens=10, spent_run_tokens=11), "tokens=11) of"),
        (_budget(held_run_tokens=1), "I5: run still has"),
        (_node("usage", '{"cost_usd": 0.5}'), "I5: the nodes have cost 0.5"),
    ],
)  # fmt: skip
def test_what_an_ended_run_may_not_hold(redis_client: redis.Redis, lie: Lie, broken: str) -> None:
    ledger = Ledger(redis_client)
    open_run(ledger, {node.id: list(node.needs) for node in PLAN.nodes})
    for node in ("a", "b", "c", "@integrate"):
        promises.end(ledger, node)
    ledger.close("run-1", RunState.READY_TO_LAND)
    lie(redis_client)
    found = history.check_run(ledger, "run-1", PLAN, dict.fromkeys("abc", "succeeded"))
    assert any(broken in what for what in found) if broken else not found
    redis_client.flushall()


def test_messages_that_go_round(redis_client: redis.Redis) -> None:
    redis_client.lpush("implementer", "m")
    redis_client.lpush("implementer\x06\x163", "m", "m")
    assert history.check_queues(redis_client, ["backend"]) == []
    found = history.check_queues(redis_client, ["backend", "implementer"])
    assert [what.split()[0] for what in found] == ["1", "2"]
    redis_client.flushall()


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
    assert "I8: the commit of c is 0 times" in check()[0]
    del commits["c"]
    # The same change once more, on another branch that is merged too.
    git(repo, "switch", "--quiet", "--create", "twin", base)
    (repo / "a").write_text("a")
    commit_all(repo, "a once more")
    git(repo, "switch", "--quiet", "target")
    git(repo, "merge", "--quiet", "--no-edit", "twin")
    assert git(repo, "rev-parse", "target^{tree}") == tree
    assert any("I8: 1 changes were merged twice" in what for what in check())
    git(repo, "switch", "--quiet", "work")
    git(repo, "update-ref", "-m", "again", "refs/heads/target", base)
    git(repo, "update-ref", "-m", "again", "refs/heads/target", commits["b"])
    assert any("I12" in what for what in check())


def test_a_word_about_a_waiting_node_ends_no_claim() -> None:
    waits = Event("0-1", "run", "node.throttled", 1, "a", "", 1)
    story = [Event("0-0", "run", "node.started", 0, "a", "running", 1), waits]
    assert Telling(PLAN).read([*story, Event("0-2", "run", "node.settled", 2, "a", "succeeded", 1)]) == []


@pytest.mark.parametrize(
    ("spent", "held", "is_wrong"),
    [
        (Amount(0.6, 50), Amount(0.4, 50), False), (Amount(0.7, 0), Amount(0.4, 0), True),
        (Amount(1.1, 0), Amount(), True), (Amount(0, 60), Amount(0, 50), True),
    ],
)  # fmt: skip
def test_a_ceiling_that_is_passed_for_a_moment(spent: Amount, held: Amount, is_wrong: bool) -> None:  # noqa: FBT001
    ceilings = bills.Ceilings()
    ceilings.look([Purse("run", 1.0, 100, spent, held)])
    ceilings.look([Purse("run", 1.0, 100)])
    assert list(ceilings.wrong) == (["run"] if is_wrong else [])


@pytest.mark.parametrize(
    ("spent", "estimated", "gone", "wrong"),
    [
        (3.0, 0.0, {}, ""), (3.5, 0.5, {}, ""),
        (4.0, 0.0, {}, "charged twice"), (2.0, 0.0, {}, "not charged"),
        # A call that nobody answered counts with its estimate; that pays for nothing that was answered.
        (3.5, 0.2, {}, "charged twice"), (2.0, 0.0, {"lossy": True}, ""),
        (4.0, 0.0, {"lossy": True}, "charged twice"), (4.0, 0.0, {"lossy": True, "rebuilt": True}, ""),
    ],
)  # fmt: skip
def test_bills(spent: float, estimated: float, gone: dict[str, bool], wrong: str) -> None:
    found = list(
        bills.check_bills(spent, estimated, 3.0, lossy=gone.get("lossy", False), rebuilt="rebuilt" in gone)
    )
    assert (wrong in found[0]) if wrong else not found


def came(*times: float, who: str = "m0", lasts: float = 0.1, tokens: int = 10) -> list[Call]:
    return [Call(who, "n", at, tokens, 0, at + lasts, 200) for at in times]


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        (came(0.0, 1.0, 2.0, 4.1, 5.1, 6.1), ""),
        (came(0.0, 1.0, 2.0, 2.9), "4 calls in"),
        (came(0.0, 0.1, 0.2, lasts=1.0), "3 calls were under way"),
        ([*came(0.0, 0.1, lasts=1.0), Call("m0", "n", 0.2, 10, 0, 0.2, 429)], "3 calls were under way"),
        (came(0.0, 1.0, tokens=600), "more than 1000 tokens"),
        # A machine that stood still may bring late what was let in long ago; the others may not.
        (came(0.0, 1.0, 2.0) + came(2.9, who="m1"), ""),
        (came(20.0, 21.0, 22.0) + came(22.9, who="m1"), "4 calls in"),
    ],
)
def test_what_a_provider_has_seen(calls: list[Call], wrong: str) -> None:
    allowed = Allowed(calls=3, tokens=1000, at_once=2, window_s=4.0)
    found = list(bills.check_windows(calls, allowed, [Trouble("m1", 1.0, 3.0)]))
    assert (wrong in found[0]) if wrong else not found


def test_a_429_that_became_a_failure() -> None:
    def says(kind: str, reason: str, words: str = "") -> list[str]:
        return list(bills.check_pauses([Event("0-0", "run", kind, 0, "a", "", 1, reason)], {"a": words}))

    refused = "the model's endpoint limits our requests (HTTP 429)"
    assert says("node.throttled", refused) == says("node.retry", "red tests") == []
    assert "I6: a 429 became a failure" in says("node.retry", refused)[0]
    assert "I6: a 429 became a failed attempt" in says("node.settled", "", refused)[0]
