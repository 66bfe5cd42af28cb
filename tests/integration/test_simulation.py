"""Thousands of schedules from seeds: what is lost, doubled, late, dead or stalled changes no outcome.

Real Redis and scripts, real decisions of attempts, integration, canvas and reconciler; broker, workers and
clock are simulated (`helpers/simulation`). `--seed N` plays one schedule, `--schedules N` so many.
"""

from __future__ import annotations

import logging
import random

import pytest
from helpers.simulation.broker import Faults
from helpers.simulation.clock import SimulatedRedis
from helpers.simulation.plans import BILL, ESTIMATE, make_plan, oracle
from helpers.simulation.world import World, world

from agentflow.states import RunState
from agentflow.store import keys, validation
from agentflow.store.events import EventLog
from agentflow.store.records import INTEGRATE

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
    plan = it.plans[run_id]
    running: set[str] = set()
    for event in EventLog(it.client).read(run_id, count=100_000):
        if event.kind == "node.started" and event.node != INTEGRATE:
            mine = plan.by_id[event.node].locks
            for other in running:
                if any(a.clashes_with(b) for a in mine for b in plan.by_id[other].locks):
                    raise it.error(f"{event.node} and {other} ran together in {run_id}")
            running.add(event.node)
            if plan.max_concurrent and len(running) > plan.max_concurrent:
                raise it.error(f"{len(running)} nodes ran together in {run_id}")
        elif event.node:
            running.discard(event.node)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_schedule_changes_what_comes_out(client, tmp_path, request, block):
    asked = request.config.getoption("seed")
    count = request.config.getoption("schedules") or SCHEDULES
    seeds = [asked] if asked is not None else range(block * 1_000_000, block * 1_000_000 + count)
    for seed in seeds:
        play(seed, client, tmp_path)


def test_a_seed_tells_the_same_story_again(client, tmp_path):
    for seed in (11, 12, 13):
        assert play(seed, client, tmp_path).trace == play(seed, client, tmp_path).trace
