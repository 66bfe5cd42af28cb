"""Reads what a run left (its stream, the ledger, refs) and says which promise was broken.

Its own reading, in plain Python and after the fact: it shares no code with the scripts that it judges. Each
function returns sentences, none when all is well. The numbers are those of the invariants in
docs/reliability.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis
from helpers.repos import git

from agentflow.canvas.plan import Plan
from agentflow.store import keys
from agentflow.store.events import EventLog
from agentflow.store.ledger import Ledger
from agentflow.store.records import INTEGRATE, Event, NodeRecord

ENDED = ("succeeded", "failed", "skipped", "cancelled")
#: Attempts that may end without being the node's fault: workers that died, work that did not merge.
LOSSES_MAX = 10
CONFLICTS_MAX = 5
TOLERANCE_USD = 1e-6
#: Keys of kombu's that live as long as the installation: what the exchanges are bound to, and messages that
#: dead workers held (given back after the visibility timeout, then refused at the claim).
KOMBU = ("_kombu.binding", "unacked")
#: Of a project: the limits of its day, which its owner has set.
OF_PROJECTS = ":budget"
#: Of the ledger, while workers live.
LIVING = ("af:leader", "af:worker:", "af:name:")
#: What a run holds while it goes on, and what must be gone when it has ended.
HELD = ("locks", "lockwait", "open", "ready", "parked", "waiting", "waits")


@dataclass(slots=True)
class Telling:
    """One pass over a run's stream. `losses`: when its server lost writes (ms). Pieces of the story are
    missing there, so what follows is read as a story that begins in the middle.
    """

    plan: Plan
    losses: Sequence[int] = ()
    running: dict[str, Event] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    #: Nodes of which the story says how they are; None: all of them.
    known: set[str] | None = None

    def read(self, events: Iterable[Event]) -> list[str]:
        """What is wrong with it."""
        losses = sorted(self.losses)
        for event in events:
            while losses and losses[0] <= int(event.id.partition("-")[0]):
                losses.pop(0)
                self._forget()
            if event.kind == "run.reopened":
                self.ended = {node: state for node, state in self.ended.items() if state == "succeeded"}
            if event.node:
                self._take(event)
        return self.wrong

    def _take(self, event: Event) -> None:
        node = event.node
        if event.kind == "node.started":
            self._started(event)
        elif event.kind == "node.settled":
            self._settled(event)
        elif event.kind == "node.restored":
            self._restored(event)
        elif event.state not in ("", "running"):
            self.running.pop(node, None)
            was = self.ended.pop(node, "") if event.kind in ("node.undone", "node.again") else ""
            if event.kind == "node.undone":
                self.ended[node] = event.state
            elif was == "succeeded" and node != INTEGRATE:
                self._say(event, "I1: done again though it had succeeded")
        if self.known is not None and event.state:
            self.known.add(node)

    def _forget(self) -> None:
        """What was told is not what the ledger has now, and how it is then is told bit by bit."""
        self.running, self.ended, self.attempts, self.known = {}, {}, {}, set()

    def _restored(self, event: Event) -> None:
        """Settled work that the ledger had lost: in an open run it settles in the same step."""
        if event.state == "succeeded":
            self.ended[event.node] = event.state
        else:
            self.running[event.node] = event

    def _is_known(self, node: str) -> bool:
        return self.known is None or node in self.known

    def _say(self, event: Event, what: str) -> None:
        self.wrong.append(f"{event.node} ({event.id}): {what}")

    def _started(self, event: Event) -> None:
        node = event.node
        if node in self.running:
            self._say(event, "I2: claimed while its last claim was still held")
        if node in self.ended:
            self._say(event, f"I1: started after it had {self.ended[node]}")
        if event.attempt <= self.attempts.get(node, 0):
            self._say(event, f"I2: attempt {event.attempt} after {self.attempts[node]}")
        self.attempts[node] = event.attempt
        for parent in filter(self._is_known, self._parents(node)):
            if parent not in self.ended:
                self._say(event, f"I3: started before {parent} had ended")
            elif node != INTEGRATE and self.ended[parent] != "succeeded" and not self._optional(parent):
                self._say(event, f"I3: started though {parent} had {self.ended[parent]}")
        self._locks(event)
        self.running[node] = event
        most = self.plan.max_concurrent
        if most and len(self.running.keys() - {INTEGRATE}) > most:
            self._say(event, f"more than {most} at a time: {', '.join(self.running)}")

    def _locks(self, event: Event) -> None:
        for other in self.running:
            for mine, theirs in _pairs(self._wants(event.node), self._wants(other)):
                if clash(mine, theirs):
                    self._say(event, f"I4: ran together with {other}, which held {theirs}")

    def _settled(self, event: Event) -> None:
        node = event.node
        if node in self.ended:
            self._say(event, f"I1: {event.state} after it had {self.ended[node]}")
        claim = self.running.pop(node, None)
        if event.state in ("succeeded", "failed") and self._is_known(node):
            if claim is None:
                self._say(event, f"I2: {event.state} while nobody had claimed it")
            elif claim.attempt != event.attempt:
                self._say(event, f"I2: attempt {event.attempt} settled, {claim.attempt} had the claim")
        if event.state in ENDED:
            self.ended[node] = event.state

    def _parents(self, node: str) -> Sequence[str]:
        return [n.id for n in self.plan.nodes] if node == INTEGRATE else self.plan.parents.get(node, ())

    def _optional(self, node: str) -> bool:
        return any(n.optional for n in self.plan.nodes if n.id == node)

    def _wants(self, node: str) -> Sequence[object]:
        return next((n.locks for n in self.plan.nodes if n.id == node), ())


def _pairs(ours: Sequence[object], theirs: Sequence[object]) -> Iterator[tuple[object, object]]:
    return ((one, other) for one in ours for other in theirs)


def clash(one: object, other: object) -> bool:
    """Whether two locks may not be held together: the same path or one below it, and not both only read or
    both only append.
    """
    (mine, path), (theirs, elsewhere) = _mode(one), _mode(other)
    if mine == theirs != "write":
        return False
    return (
        "" in (path, elsewhere)
        or path == elsewhere
        or path.startswith(elsewhere + "/")
        or elsewhere.startswith(path + "/")
    )


def _mode(lock: object) -> tuple[str, str]:
    """Mode and path of a plan's lock; a path alone is written."""
    return (str(getattr(lock, "mode", "write")), str(getattr(lock, "path", lock)))


