"""What is given up and what is done again: caps, quarantine, queue timeouts, retries of one node, healing."""

from __future__ import annotations

import pytest
from helpers.ledgers import RUN, open_run, states, validate_fleet, validate_run

from agentflow.states import NodeState, RunState
from agentflow.store import keys
from agentflow.store.ledger import Claim, Ledger
from agentflow.store.records import INTEGRATE

OK, FAILED = NodeState.SUCCEEDED, NodeState.FAILED
LONG_AGO_MS = 3_600_000


@pytest.fixture
def ledger(redis_client):
    return Ledger(redis_client)


def claim(ledger: Ledger, node: str) -> Claim:
    taken = ledger.claim(RUN, node, worker="w1", ttl_ms=60_000)
    assert taken.granted, taken.reason
    return taken


def end(ledger: Ledger, node: str, state: NodeState = OK) -> None:
    assert ledger.settle(RUN, node, claim(ledger, node).fence, state).head[0] == "settled"


def close(ledger: Ledger, state: RunState) -> None:
    end(ledger, INTEGRATE, OK if state is RunState.READY_TO_LAND else FAILED)
    assert ledger.close(RUN, state)


def lose(ledger: Ledger, node: str) -> str:
    return ledger.expire(RUN, node, claim(ledger, node).fence).head[0]


# -- caps ----------------------------------------------------------------------------------------------


def test_a_node_that_takes_its_worker_down_each_time_is_quarantined(ledger, redis_client):
    open_run(ledger, {"poison": [], "after": ["poison"], "other": []})
    redis_client.hset(keys.run(RUN), "max_losses", 3)
    assert [lose(ledger, "poison") for _ in range(3)] == ["requeued", "requeued", "quarantined"]
    node = ledger.node(RUN, "poison")
    assert (node.state, node.code, node.losses, node.failures) == (FAILED, "AF-POISON-001", 3, 0)
    assert node.reason == "quarantined: its worker died 3 times while it ran; its worker is gone"
    assert f"agentflow retry {RUN} poison" in node.fix
    assert states(ledger)["after"] == "skipped"


def test_losses_while_the_run_goes_on_are_not_in_vain(ledger, redis_client):
    many = [f"n{i}" for i in range(8)]
    open_run(ledger, {node: [] for node in ("slow", *many)})
    redis_client.hset(keys.run(RUN), "max_losses", 3)
    for node in many:
        assert lose(ledger, "slow") == "requeued", "something of the run was settled since the last time"
        end(ledger, node)
    assert ledger.node(RUN, "slow").losses == len(many)
    assert [lose(ledger, "slow") for _ in range(3)] == ["requeued", "requeued", "quarantined"]


def test_whoever_only_ran_beside_the_cause_is_told_apart_from_it(ledger):
    open_run(ledger, {"poison": [], "a": [], "b": []})
    nodes = ("poison", "a", "b")
    for _ in range(2):
        held = {node: claim(ledger, node).fence for node in nodes}
        for node, fence in held.items():
            assert ledger.expire(RUN, node, fence, max_losses=3).head[0] == "requeued"
    fence = claim(ledger, "poison").fence
    for node in ("a", "b"):
        kept = ledger.claim(RUN, node, worker="w1", ttl_ms=60_000)
        assert kept.reason.startswith(
            "isolation: its worker died more than once; it starts after poison of run"
        )
    answer = ledger.expire(RUN, "poison", fence, max_losses=3)
    assert answer.head == ("quarantined", "failed")
    assert set(answer.woken) == {"a", "b"}
    first = claim(ledger, "a").fence
    assert not ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000).granted, "one after the other"
    assert 0 < ledger.client.pttl(keys.SUSPECT) <= 60_000, "but not for hours"
    assert ledger.settle(RUN, "a", first, OK).woken == ("b",)
    end(ledger, "b")


