"""What locks cost when many are held: claims and extensions beside 1,000 holders and 100 that wait.

One run, one client, no workers. The holders have a file each, four directories deep, in all modes; the
waiters want what some of them hold. Then further nodes are claimed that find their path free, held, held
below it (which looks through the table for a name), or shared, and running ones ask for more. Gross is the
client's round trip; net is the time that the server was busy with it and served nobody else (its SLOWLOG).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agentflow.spec.artifacts import Lock, Mode
from agentflow.states import NodeState
from agentflow.store.ledger import Ledger, NodeSpec
from agentflow.store.records import INTEGRATE
from bench.figures import Figure, median, percentile, spread
from bench.stage import stage

HELD, WAITING, ASKED = 1000, 100, 300
P99_MS = 2.0
RUN = "locks"
_MODES: tuple[Mode, ...] = ("write", "read", "append")

Steps = Sequence[Callable[[], Any]]


def measure() -> Iterator[Figure]:
    """Claims and extensions of each kind, then the settlements that wake those who wait."""
    with stage() as found:
        found.ledger.client.config_set("slowlog-log-slower-than", 0)
        found.ledger.client.config_set("slowlog-max-len", 10 * ASKED)
        bench = Bench(found.ledger)
        for name, steps in bench.kinds():
            yield from bench.figures(name, steps, P99_MS)
        yield from bench.figures("settle one that a waiter waits for", bench.settling(), None)


class Bench:
    """A run with its holders and waiters; `fences` of what runs."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.locks = {f"h{i}": (Lock(_file(i), _MODES[i % 3]),) for i in range(HELD)}
        self.locks |= {f"w{i}": (Lock(_file(i)),) for i in range(WAITING)}
        self.locks |= {f"free{i}": (Lock(f"new/pkg{i % 20}/f{i}.py"),) for i in range(ASKED)}
        self.locks |= {f"held{i}": (Lock(_file(500 + i)),) for i in range(ASKED)}
        self.locks |= {f"above{i}": (Lock(str(Path(_file(500 + i)).parent)),) for i in range(ASKED)}
        self.locks |= {f"shares{i}": (Lock(_file(1 + 3 * i), "read"),) for i in range(100, ASKED)}
        self.fences: dict[str, int] = {}
        ledger.open_run({"id": RUN, "feature": "f", "project": "p"}, self._nodes(), "{}")
        for prefix, count in (("h", HELD), ("w", WAITING)):
            for number in range(count):
                self.claim(f"{prefix}{number}")

    def _nodes(self) -> list[NodeSpec]:
        nodes = [
            NodeSpec(name, "worker", (), (INTEGRATE,), locks=locks, order=place)
            for place, (name, locks) in enumerate(self.locks.items())
        ]
        return [*nodes, NodeSpec(INTEGRATE, INTEGRATE, tuple(self.locks), (), tolerant=True)]

    def claim(self, node: str) -> bool:
        """Claim a node; whether it was granted."""
        taken = self.ledger.claim(RUN, node, worker="w", ttl_ms=3_600_000)
        if taken.granted:
            self.fences[node] = taken.fence
        return taken.granted

    def kinds(self) -> Iterator[tuple[str, Steps]]:
        """Each kind of request, as calls."""
        some, tenth = range(ASKED), range(100)
        yield "claim, path free", [partial(self._must, f"free{n}", True) for n in some]
        yield "claim, shared with a reader", [partial(self._must, f"shares{n}", True) for n in some[100:]]
        yield "claim, path held", [partial(self._must, f"held{n}", False) for n in tenth]
        yield "claim, held below", [partial(self._must, f"above{n}", False) for n in tenth]
        yield "extend, granted", [partial(self._extend, n, f"more/a/b/x{n}.py", True) for n in some]
        yield "extend, held", [partial(self._extend, n, _file(500 + n), False) for n in some]

    def settling(self) -> Steps:
        """Settlements of holders, each of which a waiter waits for."""
        return [partial(self._settle, f"h{n}") for n in range(WAITING)]

    def _must(self, node: str, granted: bool) -> None:  # noqa: FBT001 (a table of calls)
        if self.claim(node) is not granted:
            raise RuntimeError(f"{node} was {'not ' if granted else ''}granted")

    def _extend(self, number: int, path: str, granted: bool) -> None:  # noqa: FBT001 (a table of calls)
        node = f"free{number}"
        if self.ledger.extend(RUN, node, self.fences[node], [path]).granted is not granted:
            raise RuntimeError(f"{node} was {'not ' if granted else ''}given {path}")

    def _settle(self, node: str) -> None:
        self.ledger.settle(RUN, node, self.fences.pop(node), NodeState.SUCCEEDED, commit=node)

    def figures(self, name: str, steps: Steps, most: float | None) -> Iterator[Figure]:
        """Gross and net of these calls, one after the other."""
        client = self.ledger.client
        client.slowlog_reset()
        gross = []
        for step in steps:
            began = time.perf_counter()
            step()
            gross.append((time.perf_counter() - began) * 1000)
        entries = client.slowlog_get(10 * ASKED)
        net = [
            e["duration"] / 1000 for e in entries if bytes(str(e["command"]), "utf-8").find(b"EVALSHA") >= 0
        ]
        note = f"median {median(gross):.2f}; {HELD} held, {WAITING} waiting; {spread(gross)}"
        yield Figure(f"{name}, p99", percentile(gross, 0.99), "ms", most, note=note, samples=gross)
        yield Figure(
            f"{name}, p99, of it in the server",
            percentile(net, 0.99),
            "ms",
            note=f"median {median(net):.2f}",
            samples=net,
        )


def _file(number: int) -> str:
    return f"src/part{number % 10}/pkg{number % 100}/mod{number}/code.py"
