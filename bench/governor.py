"""Four workers, 32 agents that talk without a pause, and a provider that refuses what is beyond its limits.

Counted at the provider, over two of its windows from the first call: how much of what it allows was used,
and how much of what came it refused. The windows are of 30 s, not of a minute; all else is as shipped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from agentflow.store.governor import Governor
from bench.figures import Figure
from bench.provider import Allowance, provider
from bench.stage import Stage, stage

WORKERS, SLOTS = 4, 8
WINDOW_S, WINDOWS = 30.0, 2
TALKING = ("-m", "bench.talker")
LEAST_USED, MOST_REFUSED = 90.0, 0.5
#: What the provider allows: calls and tokens in a window, calls at once.
CASES = {"calls": (240, 0, 0), "tokens": (0, 120_000, 0), "calls at once": (0, 0, 2)}
ANSWERS_PER_S = 1 / 0.25


def measure() -> Iterator[Figure]:
    """Each limit by itself."""
    for name, (requests, tokens, at_once) in CASES.items():
        allowance = Allowance(requests, tokens, at_once, WINDOW_S)
        with provider(allowance) as url, stage() as found:
            found.env |= {
                "BENCH_PROVIDER": url,
                "AGENTFLOW_RATE_WINDOW_MS": str(int(WINDOW_S * 1000)),
                "AGENTFLOW_BREAKER_PROVIDER": "0",
            }
            limits = {"rpm": requests, "tpm": tokens, "concurrency": at_once}
            Governor(found.ledger.client).configure({"host:127.0.0.1": limits})
            _talk(found, allowance)
        yield from _figures(name, allowance)


def _talk(found: Stage, allowance: Allowance) -> None:
    for i in range(WORKERS):
        found.start(f"w{i}", slots=SLOTS, program=TALKING)
    agents = WORKERS * SLOTS
    found.submit(found.plan({f"agent{i}": [] for i in range(agents)}, slots=agents), "talk")
    found.wait(lambda: allowance.seen, 60, "the first call")
    time.sleep(max(0.0, allowance.seen[0][0] + WINDOW_S * WINDOWS - time.monotonic()))
    found.ledger.control("talk", "cancel")
    found.wait(lambda: "talk" not in found.ledger.open_runs() or not found.ledger.leases(), 60, "the end")


def _figures(name: str, allowance: Allowance) -> Iterator[Figure]:
    first = allowance.seen[0][0]
    seen = [(size, passed) for at, size, passed in allowance.seen if at < first + WINDOW_S * WINDOWS]
    passed = [size for size, is_admitted in seen if is_admitted]
    if allowance.requests:
        used = len(passed) / (allowance.requests * WINDOWS)
    elif allowance.tokens:
        used = sum(passed) / (allowance.tokens * WINDOWS)
    else:
        used = len(passed) / (allowance.at_once * WINDOW_S * WINDOWS * ANSWERS_PER_S)
    refused = 100 * (len(seen) - len(passed)) / len(seen)
    note = f"{WORKERS} workers, {WORKERS * SLOTS} agents, {len(seen)} calls in {WINDOW_S * WINDOWS:.0f} s"
    least = LEAST_USED if name != "calls at once" else None
    yield Figure(f"provider limits {name}: of its allowance used", 100 * used, "%", least=least, note=note)
    yield Figure(f"provider limits {name}: refused with 429", refused, "%", MOST_REFUSED)