def test_nobody_waits_for_a_suspect_that_has_lived_for_long(ledger):
    open_run(ledger, {"a": [], "b": []})
    for _ in range(2):
        for node, fence in {node: claim(ledger, node).fence for node in ("a", "b")}.items():
            ledger.expire(RUN, node, fence)
    claim(ledger, "a")
    assert not ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000).granted
    ledger.client.delete(keys.SUSPECT)  # as its TTL does
    assert ledger.recheck(RUN).woken == ("b",)
    claim(ledger, "b")


def test_one_death_of_a_worker_sets_nobody_apart(ledger):
    open_run(ledger, {"a": [], "b": []})
    held = {node: claim(ledger, node).fence for node in ("a", "b")}
    for node, fence in held.items():
        ledger.expire(RUN, node, fence)
    for node in held:
        claim(ledger, node)


def test_each_counter_has_a_cap_of_its_own(ledger):
    open_run(ledger, {"a": []})
    for _ in range(4):
        assert lose(ledger, "a") == "requeued"
    for counter in ("conflicts", "troubles", "failures"):
        for _ in range(9):
            answer = ledger.requeue(RUN, "a", claim(ledger, "a").fence, reason="no", counter=counter)
            assert answer.head[0] == "requeued"
    answer = ledger.requeue(RUN, "a", claim(ledger, "a").fence, reason="clash", counter="conflicts")
    assert answer.head == ("quarantined", "failed")
    node = ledger.node(RUN, "a")
    assert (node.code, node.conflicts, node.losses, node.troubles) == ("AF-POISON-003", 10, 4, 9)


def test_what_is_given_back_is_never_too_often(ledger):
    open_run(ledger, {"a": []})
    for _ in range(120):
        ledger.requeue(RUN, "a", claim(ledger, "a").fence, reason="the worker is leaving")
    assert ledger.node(RUN, "a").state is NodeState.READY


def test_a_quarantined_node_stops_a_run_that_stops_at_failures(ledger):
    open_run(ledger, {"a": [], "b": []}, on_failure="stop")
    ledger.expire(RUN, "a", claim(ledger, "a").fence, max_losses=1)
    assert states(ledger) == {"a": "failed", "b": "cancelled", INTEGRATE: "ready"}


# -- queue timeouts ------------------------------------------------------------------------------------


def patient(ledger: Ledger, node: str, *, waited_ms: int = LONG_AGO_MS, patience_ms: int = 60_000) -> None:
    """As if the node had been waiting for so long."""
    ledger.client.hset(keys.run(RUN), "queue_timeouts", 1)
    ledger.client.hset(keys.run(RUN), "opened_ms", 1)
    since = ledger.now_ms() - waited_ms
    ledger.client.hset(keys.node(RUN, node), mapping={"queue_ms": patience_ms, "queued_ms": since})


def test_what_waits_too_long_fails_with_what_held_it_back(ledger):
    open_run(ledger, {"a": [], "b": [], "c": []}, locks={"a": ["src"], "b": ["src"]})
    claim(ledger, "a")
    assert not ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000).granted
    for node in ("a", "b", "c"):
        patient(ledger, node)
    answer = ledger.deadlines(RUN)
    assert answer.ended == ("c", "b")
    assert states(ledger) == {"a": "running", "b": "failed", "c": "failed", INTEGRATE: "pending"}
    told = ledger.node(RUN, "b")
    assert told.code == "AF-QUEUE-001"
    assert told.reason.startswith("queue timeout: it waited 3600.")
    assert told.reason.endswith("its queue_timeout is 60 s; lock: src is held for a")
    assert ledger.node(RUN, "c").reason.endswith("; no worker took it")


def test_a_wake_does_not_begin_the_wait_anew(ledger):
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src"], "b": ["src"]})
    first = claim(ledger, "a")
    ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000)
    patient(ledger, "b")
    assert ledger.settle(RUN, "a", first.fence, OK).woken == ("b",)
    assert ledger.deadlines(RUN).ended[0] == "b"


