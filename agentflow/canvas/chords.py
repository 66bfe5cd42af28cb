"""Runs chords member by member: a contact with Celery's insides (`broker.py` is the other one).

The members of a chord start at different times here, so what `chord.run` does at once is done in
pieces: the size is set when the run is submitted, each ended parent makes one arrival through the
result backend's own counting (atomic, and it counts each arrival once however often it comes), and
the last one sends the chord's body. The contract test `tests/integration/test_chord_contract.py`
pins the two calls used here.

A chord is a hint: whether its body may run is asked of the ledger at the claim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from celery import states

from agentflow import failpoints
from agentflow.canvas.compile import INTEGRATE, Canvas, Join
from agentflow.errors import UsageError

log = logging.getLogger("agentflow.canvas")
#: What the backend's counting script answers for an arrival that there is nothing more to do about.
_COUNTED = (-1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What `on_chord_part_return` reads of a request: the edge, its chord, and the chord's body."""

    id: str
    group: str
    group_index: int
    chord: Any


def arm(canvas: Canvas) -> None:
    """Set the size of every chord of the run; must come before the first message is sent.

    The backend's own call, on a backend whose client is a pipeline: a run of a thousand joins is armed in
    one round trip, not in two thousand.
    """
    backend = cast("Any", canvas.app.backend)

    def set_sizes() -> None:
        with backend.client.pipeline(transaction=False) as pipe:
            batch = type(backend)(app=canvas.app, url=backend.url)
            batch.client = pipe
            for join in canvas.joins.values():
                batch.set_chord_size(join.id, len(join.parents))
            pipe.execute()

    backend.ensure(set_sizes, ())


def arrive(canvas: Canvas, node: str) -> None:
    """Count `node` as ended in each chord that it is a parent of; the last arrival sends the body."""
    for join in canvas.joins_of(node):
        arrive_at(canvas, join, node)


def arrive_at(canvas: Canvas, join: Join, node: str) -> None:
    """Count `node` as ended in one chord; harmless when it is counted already."""
    cast("Any", canvas.app.backend).on_chord_part_return(_arrival(canvas, join, node), states.SUCCESS, None)


def arrive_all(canvas: Canvas, ended: Iterable[str], ready: Iterable[str]) -> None:
    """Count nodes as ended in each of their chords; `ready` is what the ledger says is ready because of them.

    Where nothing of a chord's body is ready, other arrivals are still to come, most likely: those are
    counted together, in one round trip. One that is the last after all (others were settled later and
    arrived sooner) sends the body as any other.
    """
    able = set(ready)
    early: list[tuple[Join, str]] = []
    last: list[tuple[Join, str]] = []
    for node in ended:
        for join in canvas.joins_of(node):
            (last if able.intersection(join.heads) else early).append((join, node))
    early = _count_together(canvas, early) if len(early) > 1 else early
    for join, node in (*early, *last):
        arrive_at(canvas, join, node)


def _arrival(canvas: Canvas, join: Join, node: str) -> _Arrival:
    index = join.parents.index(node)
    return _Arrival(f"{join.id}:{index}", join.id, index, canvas.body(join))


def _count_together(canvas: Canvas, arrivals: list[tuple[Join, str]]) -> list[tuple[Join, str]]:
    """Those of the arrivals that must be made one by one: their chord is complete.

    The backend makes the calls of its counting script; here they are noted and sent together. A complete
    chord is claimed by that call, for whoever sends its body; the claim is given back, so that the arrival
    that is made next has it. A worker that dies in between leaves a join that the reconciler sends.
    """
    backend = cast("Any", canvas.app.backend)
    script = getattr(backend, "_chord_part_return_script", None)
    if script is None:
        return arrivals
    calls: list[tuple[list[str], list[Any]]] = []

    def note(*, keys: list[str], args: list[Any], client: object) -> tuple[int, int, int, int]:
        del client
        calls.append((keys, args))
        return _COUNTED

    # A plain copy: the backend's own way to be copied makes a new one with connections of its own.
    noting = object.__new__(type(backend))
    vars(noting).update(vars(backend), _chord_part_return_script=note)
    for join, node in arrivals:
        noting.on_chord_part_return(_arrival(canvas, join, node), states.SUCCESS, None)
    with backend.client.pipeline(transaction=False) as pipe:
        for keys, args in calls:
            pipe.evalsha(script.sha, len(keys), *keys, *args)
        answers = pipe.execute(raise_on_error=False)
    left = []
    for arrival, (keys, _), answer in zip(arrivals, calls, answers, strict=True):
        # One that was refused (a server that was started anew has no scripts) is made again as any other.
        if isinstance(answer, Exception):
            left.append(arrival)
        elif answer[-1] == 1:
            backend.client.delete(keys[-1])
            left.append(arrival)
    return left


def send(canvas: Canvas, nodes: Iterable[str], *, woken: bool = False) -> None:
    """Send the segments' tails that begin with these nodes (`woken`: those hold their room already)."""
    heads = list(nodes)
    if heads:
        canvas.tails(heads, woken=woken).apply_async()


def send_others(others: Iterable[tuple[str, str]], canvas_of: Callable[[str], Canvas]) -> None:
    """Send the nodes (run, node) that a transition of one run woke in others (`Answer.others`).

    `canvas_of` gives the canvas of a run by its id. A run that cannot be read is left to the reconciler.
    """
    by_run: dict[str, list[str]] = {}
    for run_id, node in others:
        by_run.setdefault(run_id, []).append(node)
    for run_id, nodes in by_run.items():
        try:
            canvas = canvas_of(run_id)
        except (UsageError, ValueError) as error:
            log.warning("run %s: %s woken but not sent: %s", run_id, ", ".join(nodes), error)
        else:
            send(canvas, nodes, woken=True)


def start(canvas: Canvas) -> None:
    """Arm every chord, then send the roots."""
    arm(canvas)
    send(canvas, canvas.roots() or [INTEGRATE])


def proceed(
    canvas: Canvas,
    node: str,
    *,
    succeeded: bool,
    ready: Iterable[str],
    ended: Iterable[str],
    woken: Iterable[str],
) -> None:
    """What follows the settlement of `node`.

    Its linear successor travels in its Celery chain. A fork is sent as a group, every join gets one
    arrival per ended node (skipped and cancelled ones too), and woken nodes are sent again.
    """
    if succeeded:
        send(canvas, canvas.fork(node))
    failpoints.at("continue.forked", node)
    ended, ready = [done for done in ended if done != INTEGRATE], list(ready)
    arrive_all(canvas, ended, ready)
    failpoints.at("continue.arrived", node)
    send(canvas, _integration(canvas, ready, ended))
    send(canvas, woken, woken=True)
    failpoints.at("continue.sent", node)


def _integration(canvas: Canvas, ready: Iterable[str], ended: Iterable[str]) -> list[str]:
    """The integration, when its chord has fired too early for the ledger.

    Its chord counts the last nodes of the DAG. A skip can end all of those while other work is still
    running; the integration is ready only when that has ended too, and no arrival is left to say so.
    """
    return [INTEGRATE] if INTEGRATE in ready and not set(ended).intersection(canvas.plan.sinks) else []


def follow_up(canvas: Canvas, *, ready: Iterable[str], ended: Iterable[str], woken: Iterable[str]) -> None:
    """What follows a transition that no attempt settled (expiry, cancel, drain, back-off)."""
    ended, ready = [done for done in ended if done != INTEGRATE], list(ready)
    arrive_all(canvas, ended, ready)
    again = [n for n in ready if n != INTEGRATE] + _integration(canvas, ready, ended)
    send(canvas, again)
    send(canvas, woken, woken=True)
