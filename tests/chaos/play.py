"""Play one seed in one world: begin, disturb, leave in peace, and look at what came out.

The seed decides who is odd, which faults come, in which order and after which pauses. The exact interleaving
does not come back with it, but what a seed found it usually finds again.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import redis
from chaos import faults, history
from chaos.bills import Trouble
from chaos.programme import SIZES, WORLDS
from chaos.theatre import Theatre, can_mount, theatre
from chaos.worlds import World
from helpers.wait import NotInTimeError, wait_until

from agentflow.errors import AgentflowError
from agentflow.store.events import EventLog

#: Seconds that a world may take to end once it is left in peace.
PATIENCE_S = float(os.environ.get("CHAOS_PATIENCE_S", "300"))
#: And for each of its nodes, on a machine that has other things to do.
SECONDS_PER_NODE = 5
#: A run that has not ended and in which nothing has happened for so many seconds hangs: no patience helps.
HANGS_S = 120
#: Seconds between two looks at who is still there.
LOOK_S = 0.1
#: Seconds between the beginnings of two faults, at most.
GAP_S = 2.0


class BrokenPromiseError(AssertionError):
    """A play found something wrong. It is never tried a second time."""


@dataclass(slots=True)
class Report:
    """What a seed did and found. `wrong` is empty when every promise was kept."""

    world: str
    seed: int
    size: int
    only: str = ""
    conditions: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    #: How many were asked for: a play that broke off has had fewer.
    count: int = 0
    wrong: list[str] = field(default_factory=list)
    #: Whether nothing is wrong but that the play went on when its patience was over.
    is_late: bool = False

    def judge(self) -> None:
        """Raise `BrokenPromiseError`, or `NotInTimeError`, unless every promise was kept."""
        if self.wrong:
            raise (NotInTimeError if self.is_late else BrokenPromiseError)(str(self))

    @property
    def replay(self) -> str:
        """The line that plays it again."""
        only = f" ONLY={self.only}" if self.only else ""
        return f"make chaos SEED={self.seed} WORLD={self.world} SIZE={self.size} FAULTS={self.count}{only}"

    def __str__(self) -> str:
        """What a failing test shows."""
        did = ", ".join(self.faults)
        head = f"{self.world}, seed {self.seed}: {'; '.join(self.conditions) or 'nobody is odd'}\n  {did}"
        return "\n".join([head, *(f"  - {what}" for what in self.wrong), f"again: {self.replay}"])


def play(seed: int, world: str, *, size: int = 0, count: int = 12, only: str = "") -> Report:
    """`count` faults upon one world of `size` nodes (0: as many as it has when there is time); `only`: the
    names of those that may come, between commas.
    """
    report = Report(world, seed, size or SIZES[world], only=only)
    report.count = count
    rng = random.Random(f"{seed} {world}")
    began = time.monotonic()
    kind = WORLDS[world]
    durable = is_durable(seed, world)
    small = kind.fits_small_disk(report.size) and can_mount()
    with theatre(rng, machines=kind.machines, durable=durable, small=small, env=kind.env) as it:
        report.conditions = it.conditions
        with closing(kind(it, report.size)) as what:
            try:
                _play(it, what, report)
            except Exception as error:  # noqa: BLE001 (whatever it is, it belongs into the report)
                broken = report.wrong + it.deserted + it.defects()
                report.wrong.append(f"{type(error).__name__}: {error}")
                report.wrong += _stuck(it, what)
                report.is_late = isinstance(error, NotInTimeError) and not broken and _goes_on(it, what)
            if report.wrong:
                _keep(it, report)
    report.seconds = time.monotonic() - began
    return report


def _play(it: Theatre, world: World, report: Report) -> None:
    wait_until(it.stage.ledger.workers, timeout=180, what="a worker is on the register")
    world.begin()
    it.keep = it.server.log_size() if it.server.durable else ("", 0)
    _disturb(it, world, report)
    it.heal()

    def ended() -> bool:
        it.look()
        world.look()
        return world.has_ended()

    wait_until(
        ended, timeout=PATIENCE_S + report.size * SECONDS_PER_NODE, every=LOOK_S, what="everything has ended"
    )
    wait_until(
        lambda: not history.check_queues(it.stage.ledger.client, world.queues),
        timeout=PATIENCE_S, every=LOOK_S, what="every message is taken",
    )  # fmt: skip
    report.wrong += world.check()
    report.wrong += it.leave()
    report.wrong += history.check_keys(it.stage.ledger.client)
    report.wrong += it.deserted
    report.wrong += it.defects()


def _disturb(it: Theatre, world: World, report: Report) -> None:
    """One fault after the other, some of them at the same time."""
    going: list[tuple[float, faults.Fault, Iterator[float], list[Trouble]]] = []
    small = any(machine.small for machine in it.machines)
    coming = bag(report, world.takes, durable=it.server.durable, small=small)
    following = 0.0
    while coming or going:
        now = time.monotonic()
        for entry in [entry for entry in going if entry[0] <= now]:
            going.remove(entry)
            longer = next(entry[2], None)
            if longer is None:
                _is_over(entry[3])
            else:
                going.append((now + longer, *entry[1:]))
        # There is one server: what happens to it happens one after the other.
        taken = any(fault in faults.TO_THE_SERVER for _, fault, *_ in going)
        if coming and now >= following and not (taken and coming[0] in faults.TO_THE_SERVER):
            fault = coming.pop(0)
            report.faults.append(fault.__name__)
            if fault in faults.TO_THE_SERVER:
                it.trouble("")
            under_way = fault(it, world)
            lasts = next(under_way, 0.0)
            going.append((now + lasts, fault, under_way, it.new_troubles()))
            following = time.monotonic() + it.rng.uniform(0.1, GAP_S)
        it.look()
        world.look()
        threading.Event().wait(0.02)


def _is_over(troubles: list[Trouble]) -> None:
    for trouble in troubles:
        trouble.until = time.monotonic()


def is_durable(seed: int, world: str) -> bool:
    """Whether the seed's server has an append-only file; without one only a journal brings a run back."""
    has_journal = faults.lose_redis in WORLDS[world].takes
    return not (has_journal and random.Random(f"{seed} {world} server").random() < 0.3)


