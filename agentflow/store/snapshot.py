"""One moment of the ledger, read in one transaction: what `validation` looks at.

A live store changes between two reads, so every key of a run, or of all open runs and what they share, is
read between MULTI and EXEC. Streams are read by themselves: they only grow.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from agentflow.spec.artifacts import Lock
from agentflow.states import TERMINAL, NodeState
from agentflow.store import keys
from agentflow.store.records import INTEGRATE

#: Queue of the integration; every worker consumes it.
SYSTEM_QUEUE = "agentflow.system"
_HUNGRY, _RANKS = keys.hungry(""), keys.WAITING + ":"
#: Times that the open runs are listed again when one was opened or closed meanwhile.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class NodeShot:
    """One node's hash at one moment."""

    id: str
    raw: Mapping[str, str]

    @property
    def state(self) -> NodeState:
        """Where it is."""
        return NodeState(self.raw["state"])

    @property
    def ended(self) -> bool:
        """Whether it is in a terminal state."""
        return self.state in TERMINAL

    @property
    def role(self) -> str:
        """Its role."""
        return self.raw["role"]

    @property
    def queue(self) -> str:
        """Where its messages go."""
        return self.raw.get("queue") or self.role

    @property
    def woken(self) -> bool:
        """Whether it holds its room before it is claimed."""
        return self.raw.get("woken") == "1"

    @property
    def in_flight(self) -> bool:
        """Whether it counts as one that runs."""
        return self.state is NodeState.RUNNING or self.woken

    def list(self, name: str) -> list[str]:
        """A field that holds a JSON list."""
        return cast("list[str]", json.loads(self.raw.get(name) or "[]"))

    def number(self, name: str) -> int:
        """A field that holds a number, 0 when absent."""
        return int(float(self.raw.get(name) or 0))


@dataclass(frozen=True, slots=True)
class RunShot:
    """A run with all of its collections at one moment; `nodes` in the plan's order."""

    id: str
    raw: Mapping[str, str]
    nodes: Mapping[str, NodeShot]
    open: frozenset[str]
    ready: Mapping[str, float]
    parked: Mapping[str, float]
    waiting: Mapping[str, float]
    waits: Mapping[str, int]
    lockwait: Mapping[str, float]
    locks: Mapping[str, str]
    wanted: Mapping[str, str]
    writers: Mapping[str, str]
    budget: Mapping[str, str]
    roles: Mapping[str, int]
    classes: Mapping[str, int]
    settled: Mapping[str, float]

    def number(self, name: str) -> int:
        """A field of the run that holds a number, 0 when absent."""
        return int(float(self.raw.get(name) or 0))

    def parents(self, node: NodeShot) -> list[NodeShot]:
        """What a node waits for; the integration waits for all others (a skip may end the last ones)."""
        if node.id == INTEGRATE:
            return [other for other in self.nodes.values() if other.id != INTEGRATE]
        return [self.nodes[parent] for parent in node.list("parents")]


@dataclass(frozen=True, slots=True)
class FleetShot:
    """All open runs (and those that still hold paths), and what they share, at one moment.

    `held_back`: somebody has paused something, so what waits may be left waiting. `tables`: the locks of
    exclusive runs, by key. `hungry` by queue, `ranks` by class, `spent` (what is spent and reserved of a
    day, of each project and of all) by key.
    """

    open: frozenset[str]
    runs: Mapping[str, RunShot]
    leases: Mapping[tuple[str, str, int], float]
    delayed: Mapping[str, float]
    flight: Mapping[str, int]
    capacity: Mapping[str, int]
    waiting: Mapping[str, int]
    held_back: bool
    tables: Mapping[str, Mapping[str, str]]
    hungry: Mapping[str, Mapping[str, int]]
    ranks: Mapping[str, Mapping[str, float]]
    spent: Mapping[str, Mapping[str, int]]


