"""Each transition of the ledger, on a real server."""

from __future__ import annotations

import pytest
from helpers.ledgers import RUN, open_run, states, validate_run

from agentflow.spec.artifacts import Lock
from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.events import EventLog
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.records import INTEGRATE

OK = NodeState.SUCCEEDED


@pytest.fixture
def ledger(redis_client):
    found = Ledger(redis_client)
    yield found
    if redis_client.exists(keys.run(RUN)):
        validate_run(found)


def claim(ledger: Ledger, node: str, worker: str = "w1") -> Claim:
    return ledger.claim(RUN, node, worker=worker, ttl_ms=3000)


def done(ledger: Ledger, node: str, state: NodeState = OK, **facts):
    taken = claim(ledger, node)
    assert taken.granted, taken.reason
    return ledger.settle(RUN, node, taken.fence, state, **facts)


def test_a_node_is_claimed_once(ledger):
    open_run(ledger, {"a": []})
    first = claim(ledger, "a")
    assert (first.granted, first.attempt) == (True, 1)
    assert claim(ledger, "a", "w2").verdict == "refused"


def test_a_node_cannot_be_claimed_before_its_parents_settled(ledger):
    open_run(ledger, {"a": [], "b": ["a"]})
    assert claim(ledger, "b").verdict == "refused"
    answer = done(ledger, "a")
    assert answer.ready == ("b",)
    assert answer.ended == ("a",)
    assert claim(ledger, "b").granted


def test_an_old_fence_is_superseded_after_expiry(ledger):
    open_run(ledger, {"a": []})
    old = claim(ledger, "a")
    assert ledger.expire(RUN, "a", old.fence, max_losses=10).head == ("requeued", "ready")
    new = claim(ledger, "a", "w2")
    assert new.fence > old.fence
    assert ledger.settle(RUN, "a", old.fence, OK, commit="old").head[0] == "superseded"
    assert ledger.renew([(RUN, "a", old.fence)], ttl_ms=3000) == {(RUN, "a", old.fence): "lost"}
    assert ledger.settle(RUN, "a", new.fence, OK, commit="new").head[0] == "settled"
    node = ledger.node(RUN, "a")
    assert (node.commit, node.losses, node.failures, node.attempt) == ("new", 1, 0, 2)


def test_a_node_whose_workers_keep_dying_fails(ledger):
    open_run(ledger, {"a": []})
    for _ in range(2):
        ledger.expire(RUN, "a", claim(ledger, "a").fence, max_losses=3)
    ledger.expire(RUN, "a", claim(ledger, "a").fence, max_losses=3)
    assert states(ledger)["a"] == "failed"


def test_locks_start_one_after_the_other_from_the_last_writer(ledger):
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src/auth"], "b": ["src/auth/jwt.py"]})
    first = claim(ledger, "a")
    second = claim(ledger, "b")
    assert second.verdict == "parked"
    assert second.reason == "lock: src/auth/jwt.py is held for a"
    answer = ledger.settle(RUN, "a", first.fence, OK, commit="c1", paths=["src/auth/jwt.py"])
    assert answer.woken == ("b",)
    again = claim(ledger, "b")
    assert again.granted
    assert again.edges == ("a",)


def test_locks_of_unrelated_paths_do_not_wait(ledger):
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src/auth"], "b": ["src/authx", "src/au"]})
    assert claim(ledger, "a").granted
    assert claim(ledger, "b").granted


def test_a_later_waiter_passes_an_earlier_one_only_without_conflict(ledger):
    open_run(
        ledger,
        {"a": [], "wide": [], "late": [], "other": []},
        locks={"a": ["src/x"], "wide": ["src"], "late": ["src/y"], "other": ["docs"]},
    )
    first = claim(ledger, "a")
    assert claim(ledger, "wide").verdict == "parked"
    assert claim(ledger, "late").reason == "lock: src/y is held for wide"
    assert claim(ledger, "other").granted
    answer = ledger.settle(RUN, "a", first.fence, OK)
    assert answer.woken == ("wide",)
    assert claim(ledger, "wide").granted


def test_the_run_limit_parks_and_wakes_in_order(ledger):
    open_run(ledger, {"a": [], "b": [], "c": []}, max_concurrent=1)
    first = claim(ledger, "a")
    assert claim(ledger, "c").reason == "run limit: 1 at a time"
    assert claim(ledger, "b").verdict == "parked"
    assert ledger.settle(RUN, "a", first.fence, OK).woken == ("b",)
    validate_run(ledger)
    assert claim(ledger, "b").granted