def bag(report: Report, takes: Sequence[faults.Fault], *, durable: bool, small: bool) -> list[faults.Fault]:
    """Which faults come, by seed and world alone: any of them once before any comes again.

    `takes`: what the world takes besides what everybody does; `durable`: the server has an append-only file;
    `small`: there is a small disk.
    """
    able = [*faults.EVERYWHERE, *takes, *([faults.fill_disk] if small else [])]
    if not durable:
        able = [faults.lose_redis if f in (faults.kill_redis, faults.cut_tail) else f for f in able]
    able = [f for f in able if not report.only or f.__name__ in report.only.split(",")]
    rng = random.Random(f"{report.seed} {report.world} faults")
    drawn: list[faults.Fault] = []
    while len(drawn) < report.count:
        drawn += rng.sample(able, len(able))
    return drawn[: report.count]


def _keep(it: Theatre, report: Report) -> None:
    """The logs of a play that failed, where `CHAOS_LOGS` says."""
    if place := os.environ.get("CHAOS_LOGS"):
        there = Path(place) / f"{report.world}-{report.seed}"
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir(parents=True)
        for log in [*it.place.glob("harness/*.log"), *it.place.glob("command*"), it.server.log]:
            shutil.copy(log, there)
        report.wrong.append(f"logs: {there}")


def _stuck(it: Theatre, world: World) -> list[str]:
    """Who has not ended, and why, for the report of a seed that found no end."""
    told = []
    try:
        if not it.server.is_up:
            it.server.start()
        for run in world.runs():
            record = it.stage.ledger.run(run)
            told.append(f"run {run} is {record.state}: {record.reason}")
            left = [n for n in it.stage.ledger.nodes(run).values() if n.state not in history.ENDED]
            told += [
                f"  {n.id} is {n.state} since {n.ready_ms}: {n.reason} (attempt {n.attempt})"
                for n in left[:8]
            ]
        told += _who_is_there(it, world)
    except Exception as error:  # noqa: BLE001 (the report of a failure must not be a second one)
        told.append(f"and the ledger cannot be asked: {error}")
    return told + it.deserted + it.defects()


def _goes_on(it: Theatre, world: World) -> bool:
    """Whether more patience would help: nothing was submitted yet, or every run that has not ended moves."""
    ledger = it.stage.ledger
    try:
        left = [run for run in world.runs() if run and not ledger.is_closed(run)]
        now, events = int(ledger.client.time()[0]), EventLog(ledger.client)
        moved = [int(events.last(run).split("-")[0]) / 1000 for run in left]
    except (redis.RedisError, AgentflowError):
        return False
    return not any(world.runs()) or (bool(moved) and all(now - at < HANGS_S for at in moved))


def _who_is_there(it: Theatre, world: World) -> list[str]:
    """Workers, what lies in the queues, and who waits for it."""
    ledger = it.stage.ledger
    told = [f"{w.name} is {w.state or 'there'}, busy {w.busy}, {w.queues}" for w in ledger.workers()]
    told += history.check_queues(ledger.client, world.queues)
    takers = [e for e in ledger.client.client_list() if e["cmd"] == "brpop"]
    return [*told, f"{len(takers)} wait for messages; {ledger.client.hlen('unacked')} are not acknowledged"]


def summary(reports: list[Report]) -> str:
    """A table of what was done."""
    done = Counter(name for report in reports for name in report.faults)
    conditions = Counter(c.split(" of ")[0] for report in reports for c in report.conditions)
    bad = [report for report in reports if report.wrong]
    lines = [f"{'fault':<18} times"]
    lines += [f"{name:<18} {count:>5}" for name, count in sorted(done.items())]
    lines += [f"{name:<18} {count:>5}  (all the while)" for name, count in sorted(conditions.items())]
    seeds = sorted({report.seed for report in reports})
    minutes = sum(report.seconds for report in reports) / 60
    lines.append(
        f"\n{sum(done.values())} faults in {len(reports)} plays of seeds {seeds[0]}-{seeds[-1]}, "
        f"{minutes:.1f} min: " + (f"{len(bad)} failed" if bad else "every promise was kept")
    )
    lines += [f"again: {report.replay}" for report in bad]
    return "\n".join(lines)
