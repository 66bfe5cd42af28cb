"""Fifty agents at once against a model that lies about what it spends, on one budget.

Each agent is the product's own tool loop with the product's own account at a real ledger; the scripted model
server answers for ever and reports its usage truly, not at all, as nothing, as less than nothing, or as one
token. What was really consumed is counted from the requests, as an honest server would have reported it. A
second thread reads what is spent and reserved all the time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentflow.canvas.opening import open_in_ledger
from agentflow.canvas.plan import Plan, PlanNode
from agentflow.canvas.spending import NO_LIMIT, Spending
from agentflow.environment import Job, Meter, PlainEnvironment, Stop
from agentflow.errors import BudgetReached
from agentflow.runners.registry import make_runner
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer
from agentflow.store.budgets import RUN, Amount
from agentflow.store.ledger import Ledger
from agentflow.tasks.account import LedgerAccount
from bench.figures import Figure, median, percentile, spread
from bench.stage import Stage, stage

AGENTS = 50
CEILING = 600_000
ANSWER_TOKENS = 200
CALL: list[dict[str, Any]] = [{"list": {}}]
SAYS = "I look around. " * 20
LIES: dict[str, Any] = {
    "honest": None,
    "absent": "missing",
    "nothing": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "negative": {"prompt_tokens": -900, "completion_tokens": -900, "total_tokens": -1800},
    "little": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
CALLS = 500


def measure() -> Iterator[Figure]:
    """The highest that spent and reserved came to, what was consumed, and what asking costs."""
    with stage() as found:
        yield from _ceiling(found)
        yield from _asking(found)


def _ceiling(found: Stage) -> Iterator[Figure]:
    nodes = _open(found, "lies", AGENTS, CEILING)
    server = ScriptedServer(_script(), record=True)
    over, highest = threading.Event(), [0]
    watcher = threading.Thread(target=_watch, args=(found.ledger, "lies", over, highest))
    began = time.monotonic()
    with server, ThreadPoolExecutor(AGENTS) as pool:
        watcher.start()
        ended = list(pool.map(lambda item: _work(found, server.url, *item), nodes.items()))
        over.set()
        watcher.join()
        truth = sum(map(_consumed, server.requests))
    took = time.monotonic() - began
    spent = found.ledger.purses("lies")[RUN].spent.tokens
    note = f"{len(server.requests)} calls in {took:.0f} s; the budget ended {ended.count(RUN)} of {AGENTS}"
    yield Figure(
        "budget, 50 agents: spent + reserved, highest", 100 * highest[0] / CEILING, "%", most=100, note=note
    )
    yield Figure("budget, 50 agents: really consumed", 100 * truth / CEILING, "%", most=100)
    note = "by the ledger; it counts a lie by its own estimate, tools included"
    yield Figure("budget, 50 agents: charged in the end", 100 * spent / CEILING, "%", most=100, note=note)


def _asking(found: Stage) -> Iterator[Figure]:
    """One reservation and one charge, every limit set, nobody else at work."""
    ((name, fence),) = _open(found, "asking", 1, 10**9).items()
    samples = []
    for i in range(CALLS):
        began = time.perf_counter()
        found.ledger.reserve("asking", name, fence, str(i), Amount(0.01, 1000))
        found.ledger.charge("asking", name, fence, str(i), Amount(0.01, 1000))
        samples.append((time.perf_counter() - began) * 1000)
    note = f"p99 {percentile(samples, 0.99):.2f} ms; {spread(samples)}"
    yield Figure("budget: reserve and charge of one call", median(samples), "ms", note=note, samples=samples)


def _open(found: Stage, run: str, count: int, ceiling: int) -> dict[str, int]:
    """A run of so many claimed nodes; their fences."""
    nodes = tuple(PlanNode(id=f"n{i}", role="backend") for i in range(count))
    limits = {RUN: (None, ceiling), "role:backend": (None, 2 * ceiling), "node:n0": (None, 2 * ceiling)}
    plan = Plan(feature=run, nodes=nodes, spending=Spending(limits=limits))
    open_in_ledger(found.ledger, run, plan, project="bench", repo="", root="")
    claims = {n.id: found.ledger.claim(run, n.id, worker="bench", ttl_ms=3_600_000) for n in nodes}
    return {name: claim.fence for name, claim in claims.items()}


def _script() -> Script:
    turn = {"text": SAYS, "calls": CALL}
    replies = [
        {"name": lie, "when": [f"agent of {lie}"], "repeat": True, "turns": [{**turn, "usage": usage}]}
        for lie, usage in LIES.items()
    ]
    return Script.model_validate({"replies": replies})


def _work(found: Stage, url: str, node: str, fence: int) -> str:
    """One agent to its end; the budget that ended it."""
    place = found.directory / node
    place.mkdir()
    lie = list(LIES)[int(node[1:]) % len(LIES)]
    account = LedgerAccount(
        found.ledger,
        ("lies", node, fence),
        whole=NO_LIMIT,
        stop=Stop(),
        deadline=time.monotonic() + 600,
        send=lambda _answer: None,
    )
    runner = {
        "type": "openai",
        "base_url": url,
        "model": "m",
        "max_output_tokens": ANSWER_TOKENS,
        "max_turns": 999,
    }
    try:
        make_runner(runner).run(_job(place, node, runner, lie, Meter(account)), PlainEnvironment(place))
    except BudgetReached as error:
        return error.scope
    return ""


def _job(place: Path, node: str, runner: dict[str, Any], lie: str, meter: Meter) -> Job:
    return Job(
        run="lies",
        node=node,
        role="backend",
        attempt=1,
        prompt=f"You are the agent of {lie}.",
        instructions="",
        workspace=place,
        output="change",
        artifacts=(),
        runner=runner,
        env={},
        deadline=time.monotonic() + 600,
        log=place.with_suffix(".log"),
        transcript=place.with_suffix(".jsonl"),
        prompt_file=place.with_suffix(".md"),
        meter=meter,
    )


def _watch(ledger: Ledger, run: str, over: threading.Event, highest: list[int]) -> None:
    while not over.wait(0.002):
        purse = ledger.purses(run)[RUN]
        highest[0] = max(highest[0], purse.spent.tokens + purse.held.tokens)


def _consumed(request: dict[str, Any]) -> int:
    """What an honest server reports for the request."""
    return len(json.dumps(request["messages"])) // 4 + (len(SAYS) + len(json.dumps(CALL))) // 4