def test_the_role_limit_is_counted_across_the_run(ledger):
    open_run(ledger, {"a": [], "b": []}, role_limit=1)
    first = claim(ledger, "a")
    assert claim(ledger, "b").reason == "role limit: 1 worker at a time"
    assert ledger.settle(RUN, "a", first.fence, NodeState.FAILED, reason="x").woken == ("b",)


def test_a_failure_skips_what_needed_it_and_only_that(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": ["b"], "d": []})
    answer = done(ledger, "a", NodeState.FAILED, reason="tests are red")
    assert answer.ended == ("a", "b", "c")
    assert states(ledger) == {
        "a": "failed", "b": "skipped", "c": "skipped", "d": "ready", INTEGRATE: "pending",
    }  # fmt: skip
    assert done(ledger, "d").ready == (INTEGRATE,)


def test_a_skip_waits_for_nobody_but_counts_everybody(ledger):
    open_run(ledger, {"a": [], "b": [], "join": ["a", "b"]})
    assert "join" in done(ledger, "a", NodeState.FAILED).ended
    assert done(ledger, "b").ended == ("b",)
    assert states(ledger)[INTEGRATE] == "ready"


def test_a_skip_reaches_the_end_of_a_diamond_once(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]})
    answer = done(ledger, "a", NodeState.FAILED)
    assert sorted(answer.ended) == ["a", "b", "c", "d"]
    assert answer.ready == (INTEGRATE,)


def test_what_follows_an_optional_node_goes_on_without_it(ledger):
    open_run(ledger, {"a": [], "b": ["a"]}, optional=["a"])
    assert done(ledger, "a", NodeState.FAILED).ready == ("b",)


def test_on_failure_stop_cancels_what_has_not_started(ledger):
    open_run(ledger, {"a": [], "b": [], "c": []}, on_failure="stop")
    running = claim(ledger, "b")
    done(ledger, "a", NodeState.FAILED)
    assert states(ledger) == {"a": "failed", "b": "running", "c": "cancelled", INTEGRATE: "pending"}
    assert ledger.settle(RUN, "b", running.fence, OK).ready == (INTEGRATE,)


def test_in_a_stopped_run_a_red_attempt_is_not_tried_again(ledger):
    open_run(ledger, {"a": [], "b": []}, on_failure="stop")
    running = claim(ledger, "b")
    done(ledger, "a", NodeState.FAILED)
    answer = ledger.requeue(RUN, "b", running.fence, reason="red", counter="failures")
    assert answer.head == ("requeued", "cancelled")
    assert answer.ready == (INTEGRATE,)
    assert ledger.node(RUN, "b").reason == "stopped: another node failed; red"


def test_a_retry_is_delayed_and_comes_back(ledger):
    open_run(ledger, {"a": []})
    taken = claim(ledger, "a")
    answer = ledger.requeue(RUN, "a", taken.fence, reason="red", counter="failures", delay_ms=1)
    assert answer.head == ("requeued", "delayed")
    found: list = []
    while not found:
        found = ledger.due()
    assert found[0][1].ready == ("a",)
    assert ledger.node(RUN, "a").failures == 1
    assert claim(ledger, "a").attempt == 2


def test_drain_parks_and_continue_wakes(ledger):
    open_run(ledger, {"a": [], "b": []})
    running = claim(ledger, "a")
    assert ledger.control(RUN, "drain")[0] == "draining"
    assert claim(ledger, "b").reason == "the run is draining"
    ledger.settle(RUN, "a", running.fence, OK)
    state, answer = ledger.control(RUN, "continue")
    assert (state, answer.woken) == ("open", ("b",))
    validate_run(ledger)