def check_run(
    ledger: Ledger, run_id: str, plan: Plan, expected: Mapping[str, str], *, losses: Sequence[int] = ()
) -> list[str]:
    """I1-I5 and I9 of a run that has ended: its stream, its nodes, and how each of them must have ended.

    `losses`: as for `Telling`.
    """
    events = EventLog(ledger.client).read(run_id, count=1_000_000)
    wrong = Telling(plan, losses).read(events)
    nodes = ledger.nodes(run_id)
    for node in nodes.values():
        if node.state not in ENDED:
            wrong.append(f"{node.id}: I1: {node.state} at the end of the run")
        elif expected.get(node.id, node.state) != node.state:
            wrong.append(f"{node.id}: {node.state} ({node.reason}); undisturbed it is {expected[node.id]}")
    wrong += _attempts(plan, nodes)
    wrong += [
        f"I7: `{part}` of a run that has ended still holds something"
        for part in HELD
        if ledger.client.exists(f"af:run:{run_id}:{part}")
    ]
    counts = ledger.client.hgetall(f"af:run:{run_id}:roles")
    wrong += [f"I7: {count} of role {role} are still counted" for role, count in counts.items() if int(count)]
    wrong += [f"I7: {lease} is still leased" for lease in ledger.leases() if lease[0] == run_id]
    wrong += _spent(ledger, run_id, nodes)
    return [f"{run_id}: {what}" for what in wrong]


def _attempts(plan: Plan, nodes: Mapping[str, NodeRecord]) -> Iterator[str]:
    """I9: nothing is tried for ever."""
    retries = {n.id: n.retries for n in plan.nodes}
    for node in nodes.values():
        if node.failures > retries.get(node.id, 0) + 1:
            yield f"{node.id}: I9: failed {node.failures} times with {retries.get(node.id)} retries"
        if node.losses > LOSSES_MAX or node.conflicts > CONFLICTS_MAX:
            yield f"{node.id}: I9: {node.losses} losses, {node.conflicts} conflicts"