def test_the_wait_begins_when_a_node_could_start(ledger):
    open_run(ledger, {"a": [], "b": ["a"]})
    first = claim(ledger, "a")
    patient(ledger, "b")
    ledger.settle(RUN, "a", first.fence, OK)
    assert ledger.deadlines(RUN) is None, "it has only just become ready"
    taken = claim(ledger, "b")
    patient(ledger, "b")
    ledger.requeue(RUN, "b", taken.fence, reason="red", counter="failures")
    assert ledger.deadlines(RUN) is None, "an attempt is no wait"


@pytest.mark.parametrize("held", ["run", "role", "fleet"])
def test_a_pause_is_not_held_against_what_waits(ledger, held):
    open_run(ledger, {"a": []}, roles={"a": "coder"})
    if held == "run":
        ledger.control(RUN, "pause", "lunch")
    else:
        ledger.pause("fleet" if held == "fleet" else "role:coder", "lunch")
    patient(ledger, "a")
    assert ledger.deadlines(RUN) is None
    if held == "run":
        ledger.control(RUN, "continue", "back")
    else:
        ledger.unpause("fleet" if held == "fleet" else "role:coder")
    assert ledger.deadlines(RUN) is None, "it has its whole time again"
    ledger.client.hset(keys.run(RUN), "went_on_ms", 1)
    assert ledger.deadlines(RUN).ended[0] == "a"


def test_without_queue_timeouts_nothing_is_looked_at(ledger):
    open_run(ledger, {"a": []})
    ledger.client.hset(keys.node(RUN, "a"), mapping={"queue_ms": 1, "queued_ms": 1})
    assert ledger.deadlines(RUN) is None


# -- one node again ------------------------------------------------------------------------------------