def test_cancel_ends_what_waits_and_tells_what_runs(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": []})
    running = claim(ledger, "a")
    state, answer = ledger.control(RUN, "cancel", "enough")
    assert state == "cancelling"
    assert set(answer.ended) == {"b", "c"}
    key = (RUN, "a", running.fence)
    assert ledger.renew([key], ttl_ms=3000) == {key: "cancelled"}
    assert ledger.settle(RUN, "a", running.fence, NodeState.CANCELLED).ready == (INTEGRATE,)


def test_an_attempt_that_dies_in_a_cancelled_run_is_cancelled(ledger):
    open_run(ledger, {"a": []})
    running = claim(ledger, "a")
    ledger.control(RUN, "cancel")
    assert ledger.expire(RUN, "a", running.fence, max_losses=10).head == ("requeued", "cancelled")
    assert states(ledger) == {"a": "cancelled", INTEGRATE: "ready"}


def test_an_optimistic_settlement_is_refused_when_others_settled_since(ledger):
    open_run(ledger, {"a": [], "b": []})
    a, b = claim(ledger, "a"), claim(ledger, "b")
    seq = ledger.sequence(RUN)
    assert ledger.settle(RUN, "a", a.fence, OK, commit="c1", paths=["x"], seq=seq).head[0] == "settled"
    assert ledger.settle(RUN, "b", b.fence, OK, commit="c2", paths=["x"], seq=seq).head == ("moved", "1")
    assert ledger.settle(RUN, "b", b.fence, OK, commit="c2", paths=["x"], seq="1").head[0] == "settled"


def test_an_optimistic_settlement_waits_for_a_lock_and_then_holds_it(ledger):
    open_run(ledger, {"locked": [], "free": []}, locks={"locked": ["src"]})
    holder, free = claim(ledger, "locked"), claim(ledger, "free")
    seq = ledger.sequence(RUN)
    answer = ledger.settle(RUN, "free", free.fence, OK, commit="c", paths=["src/x.py"], seq=seq)
    assert answer.head == ("locked", "lock: src/x.py is held for locked")
    parked = ledger.requeue(
        RUN, "free", free.fence, reason=answer.head[1], park=True,
        facts={"pending_commit": "c"},
        locks=[Lock("src/x.py")],
    )  # fmt: skip
    assert parked.woken == ()
    assert ledger.settle(RUN, "locked", holder.fence, OK, commit="d").woken == ("free",)
    again = claim(ledger, "free")
    assert again.edges == ("locked",)
    assert ledger.node(RUN, "free").pending_commit == "c"


def test_closing_gives_every_key_of_the_run_an_end(ledger, redis_client):
    open_run(ledger, {"a": []}, locks={"a": ["x"]})
    done(ledger, "a", commit="c", text="hand-off")
    done(ledger, INTEGRATE)
    assert ledger.close(RUN, RunState.READY_TO_LAND, result="c")
    assert not ledger.close(RUN, RunState.FAILED)
    assert ledger.run(RUN).state is RunState.READY_TO_LAND
    left = {k for k in redis_client.scan_iter("af:*") if redis_client.ttl(k) == -1}
    assert left <= keys.PERMANENT
    assert ledger.close(RUN, RunState.LANDED, result="c")


def test_a_failed_run_reopens_what_did_not_succeed(ledger, redis_client):
    open_run(ledger, {"a": [], "b": [], "c": ["a", "b"]})
    done(ledger, "a", commit="c1")
    done(ledger, "b", NodeState.FAILED)
    done(ledger, INTEGRATE, NodeState.FAILED)
    ledger.close(RUN, RunState.FAILED)
    answer = ledger.reopen(RUN)
    assert answer is not None
    assert answer.ready == ("b",)
    assert states(ledger) == {"a": "succeeded", "b": "ready", "c": "pending", INTEGRATE: "pending"}
    assert ledger.generation(RUN) == 2
    assert redis_client.ttl(keys.run(RUN)) == -1
    assert done(ledger, "b").ready == ("c",)
    assert done(ledger, "c").ready == (INTEGRATE,)


def test_every_transition_is_an_event(ledger):
    open_run(ledger, {"a": []}, max_concurrent=1)
    done(ledger, "a")
    kinds = [(e.kind, e.node) for e in EventLog(ledger.client).read(RUN)]
    assert kinds == [
        ("run.opened", ""),
        ("node.started", "a"),
        ("node.settled", "a"),
        ("node.ready", INTEGRATE),
    ]


def test_why_names_what_a_node_waits_for(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": []}, locks={"a": ["x"], "c": ["x"]})
    claim(ledger, "a")
    claim(ledger, "c")
    assert ledger.why(RUN, "b") == "waits for a (running)"
    assert ledger.why(RUN, "c") == "is parked: lock: x is held for a"
    assert ledger.why(RUN, "a") == "is running: attempt 1 on w1"
