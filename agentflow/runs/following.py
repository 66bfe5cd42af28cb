"""A run that goes on: its ledger, its canvas, and its transitions as they happen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from agentflow.app import make_app
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas, parse_plan
from agentflow.canvas.spending import check_nodes
from agentflow.config import Config
from agentflow.recovery.rebuilding import DataLostError
from agentflow.recovery.recording import Recorder
from agentflow.runs import closing
from agentflow.store.budgets import DAILY, DAY, ORG, Change
from agentflow.store.client import check, connect
from agentflow.store.events import EventLog
from agentflow.store.fleet import Fleet
from agentflow.store.ledger import Ledger
from agentflow.store.reading import RunNotFoundError
from agentflow.store.records import INTEGRATE, Event, RunRecord
from agentflow.store.scripts import Answer

#: Milliseconds that `follow` waits for a transition before it looks at the run itself.
FOLLOW_BLOCK_MS = 2000


def open_ledger(config: Config) -> Ledger:
    """The ledger of this configuration; raises `InfraError` when its Redis cannot be used."""
    url = config.client_url()
    client = connect(url)
    check(client, url)
    Fleet(client).require_schema()
    return Ledger(client)


def follow(run_id: str, *, config: Config, after: str = "0", repo: Path | None = None) -> Iterator[Event]:
    """Every transition of the run, as it happens, until the run is closed, drained to a stop or out of
    budget.

    Whoever follows a run on the machine that it was submitted from (or, for a distributed run, in the clone
    `repo`) keeps its journal and its hidden refs. Raises `DataLostError` when Redis loses the run meanwhile.
    """
    ledger = open_ledger(config)
    events = EventLog(ledger.client)
    recorder = Recorder(ledger, config, ledger.run(run_id) if after == "0" else _still(ledger, run_id), repo)
    recorder.catch_up()
    while True:
        batch = events.read(run_id, after=after, block_ms=FOLLOW_BLOCK_MS)
        recorder.take(batch)
        yield from batch
        if batch:
            after = batch[-1].id
        elif _still(ledger, run_id).is_at_rest:
            return
        else:
            # Perhaps nobody else looks: no worker may be left that could lead.
            closing.look_after(
                ledger, run_id, config=config, canvas_of=lambda i: canvas_of(ledger, i, config)
            )
        if any(e.kind in ("run.finished", "run.landed") for e in batch) and ledger.is_closed(run_id):
            yield from events.read(run_id, after=after)
            return


def _still(ledger: Ledger, run_id: str) -> RunRecord:
    """A run that was there a moment ago."""
    try:
        return ledger.run(run_id)
    except RunNotFoundError as error:
        raise DataLostError(run_id) from error


def grant(ledger: Ledger, run_id: str, project: str, changes: Iterable[Change], config: Config) -> Answer:
    """Change budgets of a run ('' for none), of its project's day, of all projects'; what that moved of the
    run is to be sent.

    Raises `UsageError`; then nothing of the run, or of that day, is changed.
    """
    given = list(changes)
    daily = {scope: [found for found in given if found.field.startswith(f"{scope}:")] for scope in DAILY}
    of_run = [found for found in given if found.field.partition(":")[0] not in DAILY]
    moved = Answer(())
    if of_run:
        check_nodes(of_run, [node for node in ledger.nodes(run_id) if node != INTEGRATE])
        moved = ledger.grant(run_id, project, of_run)
        send_others(ledger, moved, config)
    for scope, whose in ((DAY, project), (ORG, "")):
        if daily[scope]:
            send_others(ledger, ledger.grant("", whose, daily[scope]), config)
    return moved


def send_others(ledger: Ledger, answer: Answer, config: Config) -> None:
    """Send what a transition woke in other runs: it left room, or what an exclusive run held."""
    chords.send_others(answer.others, lambda run_id: canvas_of(ledger, run_id, config))


def canvas_of(ledger: Ledger, run_id: str, config: Config) -> Canvas:
    """The canvas of a run as it is open now. Raises `RunNotFoundError`."""
    plan = parse_plan(json.dumps(ledger.plan(run_id)))
    return Canvas(plan, run_id, ledger.generation(run_id), make_app(config))