class _Questions:
    """Collects what is asked in one transaction; answers are read by the number that `ask` gave."""

    def __init__(self, client: redis.Redis) -> None:
        self._pipe: Any = client.pipeline(transaction=True)
        self._reads: list[Callable[[Any], Any]] = []
        self.answers: list[Any] = []

    def ask(self, command: str, key: str, read: Callable[[Any], Any]) -> int:
        words = (0, -1) if command == "zrange" else ()
        getattr(self._pipe, command)(key, *words, **({"withscores": True} if words else {}))
        self._reads.append(read)
        return len(self._reads) - 1

    def zset(self, key: str) -> int:
        return self.ask("zrange", key, _scores)

    def counts(self, key: str) -> int:
        return self.ask("hgetall", key, _numbers)

    def execute(self) -> None:
        self.answers = [read(raw) for read, raw in zip(self._reads, self._pipe.execute(), strict=True)]


class _RunQuestions:
    """The questions about one run."""

    _SCORES = ("ready", "parked", "waiting", "lockwait", "settled")
    _HASHES = ("wanted", "locks", "writers", "budget")
    _COUNTS = ("waits", "roles", "classes")

    def __init__(self, questions: _Questions, run_id: str, order: list[str]) -> None:
        self._all, self._id, self._order = questions, run_id, order
        self._run = questions.ask("hgetall", keys.run(run_id), dict)
        self._open = questions.ask("smembers", keys.part(run_id, "open"), frozenset)
        self._parts = {
            **{name: questions.zset(keys.part(run_id, name)) for name in self._SCORES},
            **{name: questions.ask("hgetall", keys.part(run_id, name), dict) for name in self._HASHES},
            **{name: questions.counts(keys.part(run_id, name)) for name in self._COUNTS},
        }
        self._nodes = [questions.ask("hgetall", keys.node(run_id, node), dict) for node in order]

    def shot(self) -> RunShot:
        answers = self._all.answers
        raw = {node: answers[number] for node, number in zip(self._order, self._nodes, strict=True)}
        return RunShot(
            self._id,
            answers[self._run],
            {node: NodeShot(node, fields) for node, fields in raw.items() if fields},
            answers[self._open],
            **{name: answers[number] for name, number in self._parts.items()},
        )


def of_run(client: redis.Redis, run_id: str) -> tuple[RunShot, dict[tuple[str, str, int], float]] | None:
    """A run, and all leases; None when there is no such run."""
    order = _orders(client, [run_id])
    if not order:
        return None
    questions = _Questions(client)
    asked = _RunQuestions(questions, run_id, order[run_id])
    leases = questions.ask("zrange", keys.LEASES, _leases)
    questions.execute()
    return asked.shot(), questions.answers[leases]


def of_fleet(client: redis.Redis) -> FleetShot:
    """All open runs, finished ones that still hold paths, and what they share."""
    for _ in range(_TRIES):
        opened = cast("set[str]", client.smembers(keys.OPEN))
        holding = set(cast("list[str]", client.zrange(keys.HOLDING, 0, -1)))
        queues = {SYSTEM_QUEUE, *cast("set[str]", client.smembers(keys.QUEUES)), *_named(client, _HUNGRY)}
        classes = {*cast("list[str]", client.hkeys(keys.WAITING)), *_named(client, _RANKS)}
        questions = _Questions(client)
        still = questions.ask("smembers", keys.OPEN, set), questions.zset(keys.HOLDING)
        leases, delayed = questions.ask("zrange", keys.LEASES, _leases), questions.zset(keys.DELAYED)
        flight, capacity, waiting = map(questions.counts, (keys.FLIGHT, keys.CAPACITY, keys.WAITING))
        paused = questions.ask("exists", keys.PAUSED, bool)
        tables = {key: questions.ask("hgetall", key, dict) for key in _project_tables(client)}
        hungry = {queue: questions.counts(keys.hungry(queue)) for queue in sorted(queues)}
        ranks = {name: questions.zset(_RANKS + name) for name in sorted(classes)}
        days = _days(client)
        spent = {key: questions.counts(key) for key in sorted(days)}
        orders = _orders(client, opened | holding)
        runs = {run_id: _RunQuestions(questions, run_id, order) for run_id, order in orders.items()}
        questions.execute()
        answers = questions.answers
        same = answers[still[0]] == opened and set(answers[still[1]]) == holding
        if same and classes.issuperset(answers[waiting]) and _days(client) == days:
            break
    return FleetShot(
        open=frozenset(answers[still[0]]),
        runs={run_id: asked.shot() for run_id, asked in runs.items()},
        leases=answers[leases],
        delayed=answers[delayed],
        flight=answers[flight],
        capacity=answers[capacity],
        waiting=answers[waiting],
        held_back=answers[paused],
        tables={key: answers[number] for key, number in tables.items()},
        hungry={queue: answers[number] for queue, number in hungry.items() if answers[number]},
        ranks={name: answers[number] for name, number in ranks.items() if answers[number]},
        spent={key: answers[number] for key, number in spent.items()},
    )


