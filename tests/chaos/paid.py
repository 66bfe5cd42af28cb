"""Paid work: agents that call a provider over HTTP, with budgets and limits that lie near what it takes.

The provider keeps books of its own (tests/helpers/metered.py), refuses what is above its limits, and now and
then a call for no reason. When the budget is used up its user gives a little more, as often as it takes.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence

import redis
from chaos import bills
from chaos.theatre import Theatre
from chaos.worlds import GitWorld
from helpers.metered import Allowed, Books, provider
from helpers.repos import git, make_repo

from agentflow.errors import AgentflowError
from agentflow.store.budgets import NANO
from agentflow.store.events import EventLog

ROLES = ("backend", "frontend")
ALLOWED = Allowed(calls=6, tokens=9_000, at_once=2, window_s=3.0)
#: US dollars of a token in, of a token out.
INPUT_USD, OUTPUT_USD = 1e-6, 1e-5
#: About what a node costs undisturbed, and what its two calls reserve at most, in US dollars.
NODE_USD, CALL_RESERVED_USD = 0.0046, 0.0055
#: Share of that which the run may spend at first: its budget runs out in every play.
AT_FIRST = 0.7
#: What the user gives when nothing is left: enough for some calls.
MORE_USD = 0.04
#: One call in so many is refused though there is room.
ODD_CALLS = 13
BEFORE = {"readme.md": "r\n"}


class Paid(GitWorld):
    """A random DAG of files, each written by an agent that asks the metered provider twice."""

    role = ROLES[0]
    queues: Sequence[str] = (*ROLES, "agentflow.system")
    env: Mapping[str, str] = {
        "AGENTFLOW_RATE_WINDOW_MS": str(int(ALLOWED.window_s * 1000)),
        "AGENTFLOW_RATE_LIMITS_PROVIDERS": json.dumps(
            {"127.0.0.1": {"rpm": ALLOWED.calls, "tpm": ALLOWED.tokens, "concurrency": ALLOWED.at_once}}
        ),
    }

    def __init__(self, it: Theatre, size: int) -> None:
        super().__init__(it, size)
        self._cli.env |= {**self.env, "OPENAI_API_KEY": "ann"}
        self._odd = random.Random(it.rng.random())
        self.books = Books(ALLOWED, content, odd=lambda _number: self._odd.random() < 1 / ODD_CALLS)
        self._open = contextlib.ExitStack()
        self._url = self._open.enter_context(provider(self.books))
        self._ceilings = bills.Ceilings()
        self._given = 0

    def prepare(self) -> None:
        """A repository, the feature, and the tree that all of its files come to."""
        rng = random.Random(self.it.rng.random())
        names = [f"n{number}" for number in range(self.size)]
        self.repo = make_repo(self.it.place / "repo", BEFORE)
        files = {f"p/{name}.txt": content(name) for name in names}
        self.tree = git(
            make_repo(self.it.place / "expected", {**BEFORE, **files}), "rev-parse", "HEAD^{tree}"
        )
        self.feature = self.it.place / "feature.yaml"
        self.feature.write_text(json.dumps(self._spec(rng, names)))

    def _spec(self, rng: random.Random, names: Sequence[str]) -> Mapping[str, object]:
        tasks = []
        for number, name in enumerate(names):
            near = names[max(0, number - 8) : number]
            tasks.append({
                "id": name, "role": ROLES[number % 3 == 0],
                "needs": rng.sample(near, min(len(near), rng.choice((0, 1, 2)))),
                "prompt": f"Write p/{name}.txt", "artifacts": [f"p/{name}.txt"], "retries": 8,
                "acceptance": [f"test -s p/{name}.txt"],
            })  # fmt: skip
        runner = {
            "type": "openai", "base_url": self._url, "model": "metered", "max_output_tokens": 200,
            "prices": {"input": INPUT_USD * 1e6, "output": OUTPUT_USD * 1e6},
        }  # fmt: skip
        dear = sum(task["role"] == ROLES[1] for task in tasks)
        return {
            "feature": "Paid work", "target": self.target, "runner": runner, "tasks": tasks,
            "budget": {"usd": round(AT_FIRST * self.size * NODE_USD + CALL_RESERVED_USD, 4),
                       "roles": {ROLES[1]: round(dear * NODE_USD + CALL_RESERVED_USD, 4)}},
        }  # fmt: skip

    def look(self) -> None:
        """Read every budget, as often as anybody looks at anything."""
        if self._run:
            with contextlib.suppress(redis.RedisError, AgentflowError):
                self._ceilings.look(self.it.stage.ledger.purses(self._run).values())

    def again(self) -> tuple[str, ...]:
        """`resume`, with more money where what is left would not do for two calls."""
        words: tuple[str, ...] = super().again()
        with contextlib.suppress(redis.RedisError, AgentflowError):
            for purse in self.it.stage.ledger.purses(self._run).values():
                left = (purse.limit_usd or 0) - purse.spent.usd - purse.held.usd
                if purse.limit_usd is not None and left < 2 * CALL_RESERVED_USD:
                    where = "" if purse.scope == "run" else purse.scope.removeprefix("role:") + "."
                    words += ("--budget", f"{where}usd=+{MORE_USD}")
                    self._given += 1
        return words

    def check(self) -> list[str]:
        """What every run of git work is asked, and the books of the provider against the ledger."""
        return [*super().check(), *(f"{self._run}: {what}" for what in self._judge())]

    def _judge(self) -> Iterator[str]:
        ledger = self.it.stage.ledger
        yield from self._ceilings.wrong.values()
        if not self._ceilings.looks:
            yield "the budgets were never looked at"
        if not self._given:
            yield "its budget never ran out"
        sent, received = self.books.tokens()
        yield from bills.check_bills(
            ledger.purses(self._run)["run"].spent.usd,
            self._estimated(),
            sent * INPUT_USD + received * OUTPUT_USD,
            lossy=self.it.lossy,
            rebuilt=bool(self.it.wipes),
        )
        yield from bills.check_windows(self.books.calls, ALLOWED, self.it.troubles)
        events = EventLog(ledger.client).read(self._run, count=1_000_000)
        words = {node.id: f"{node.reason} {node.feedback}" for node in ledger.nodes(self._run).values()}
        yield from bills.check_pauses(events, words)

    def _estimated(self) -> float:
        """US dollars that count for calls whose bill never came, read off the ledger's own notes."""
        noted = self.it.stage.ledger.client.hgetall(f"af:run:{self._run}:budget")
        late = [value.split() for name, value in noted.items() if name.startswith("late:")]
        return sum(int(usd) for usd, _tokens, _day, counts, *_role in late if counts == "1") / NANO

    def close(self) -> None:
        """The command, its way to Redis, the provider."""
        super().close()
        self._open.close()


def content(node: str) -> str:
    """What a node's file holds."""
    return f"made by {node}\n"
