"""Thousands of schedules from seeds: what is lost, doubled, late, dead or stalled changes no outcome.

Real Redis and scripts, real decisions of attempts, integration, canvas and reconciler; broker, workers and
clock are simulated (`helpers/simulation`). `--seed N` plays one schedule, `--schedules N` so many in each
block, both of them (`make simulate`) so many from that one on.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable

import pytest
from helpers.simulation.broker import Faults
from helpers.simulation.clock import SimulatedRedis
from helpers.simulation.plans import BILL, ESTIMATE, make_plan, oracle
from helpers.simulation.world import World, world

from agentflow.canvas.plan import Plan, PlanNode
from agentflow.spec.artifacts import Lock
from agentflow.states import RunState
from agentflow.store import keys, validation
from agentflow.store.events import EventLog
from agentflow.store.records import INTEGRATE, Event

#: Schedules of one test when nobody asks for more; about eight seconds.
SCHEDULES = 60
BLOCKS = 3


@pytest.fixture
def client(redis_server, redis_client):
    assert redis_client.ping()
    with SimulatedRedis.from_url(redis_server.client_url, decode_responses=True, protocol=3) as found:
        yield found


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def play(seed, client, home) -> World:
    """One schedule, and what must be true at its end."""
    rng = random.Random(seed)
    hard = rng.choice((0.0, 0.5, 1.0))
    faults = Faults(
        lost=0.1 * hard, doubled=0.3 * hard, late=0.2 * hard, crash=0.015 * hard, stall=0.02 * hard
    )
    with world(seed, client, home, faults) as it:
        for number in range(rng.choice((1, 1, 2))):
            it.submit(f"run-{number}", make_plan(rng, f"run-{number}"))
            if rng.random() < 0.25:
                it.operate(f"run-{number}")
        for _ in range(3):
            it.hire()
        it.play()
        if it.healed:
            raise it.error(f"the ledger was not whole: {it.healed}")
        for run_id in it.plans:
            check_run(it, run_id)
        wrong = validation.validate_fleet(it.ledger)
        if wrong or client.exists(keys.OPEN, keys.LEASES, keys.DELAYED, keys.FLIGHT):
            raise it.error("something is left: " + " ".join(map(str, wrong)))
    return it


def check_run(it: World, run_id: str) -> None:
    """Each node ended as it must, once, and no lock or limit was broken on the way."""
    plan = it.plans[run_id]
    run, nodes = it.ledger.run(run_id), it.ledger.nodes(run_id)
    violations = validation.validate_run(it.ledger, run_id)
    if violations:
        raise it.error("\n".join(map(str, violations)))
    if run_id in it.cancelled:
        # What ended before the cancel did so as it must; the rest is cancelled, or never needed again.
        expected = {
            n: s if nodes[n].state not in ("cancelled", "skipped") else nodes[n].state
            for n, s in oracle(plan).items()
        }
    else:
        expected = oracle(plan)
    found = {node.id: node.state for node in nodes.values() if node.id != INTEGRATE}
    if found != expected:
        wrong = [f"{n}: {nodes[n].state} ({nodes[n].reason})" for n in expected if found[n] != expected[n]]
        raise it.error(f"{run_id} must end as {dict(expected)}, but {', '.join(wrong)}")
    optional = {node.id for node in plan.nodes if node.optional}
    good = all(state == "succeeded" or node in optional for node, state in expected.items())
    if run_id in it.cancelled:
        end = RunState.CANCELLED
    else:
        end = RunState.READY_TO_LAND if good else RunState.FAILED
    if run.state is not end:
        raise it.error(f"{run_id} is {run.state}: {run.reason}")
    check_history(it, run_id)
    check_bills(it, run_id)


def check_bills(it: World, run_id: str) -> None:
    """Each answer of the model is paid once, or counts with its estimate when its worker died before."""
    purse, unbilled = it.ledger.purses(run_id)["run"], it.ledger.unbilled(run_id)
    billed, rest = divmod(purse.spent.tokens - unbilled * ESTIMATE, BILL)
    answered = it.answered[run_id]
    if rest or purse.held.tokens or not answered - unbilled <= billed <= answered:
        raise it.error(f"{run_id} has spent {purse}; {answered} answers, {unbilled} without a bill")


def check_history(it: World, run_id: str) -> None:
    """Nothing ran together that may not."""
    wrong = run_together(it.plans[run_id], EventLog(it.client).read(run_id, count=100_000))
    if wrong:
        raise it.error(f"{run_id}: {wrong}")


def run_together(plan: Plan, events: Iterable[Event]) -> str:
    """What ran together that may not; '' for nothing. A node runs until an event says that it is in another
    state: one without a state is about an attempt that goes on.
    """
    running: set[str] = set()
    for event in events:
        if event.node in ("", INTEGRATE):
            continue
        if event.kind == "node.started":
            mine = plan.by_id[event.node].locks
            for other in running - {event.node}:
                if any(a.clashes_with(b) for a in mine for b in plan.by_id[other].locks):
                    return f"{event.node} and {other} ran together"
            running.add(event.node)
            if plan.max_concurrent and len(running) > plan.max_concurrent:
                return f"{len(running)} nodes ran together"
        elif event.state not in ("", "running"):
            running.discard(event.node)
    return ""


def seeds_of(block: int, first: int | None, count: int) -> range:
    """What a block plays: its own seeds, or its share of those that were asked for."""
    if first is None:
        return range(block * 1_000_000, block * 1_000_000 + (count or SCHEDULES))
    return range(first, first + (count or 1))[block::BLOCKS]


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_schedule_changes_what_comes_out(client, tmp_path, request, block):
    option = request.config.getoption
    for seed in seeds_of(block, option("seed"), option("schedules")):
        play(seed, client, tmp_path)


def test_a_seed_tells_the_same_story_again(client, tmp_path):
    for seed in (11, 12, 13):
        assert play(seed, client, tmp_path).trace == play(seed, client, tmp_path).trace


def a_story(*lines: str) -> list[Event]:
    """Events from `kind node state`; '-' is no state."""
    words = [line.split() for line in lines]
    return [Event(f"{n}-0", "run", f"node.{k}", n, i, s.strip("-")) for n, (k, i, s) in enumerate(words)]


@pytest.mark.parametrize("between", ["throttled a -", "extended a -", "reused a -"])
def test_a_word_about_an_attempt_does_not_end_it(between):
    nodes = [
        PlanNode(id=name, role="r", runner={"type": "noop"}, locks=(Lock(path),))
        for name, path in (("a", "src/x"), ("b", "src/x"), ("c", "docs"))
    ]
    plan = Plan(feature="f", nodes=tuple(nodes), max_concurrent=1)
    free = plan.model_copy(update={"max_concurrent": 0})
    start, end = "started a running", "settled a succeeded"
    assert run_together(plan, a_story(start, between, end, "started b running")) == ""
    assert run_together(free, a_story(start, between, "started b running", end)) == "b and a ran together"
    assert run_together(plan, a_story(start, between, "started c running", end)) == "2 nodes ran together"
