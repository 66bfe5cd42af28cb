"""What the ledger promises, each as the shortest story that would show it broken.

`tests/integration/test_promises.py` tells each on the scripts as they are, and again on scripts that were
broken on purpose: then it must fail. docs/reliability.md names them.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from helpers.ledgers import RUN, open_run, states, validate_fleet, validate_run

from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.budgets import Amount, Change, nano
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.owners import ownerless
from agentflow.store.records import INTEGRATE

Story = Callable[[Ledger], None]
PROMISES: dict[str, Story] = {}
OK, BAD = NodeState.SUCCEEDED, NodeState.FAILED


def promise(story: Story) -> Story:
    """Register a story under its own name."""
    PROMISES[story.__name__] = story
    return story


def claim(ledger: Ledger, node: str, run: str = RUN, *, worker: str = "w1") -> Claim:
    return ledger.claim(run, node, worker=worker, ttl_ms=60_000)


def granted(ledger: Ledger, node: str, run: str = RUN) -> int:
    """Claim a node that must be had; its fence."""
    taken = claim(ledger, node, run)
    assert taken.granted, f"{node}: {taken.verdict} {taken.reason}"
    whole(ledger, run)
    return taken.fence


def end(ledger: Ledger, node: str, state: NodeState = OK, *, run: str = RUN, commit: str = "") -> None:
    """Claim a node and settle it."""
    fence = granted(ledger, node, run)
    assert ledger.settle(run, node, fence, state, commit=commit).head[0] == "settled"
    whole(ledger, run)


def whole(ledger: Ledger, run: str = RUN) -> None:
    validate_run(ledger, run)
    validate_fleet(ledger)


@promise
def an_old_fence_settles_nothing(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    old = granted(ledger, "a")
    ledger.expire(RUN, "a", old, max_losses=10)
    new = granted(ledger, "a")
    assert ledger.settle(RUN, "a", old, BAD).head[0] == "superseded"
    assert ledger.node(RUN, "a").state is NodeState.RUNNING
    assert ledger.settle(RUN, "a", new, OK).head[0] == "settled"
    whole(ledger)


@promise
def an_old_fence_gives_nothing_back(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    old = granted(ledger, "a")
    ledger.expire(RUN, "a", old, max_losses=10)
    granted(ledger, "a")
    assert ledger.requeue(RUN, "a", old, reason="late").head[0] == "superseded"
    assert ledger.node(RUN, "a").state is NodeState.RUNNING


@promise
def an_old_fence_renews_nothing(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    old = granted(ledger, "a")
    ledger.expire(RUN, "a", old, max_losses=10)
    granted(ledger, "a")
    assert ledger.renew([(RUN, "a", old)], ttl_ms=60_000) == {(RUN, "a", old): "lost"}
    whole(ledger)


@promise
def a_node_ends_once(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": ["a"]})
    fence = granted(ledger, "a")
    ledger.settle(RUN, "a", fence, OK)
    assert ledger.settle(RUN, "a", fence, BAD).head[0] == "superseded"
    assert states(ledger)["a"] == OK
    whole(ledger)


@promise
def a_node_is_claimed_once(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    granted(ledger, "a")
    assert claim(ledger, "a", worker="w2").verdict == "refused"
    whole(ledger)


@promise
def nothing_starts_before_its_parents(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": ["a", "b"]})
    assert claim(ledger, "c").verdict == "refused"
    end(ledger, "a")
    assert claim(ledger, "c").verdict == "refused"
    end(ledger, "b")
    granted(ledger, "c")


@promise
def what_needed_a_failure_is_skipped(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": ["a"], "c": ["b"]})
    end(ledger, "a", BAD)
    assert states(ledger) == {"a": "failed", "b": "skipped", "c": "skipped", INTEGRATE: "ready"}


@promise
def a_lock_is_held_until_its_node_ends(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": []}, locks={"a": ["src/x"], "b": ["src"], "c": ["docs"]})
    fence = granted(ledger, "a")
    assert claim(ledger, "b").verdict == "parked"
    granted(ledger, "c")
    whole(ledger)
    answer = ledger.settle(RUN, "a", fence, OK, commit="c1")
    assert answer.woken == ("b",)
    taken = claim(ledger, "b")
    assert taken.granted
    assert taken.edges == ("a",)
    whole(ledger)


@promise
def a_lost_attempt_gives_its_locks_back(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src"], "b": ["src"]})
    fence = granted(ledger, "a")
    assert claim(ledger, "b").verdict == "parked"
    assert ledger.requeue(RUN, "a", fence, reason="lost", delay_ms=60_000).woken == ("b",)
    granted(ledger, "b")


@promise
def who_waits_longest_for_a_lock_has_it_first(ledger: Ledger) -> None:
    locks = {"a": ["src"], "b": ["src"], "c": ["src"]}
    open_run(ledger, {"a": [], "b": [], "c": []}, locks=locks, priorities={"c": 0, "b": 3})
    fence = granted(ledger, "a")
    assert claim(ledger, "b").verdict == "parked"
    assert claim(ledger, "c").verdict == "parked"
    assert ledger.settle(RUN, "a", fence, OK).woken == ("b",)
    assert claim(ledger, "c").verdict != "granted"


@promise
def work_on_top_of_what_moved_is_merged_again(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []})
    one, two = granted(ledger, "a"), granted(ledger, "b")
    seen = ledger.sequence(RUN)
    ledger.settle(RUN, "a", one, OK, commit="c1", paths=["x"], seq=seen)
    assert ledger.settle(RUN, "b", two, OK, commit="c2", paths=["x"], seq=seen).head[0] == "moved"
    whole(ledger)


@promise
def work_on_a_locked_path_waits(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src"]})
    granted(ledger, "a")
    two = granted(ledger, "b")
    seen = ledger.sequence(RUN)
    assert ledger.settle(RUN, "b", two, OK, commit="c", paths=["src/x"], seq=seen).head[0] == "locked"
    whole(ledger)


@promise
def a_run_keeps_to_its_limit(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []}, max_concurrent=1)
    fence = granted(ledger, "a")
    assert claim(ledger, "b").verdict == "parked"
    assert ledger.settle(RUN, "a", fence, OK).woken == ("b",)
    whole(ledger)


@promise
def the_fleet_keeps_to_its_limit(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    open_run(ledger, {"a": []}, run_id="two")
    ledger.set_limit("fleet", 1)
    fence = granted(ledger, "a")
    assert claim(ledger, "a", "two").verdict == "parked"
    assert ledger.settle(RUN, "a", fence, OK).others == (("two", "a"),)
    whole(ledger, "two")


@promise
def a_woken_node_keeps_its_room(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": []}, max_concurrent=1)
    fence = granted(ledger, "a")
    assert claim(ledger, "b").verdict == "parked"
    ledger.settle(RUN, "a", fence, OK)
    assert claim(ledger, "c").verdict == "parked"
    granted(ledger, "b")


@promise
def exclusive_runs_never_overlap(ledger: Ledger) -> None:
    open_run(ledger, {"a": []}, exclusive=["src"])
    open_run(ledger, {"a": []}, run_id="two", exclusive=["src/x"])
    end(ledger, "a")
    assert claim(ledger, "a", "two").verdict == "parked"
    end(ledger, INTEGRATE)
    ledger.close(RUN, RunState.READY_TO_LAND)
    assert ledger.run("two").running == 0
    ledger.close(RUN, RunState.LANDED)
    whole(ledger, "two")
    granted(ledger, "a", "two")


@promise
def a_cancelled_run_starts_nothing(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": [], "c": ["a"]})
    fence = granted(ledger, "a")
    ledger.control(RUN, "cancel", "enough")
    assert claim(ledger, "b").verdict == "refused"
    assert ledger.renew([(RUN, "a", fence)], ttl_ms=60_000) == {(RUN, "a", fence): "cancelled"}
    ledger.settle(RUN, "a", fence, NodeState.CANCELLED)
    assert states(ledger) == {"a": "cancelled", "b": "cancelled", "c": "cancelled", INTEGRATE: "ready"}
    whole(ledger)


@promise
def a_drained_run_starts_nothing(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    ledger.control(RUN, "drain", "later")
    assert claim(ledger, "a").verdict == "parked"
    _, answer = ledger.control(RUN, "continue")
    assert answer.woken == ("a",)
    whole(ledger)


@promise
def a_node_whose_workers_keep_dying_is_given_up(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    for _ in range(3):
        ledger.expire(RUN, "a", granted(ledger, "a"), max_losses=3)
    assert states(ledger)["a"] == "failed"
    whole(ledger)


@promise
def a_run_is_closed_once(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    end(ledger, "a", BAD)
    end(ledger, INTEGRATE)
    assert ledger.close(RUN, RunState.FAILED)
    assert ledger.close(RUN, RunState.READY_TO_LAND) is None
    assert ledger.run(RUN).state is RunState.FAILED


@promise
def a_closed_run_leaves_nothing_for_ever(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": ["a"]}, locks={"a": ["src"]})
    end(ledger, "a", commit="c1")
    end(ledger, "b")
    end(ledger, INTEGRATE)
    ledger.close(RUN, RunState.READY_TO_LAND)
    assert ownerless(ledger.client) == []


@promise
def the_integration_waits_for_everybody(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": ["a"], "c": []})
    granted(ledger, "c")
    end(ledger, "a", BAD)
    assert claim(ledger, INTEGRATE).verdict == "refused"


@promise
def what_is_ready_is_known_to_the_reconciler(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": ["a"]})
    fence = granted(ledger, "a")
    ledger.settle(RUN, "a", fence, OK)
    assert set(ledger.ready(RUN)) == {"b"}
    assert json.loads(ledger.client.lindex(keys.SYSTEM_EVENTS, 0) or "{}").get("node") == "b"


def spent(ledger: Ledger) -> tuple[float, float]:
    """Dollars of the run: spent, reserved."""
    purse = ledger.purses(RUN)["run"]
    return purse.spent.usd, purse.held.usd


@promise
def a_call_is_charged_once(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    ledger.grant(RUN, "p", [Change("run:usd", "set", nano(1.0))])
    fence = granted(ledger, "a")
    ledger.reserve(RUN, "a", fence, "1", Amount(0.5))
    assert spent(ledger) == (0, 0.5)
    for _ in range(2):
        ledger.charge(RUN, "a", fence, "1", Amount(0.25))
    assert spent(ledger) == (0.25, 0)
    whole(ledger)


@promise
def nobody_reserves_more_than_is_left(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []})
    ledger.grant(RUN, "p", [Change("run:usd", "set", nano(1.0))])
    one, two = granted(ledger, "a"), granted(ledger, "b")
    assert ledger.reserve(RUN, "a", one, "1", Amount(0.6)).verdict == "reserved"
    assert ledger.reserve(RUN, "b", two, "1", Amount(0.6)).verdict == "refused"
    whole(ledger)


@promise
def an_old_fence_reserves_nothing(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    ledger.grant(RUN, "p", [Change("run:usd", "set", nano(1.0))])
    old = granted(ledger, "a")
    ledger.expire(RUN, "a", old, max_losses=10)
    granted(ledger, "a")
    assert ledger.reserve(RUN, "a", old, "1", Amount(0.5)).verdict == "superseded"


@promise
def a_lost_attempt_gives_its_reservation_back(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    ledger.grant(RUN, "p", [Change("run:usd", "set", nano(1.0))])
    fence = granted(ledger, "a")
    ledger.reserve(RUN, "a", fence, "1", Amount(0.5), counts=False)
    ledger.expire(RUN, "a", fence, max_losses=10)
    assert spent(ledger) == (0, 0)
    whole(ledger)


@promise
def a_running_attempt_is_given_no_lock_that_another_holds(ledger: Ledger) -> None:
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src/x"]})
    granted(ledger, "a")
    fence = granted(ledger, "b")
    assert ledger.extend(RUN, "b", fence, ["src/**"]).verdict == "queued"
    assert ledger.extend(RUN, "b", fence, ["docs/**"]).granted
    whole(ledger)


@promise
def only_the_integration_that_settled_closes_its_run(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    end(ledger, "a")
    old = granted(ledger, INTEGRATE)
    ledger.expire(RUN, INTEGRATE, old, max_losses=10)
    new = granted(ledger, INTEGRATE)
    ledger.settle(RUN, INTEGRATE, new, OK)
    assert ledger.close(RUN, RunState.FAILED, fence=old) is None
    assert ledger.close(RUN, RunState.READY_TO_LAND, fence=new)