def _project_tables(client: redis.Redis) -> list[str]:
    """Keys of the locks that exclusive runs hold; the runs themselves say of which project they are."""
    return list(client.scan_iter(keys.project_locks("*"), count=1000))


def _days(client: redis.Redis) -> set[str]:
    """Keys of what was spent in a day."""
    found = client.scan_iter(keys.PREFIX + "*:spent:*", count=1000)
    return {key for key in found if not key.startswith(keys.run(""))}


def _named(client: redis.Redis, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in client.scan_iter(prefix + "*", count=1000)]


def _orders(client: redis.Redis, run_ids: Iterable[str]) -> dict[str, list[str]]:
    """The nodes of each run that is there; they do not change while it exists."""
    found = {}
    for run_id in sorted(run_ids):
        order = cast("str | None", client.hget(keys.run(run_id), "order"))
        if order:
            found[run_id] = cast("list[str]", json.loads(order))
    return found


def _scores(raw: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {member: float(score) for member, score in raw}


def _numbers(raw: Mapping[str, str]) -> dict[str, int]:
    return {name: int(count) for name, count in raw.items()}


def _leases(raw: Iterable[tuple[str, float]]) -> dict[tuple[str, str, int], float]:
    found = {}
    for member, end in raw:
        run_id, node, fence = member.rsplit("|", 2)
        found[run_id, node, int(fence)] = float(end)
    return found


def lock_table(held: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The table of locks (locks.lua) when these pairs of holder and lock are all that is held."""
    names: dict[str, set[str]] = {}
    below: Counter[str] = Counter()
    for holder, text in held:
        path, mode = Lock.of(text)
        if holder in names.setdefault(text, set()):
            continue
        names[text].add(holder)
        parts = path.split("/") if path else []
        below.update(f"i{mode[0]}:{'/'.join(parts[:count])}" for count in range(len(parts)))
    table = {text: "|".join(sorted(who)) for text, who in names.items()}
    return table | {name: str(count) for name, count in below.items()}


def sorted_names(table: Mapping[str, str]) -> dict[str, str]:
    """A table as it stands on the server, the names of shared locks sorted as in `lock_table`.

    Its hints (`n<mode>:`, who took a lock below a path last) are left out where their intention stands.
    """
    hints = {f"n{name[1:]}" for name in table if name[0] == "i"}
    return {name: "|".join(sorted(who.split("|"))) for name, who in table.items() if name not in hints}


def clashes(held: Iterable[tuple[str, str]]) -> list[str]:
    """What two holders hold that cannot be held together, in words."""
    pairs = [(holder, Lock.of(text)) for holder, text in held]
    return [
        f"{one} holds {lock.text} while {other} holds {theirs.text}"
        for at, (one, lock) in enumerate(pairs)
        for other, theirs in pairs[at + 1 :]
        if one != other and lock.clashes_with(theirs)
    ]