def test_one_node_of_a_closed_run_is_done_again_and_the_rest_stays(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": ["b"], "d": [], "e": ["d"]})
    end(ledger, "a")
    end(ledger, "b", FAILED)
    end(ledger, "d", FAILED)
    assert states(ledger)["e"] == "skipped"
    close(ledger, RunState.FAILED)
    old = ledger.node(RUN, "b").fence
    answer = ledger.retry(RUN, "b")
    assert answer.head == ("again", "open")
    assert answer.ready == ("b",)
    assert states(ledger) == {
        "a": "succeeded", "b": "ready", "c": "pending", "d": "failed", "e": "skipped", INTEGRATE: "pending"
    }  # fmt: skip
    node = ledger.node(RUN, "b")
    assert (node.failures, node.code, node.attempt) == (0, "", 1)
    assert node.fence > old
    assert ledger.generation(RUN) == 2
    validate_run(ledger, RUN)
    end(ledger, "b")
    end(ledger, "c")
    close(ledger, RunState.FAILED)


def test_what_needs_another_failed_node_too_stays_skipped(ledger):
    open_run(ledger, {"a": [], "b": [], "both": ["a", "b"], "one": ["a"]})
    end(ledger, "a", FAILED)
    end(ledger, "b", FAILED)
    close(ledger, RunState.FAILED)
    ledger.retry(RUN, "a")
    assert [states(ledger)[n] for n in ("a", "b", "both", "one")] == ["ready", "failed", "skipped", "pending"]
    ledger.retry(RUN, "b")
    assert states(ledger)["both"] == "pending", "now nothing is in its way"
    for node in ("b", "a", "both", "one"):
        end(ledger, node)
    close(ledger, RunState.READY_TO_LAND)


def test_a_node_of_an_open_run_is_done_again_while_others_run(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": []})
    running = claim(ledger, "c")
    end(ledger, "a", FAILED)
    assert ledger.retry(RUN, "a").ready == ("a",)
    assert states(ledger) == {"a": "ready", "b": "pending", "c": "running", INTEGRATE: "pending"}
    assert ledger.settle(RUN, "c", running.fence, OK).head[0] == "settled"
    end(ledger, "a")
    end(ledger, "b")
    close(ledger, RunState.READY_TO_LAND)


def test_an_integration_that_was_about_to_start_waits_once_more(ledger):
    open_run(ledger, {"a": [], "b": []})
    end(ledger, "a", FAILED)
    end(ledger, "b")
    assert states(ledger)[INTEGRATE] == "ready"
    ledger.retry(RUN, "a")
    assert states(ledger)[INTEGRATE] == "pending"
    validate_run(ledger, RUN)
    validate_fleet(ledger)
    end(ledger, "a")
    assert states(ledger)[INTEGRATE] == "ready"


def test_the_integration_waits_for_what_is_done_again_and_leads_nowhere(ledger):
    open_run(ledger, {"a": [], "b": [], "both": ["a", "b"]})
    end(ledger, "a", FAILED)
    end(ledger, "b", FAILED)
    assert ledger.retry(RUN, "a").ready == ("a",)
    assert states(ledger) == {"a": "ready", "b": "failed", "both": "skipped", INTEGRATE: "pending"}
    validate_run(ledger, RUN)
    end(ledger, "a")
    assert states(ledger)[INTEGRATE] == "ready"


def test_the_integration_alone_is_done_again(ledger):
    open_run(ledger, {"a": []})
    end(ledger, "a")
    close(ledger, RunState.FAILED)
    assert ledger.retry(RUN, INTEGRATE).ready == (INTEGRATE,)
    validate_run(ledger, RUN)
    close(ledger, RunState.READY_TO_LAND)


def test_a_run_that_was_stopped_goes_on_with_what_hung_on_the_node(ledger):
    open_run(ledger, {"a": [], "b": ["a"], "c": []}, on_failure="stop")
    end(ledger, "a", FAILED)
    assert states(ledger) == {"a": "failed", "b": "skipped", "c": "cancelled", INTEGRATE: "ready"}
    ledger.retry(RUN, "a")
    again = ledger.requeue(RUN, "a", claim(ledger, "a").fence, reason="red", counter="failures")
    assert again.head[1] == "ready"
    assert states(ledger)["c"] == "cancelled"


def test_what_has_not_begun_waits_for_an_optional_node_that_is_done_again(ledger):
    open_run(ledger, {"extra": [], "p": [], "both": ["extra", "p"], "alone": ["extra"]}, optional=["extra"])
    end(ledger, "extra", FAILED)
    went_on = claim(ledger, "alone")
    ledger.retry(RUN, "extra")
    validate_run(ledger, RUN)
    end(ledger, "extra")
    assert states(ledger)["both"] == "pending", "its other parent has not ended"
    ledger.settle(RUN, "alone", went_on.fence, OK)
    end(ledger, "p")
    assert states(ledger)["both"] == "ready"


def test_what_went_on_without_an_optional_node_may_start_before_it_is_done_again(ledger):
    open_run(ledger, {"extra": [], "alone": ["extra"]}, optional=["extra"])
    end(ledger, "extra", FAILED)
    ledger.retry(RUN, "extra")
    end(ledger, "alone")
    validate_run(ledger, RUN)


@pytest.mark.parametrize(
    ("node", "why"),
    [("a", "it is succeeded"), ("c", "it is skipped"), ("nope", "it is unknown")],
)
def test_what_cannot_be_done_again_is_told(ledger, node, why):
    open_run(ledger, {"a": [], "b": ["a"], "c": ["b"]})
    end(ledger, "a")
    end(ledger, "b", FAILED)
    assert ledger.retry(RUN, node).head == ("superseded", why)


def test_nothing_is_done_again_while_the_run_is_closed_or_has_landed(ledger):
    open_run(ledger, {"a": []}, optional=["a"])
    end(ledger, "a", FAILED)
    running = claim(ledger, INTEGRATE)
    assert ledger.retry(RUN, "a").head == ("superseded", "@integrate is running")
    ledger.settle(RUN, INTEGRATE, running.fence, OK)
    ledger.close(RUN, RunState.READY_TO_LAND)
    assert ledger.retry(RUN, "a").head == ("superseded", "the run is ready_to_land")
    ledger.close(RUN, RunState.LANDED)
    assert ledger.retry(RUN, "a").head == ("superseded", "the run is landed")


# -- healing -------------------------------------------------------------------------------------------


def test_a_ledger_that_is_whole_has_nothing_to_heal(ledger):
    open_run(ledger, {"a": [], "b": [], "c": ["a"]}, locks={"a": ["src"], "b": ["src/x"]}, max_concurrent=1)
    claim(ledger, "a")
    ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000)
    assert ledger.heal()[0] == ()


def test_what_is_held_for_nodes_that_do_not_run_is_freed(ledger):
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src"], "b": ["src/x"]})
    claim(ledger, "a")
    ledger.client.hset(keys.part(RUN, "locks"), mapping={"w:docs/old": "b", "iw:docs": "1"})
    ledger.client.hincrby(keys.FLIGHT, "fleet", 3)
    ledger.client.hincrby(keys.run(RUN), "in_flight", 3)
    told, _ = ledger.heal()
    assert any("the lock docs/old was held for b, which does not run" in what for what in told)
    assert any("counted as 4 and are 1" in what for what in told)
    validate_run(ledger, RUN)
    validate_fleet(ledger)
    assert not ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000).granted, "a still holds what it holds"