def _spent(ledger: Ledger, run_id: str, nodes: Mapping[str, NodeRecord]) -> Iterator[str]:
    """I5: no budget is overspent, what the nodes say they cost is in the run's, and nothing is reserved."""
    purses = ledger.purses(run_id)
    for purse in purses.values():
        spent = purse.spent
        if spent.usd > (purse.limit_usd or spent.usd) or spent.tokens > (purse.limit_tokens or spent.tokens):
            yield f"I5: {purse.scope} has spent {spent} of {purse.limit_usd} USD, {purse.limit_tokens} tokens"
        if purse.held.usd or purse.held.tokens:
            yield f"I5: {purse.scope} still has {purse.held} reserved"
    cost = sum(float(node.usage.get("cost_usd") or 0) for node in nodes.values())
    # Attempts that were lost have paid too, and are in no node's usage (bills.py has the upper bound).
    if cost > purses["run"].spent.usd + TOLERANCE_USD:
        yield f"I5: the nodes have cost {cost}, the run's budget knows of {purses['run'].spent.usd}"


def check_keys(client: redis.Redis) -> list[str]:
    """I10: with no run open, no key lives for ever that is not the installation's."""
    wrong = [f"I10: {key} is left" for key in ("af:open", "af:leases", "af:delayed") if client.exists(key)]
    for key in client.scan_iter(count=1000):
        if key in keys.PERMANENT or key.startswith((*KOMBU, *LIVING)) or key.endswith(OF_PROJECTS):
            continue
        if client.ttl(key) == -1:
            wrong.append(f"I10: {key} has no TTL")
    return wrong


def check_queues(client: redis.Redis, queues: Iterable[str]) -> list[str]:
    """Nothing goes round in the queues."""
    lists = [name if p == 0 else f"{name}\x06\x16{p}" for name in queues for p in range(10)]
    return [f"{count} messages are left in {name!r}" for name in lists if (count := client.llen(name))]


def check_landed(
    repo: Path,
    target: str,
    base: str,
    commits: Mapping[str, str],
    *,
    needs: Mapping[str, Sequence[str]],
    tree: str,
) -> list[str]:
    """I8, I11, I12: the branch has the tree of an undisturbed run, made of each node's commit, each once, and
    each on top of what it needed; it was moved in one step.
    """
    wrong = []
    if git(repo, "rev-parse", f"{target}^{{tree}}") != tree:
        listed = (
            git(repo, "diff-tree", "-r", "--name-status", tree, f"{target}^{{tree}}")
            if _has(repo, tree)
            else ""
        )
        wrong.append(f"I11: the landed tree is not that of an undisturbed run: {listed[:500]}")
    reached = git(repo, "rev-list", f"{base}..{target}").split()
    for node, commit in commits.items():
        if reached.count(commit) != 1:
            wrong.append(f"I8: the commit of {node} is {reached.count(commit)} times in what landed")
    lines = [line.split() for line in git(repo, "rev-list", "--parents", f"{base}..{target}").splitlines()]
    works = [line[0] for line in lines if len(line) <= 2]
    twice = [patch for patch, count in Counter(_patch(repo, c) for c in works).items() if patch and count > 1]
    if twice:
        wrong.append(f"I8: {len(twice)} changes were merged twice")
    wrong += [
        f"I3: the commit of {node} is not built on that of {other}, which it needs"
        for node, commit in commits.items()
        for other in needs.get(node, ())
        if other in commits and not _is_ancestor(repo, commits[other], commit)
    ]
    moves = git(repo, "reflog", "show", "--format=%H", target).split()
    if len(moves) > 1:
        wrong.append(f"I12: the branch was moved {len(moves)} times")
    if problems := git(repo, "fsck", "--no-dangling", "--no-progress"):
        wrong.append(f"I12: git fsck: {problems[:300]}")
    return wrong


def _has(repo: Path, tree: str) -> bool:
    try:
        git(repo, "cat-file", "-e", tree)
    except AssertionError:
        return False
    return True


def _is_ancestor(repo: Path, one: str, other: str) -> bool:
    return git(repo, "rev-list", "--max-count=1", one, f"^{other}") == ""


def _patch(repo: Path, commit: str) -> str:
    """What a commit changes, whatever it is built on."""
    return git(repo, "diff-tree", "-r", "--no-commit-id", commit)


def told(events: Iterable[Event], node: str) -> str:
    """A node's story, for a report."""
    return json.dumps([[e.id, e.kind, e.state, e.attempt, e.reason[:80]] for e in events if e.node == node])
