"""What the ledger alone carries: lifecycles a second, round trips a node, settling with many descendants.

A lifecycle is ready -> claim -> settle -> children ready, as a worker asks for it, without worker, runner
and messages: one client on one core, the server on another. Round trips are counted where they count, in
a real worker (`bench/counting.py`); those of the joins' arrivals count as agentflow's. Net is the time that
the server was busy with our scripts (`INFO commandstats`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from agentflow.canvas.opening import open_in_ledger
from agentflow.states import NodeState
from agentflow.store.ledger import Ledger
from agentflow.store.scripts import Answer
from bench import shapes
from bench.figures import Figure, median, spread
from bench.stage import Stage, stage

NODES, WIDE, ROUNDS = 1000, 1000, 5
LEAST_A_SECOND = 1000.0
MOST_ROUND_TRIPS = 8.0
TTL_MS = 60_000
PROJECT = "bench"
COUNTING = ("-m", "bench.counting")


def measure() -> Iterator[Figure]:
    """Throughput, settlements, then a run that is watched."""
    with stage() as found:
        _rate(found, "warm-up")
        before = _busy_ms(found)
        rates = [_rate(found, f"rate-{number}") for number in range(ROUNDS)]
        net = (_busy_ms(found) - before) / (ROUNDS * NODES)
        yield Figure(
            "node lifecycles a second, ledger only", median(rates), "/s", note=spread(rates),
            samples=rates, least=LEAST_A_SECOND,
        )  # fmt: skip
        yield Figure("  net: a lifecycle, of it in the server", net, "ms", note="a claim and a settlement")
        for state, what in ((NodeState.SUCCEEDED, "ready"), (NodeState.FAILED, "skipped")):
            pairs = [_settle_wide(found, f"{what}-{number}", state) for number in range(ROUNDS)]
            times, server = [list(each) for each in zip(*pairs, strict=True)]
            name = f"settling a node, {WIDE:,} descendants {what}"
            note = f"{median(server):.1f} of it in the server; {spread(times)}"
            yield Figure(name, median(times), "ms", note=note, samples=times)
    with stage() as found:
        each = _round_trips(found)
        ours = each["ledger"] + each["arrivals"]
        note = f"ledger {each['ledger']:.1f}, arrivals {each['arrivals']:.1f}; Celery's {each['celery']:.1f}"
        yield Figure("round trips of agentflow's, a node", ours, "", MOST_ROUND_TRIPS, note)


def _rate(found: Stage, run_id: str) -> float:
    """Lifecycles a second of one client: a thousand nodes in ten layers, three parents each."""
    plan = found.plan(shapes.layers(10, 100, parents=3), slots=NODES)
    open_in_ledger(found.ledger, run_id, plan, project=PROJECT, repo="", root="")
    nodes = [n.id for n in plan.nodes if not n.needs]
    began = time.perf_counter()
    while nodes:
        nodes.extend(_end(found.ledger, run_id, nodes.pop()).ready)
    return NODES / (time.perf_counter() - began)


def _end(ledger: Ledger, run_id: str, node: str, state: NodeState = NodeState.SUCCEEDED) -> Answer:
    claim = ledger.claim(run_id, node, worker="bench", ttl_ms=TTL_MS)
    if not claim.granted:
        raise RuntimeError(f"{node}: {claim.reason}")
    return ledger.settle(run_id, node, claim.fence, state, facts={"summary": "done"})


def _busy_ms(found: Stage) -> float:
    """What scripts have cost the server so far."""
    told = found.ledger.client.info("commandstats")
    return sum(float(told.get(f"cmdstat_{name}", {}).get("usec", 0)) for name in ("eval", "evalsha")) / 1000


def _settle_wide(found: Stage, run_id: str, state: NodeState) -> tuple[float, float]:
    """Milliseconds of the one settlement that a thousand nodes wait for: gross, and in the server."""
    parents: shapes.Parents = {"first": [], **{f"n{i}": ["first"] for i in range(WIDE)}}
    open_in_ledger(found.ledger, run_id, found.plan(parents, slots=4), project=PROJECT, repo="", root="")
    claim = found.ledger.claim(run_id, "first", worker="bench", ttl_ms=TTL_MS)
    before, began = _busy_ms(found), time.perf_counter()
    answer = found.ledger.settle(run_id, "first", claim.fence, state)
    took = (time.perf_counter() - began) * 1000
    net = _busy_ms(found) - before
    moved = answer.ready if state is NodeState.SUCCEEDED else answer.ended
    if len(moved) < WIDE:
        raise RuntimeError(f"{len(moved)} of {WIDE} were told")
    return took, net


def _round_trips(found: Stage) -> dict[str, float]:
    """A worker's requests to Redis by kind, a node of a run of a thousand; its beats are among them."""
    place = found.directory / "counts.json"
    found.env["BENCH_COUNTS"] = str(place)
    found.start("nodes", slots=8, program=COUNTING)
    plan = found.plan(shapes.layers(10, 100, parents=3), slots=8)
    found.run(plan, "warm-up")
    before = _counts(place)
    found.run(plan, "counted")
    return {kind: (count - before.get(kind, 0)) / NODES for kind, count in _counts(place).items()}


def _counts(place: Path) -> dict[str, int]:
    """What the worker has counted; it writes ten times a second."""
    time.sleep(0.3)
    found: dict[str, int] = json.loads(place.read_text())
    return found