@pytest.mark.parametrize("state", ["ready", "parked", "delayed"])
def test_a_waiting_node_that_nobody_would_find_is_found_again(ledger, state):
    """As half a transaction leaves it, which a Redis 7.0 carries out (`store/restarts.py`)."""
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src"], "b": ["src"]})
    holder = claim(ledger, "a")
    if state == "parked":
        assert not ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000).granted
        ledger.client.zrem(keys.part(RUN, "parked"), "b")
    elif state == "ready":
        ledger.client.zrem(keys.part(RUN, "ready"), "b")
    else:
        ledger.settle(RUN, "a", holder.fence, OK)
        ledger.requeue(RUN, "b", claim(ledger, "b").fence, reason="away", counter="troubles", delay_ms=60_000)
        ledger.client.delete(keys.DELAYED)
    told, _ = ledger.heal()
    assert [what for what in told if f"b was {state} and nobody would have found it" in what]
    validate_run(ledger, RUN)
    validate_fleet(ledger)
    if state == "delayed":
        assert [run for run, _ in ledger.due()] == [RUN]
    elif state == "parked":
        assert ledger.settle(RUN, "a", holder.fence, OK).woken == ("b",)
    assert ledger.heal()[0] == ()


def test_a_running_node_that_nobody_watches_is_watched_again(ledger):
    open_run(ledger, {"a": []})
    running = claim(ledger, "a")
    ledger.client.delete(keys.LEASES)
    assert len(ledger.heal()[0]) == 1
    assert (RUN, "a", running.fence) in ledger.leases()


@pytest.mark.breaks_store("a node is parked by hand")
def test_a_lost_wake_is_made_up_for(ledger):
    open_run(ledger, {"a": [], "b": []}, locks={"a": ["src"], "b": ["src"]})
    first = claim(ledger, "a")
    ledger.claim(RUN, "b", worker="w1", ttl_ms=60_000)
    assert ledger.recheck(RUN) is None
    ledger.settle(RUN, "a", first.fence, OK)
    # As if the settlement had woken nobody: the node is parked again, without anything in its way.
    ledger.client.hset(keys.node(RUN, "b"), mapping={"state": "parked", "woken": 0, "reason": "lock: src"})
    ledger.client.zrem(keys.part(RUN, "ready"), "b")
    ledger.client.zadd(keys.part(RUN, "parked"), {"b": 1})
    ledger.heal()
    assert states(ledger)["b"] == "ready"
