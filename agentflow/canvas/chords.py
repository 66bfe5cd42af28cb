"""Runs chords member by member: a contact with Celery's insides (`broker.py` is the other one).

The members of a chord start at different times here, so what `chord.run` does at once is done in
pieces: the size is set when the run is submitted, each ended parent makes one arrival through the
result backend's own counting (atomic, and it counts each arrival once however often it comes), and
the last one sends the chord's body. The contract test `tests/integration/test_chord_contract.py`
pins what is used here.

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
#: Seconds that a chord which has fired is known as done (the backend takes as long).
_DONE_S = 300
#: One call of a script: keys and arguments.
_Count = tuple[list[str], list[Any]]


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
    arrival = _arrival(join, node, canvas.body(join))
    cast("Any", canvas.app.backend).on_chord_part_return(arrival, states.SUCCESS, None)


def arrive_all(canvas: Canvas, ended: Iterable[str], ready: Iterable[str]) -> None:
    """Count nodes as ended in each of their chords, in one round trip, and send the bodies that it completes.

    `ready` is what the ledger says is ready because of them: their chords are complete, most likely, so those
    are tidied up in the same round trip. (One by one each arrival takes a round trip, and the last one of a
    chord five more: three read what the parents returned and hold the claim, which no body of ours needs.)
    """
    arrivals = [(join, node) for node in ended for join in canvas.joins_of(node)]
    for join, node in _count_together(canvas, arrivals, set(ready)):
        arrive_at(canvas, join, node)


def _arrival(join: Join, node: str, body: Any = None) -> _Arrival:
    index = join.parents.index(node)
    return _Arrival(f"{join.id}:{index}", join.id, index, body)


def _count_together(
    canvas: Canvas, arrivals: list[tuple[Join, str]], ready: set[str]
) -> list[tuple[Join, str]]:
    """Those of the arrivals that must be made one by one: the server was started anew and has no scripts.

    A complete chord is claimed by its count, for whoever sends its body, and is then marked as done: no
    arrival that comes again sends it again. A worker that dies before the body is sent leaves a join that
    the reconciler sends.
    """
    backend = cast("Any", canvas.app.backend)
    counting = getattr(backend, "_chord_part_return_script", None)
    if counting is None or not arrivals:
        return arrivals
    counts = _counts(canvas, arrivals)
    with backend.client.pipeline(transaction=False) as pipe:
        for (join, _), (keys, args) in zip(arrivals, counts, strict=True):
            pipe.evalsha(counting.sha, len(keys), *keys, *args)
            if ready.intersection(join.heads):
                # Does nothing where the count before has not claimed the chord.
                tidy_keys, tidy_args = _tidying(keys, args)
                pipe.evalsha(
                    backend._chord_cleanup_script.sha,  # noqa: SLF001
                    len(tidy_keys),
                    *tidy_keys,
                    *tidy_args,
                )
        answers = iter(pipe.execute(raise_on_error=False))
    left = []
    for (join, node), (keys, args) in zip(arrivals, counts, strict=True):
        answer = next(answers)
        is_tidy = next(answers) == 1 if ready.intersection(join.heads) else False
        if isinstance(answer, Exception):
            left.append((join, node))
        elif answer[-1] == 1:
            if not is_tidy:
                tidy_keys, tidy_args = _tidying(keys, args)
                backend._chord_cleanup_script(keys=tidy_keys, args=tidy_args, client=backend.client)  # noqa: SLF001
            canvas.body(join).apply_async()
    return left


def _counts(canvas: Canvas, arrivals: list[tuple[Join, str]]) -> list[_Count]:
    """The calls of its counting script that the backend would make for these arrivals."""
    calls: list[_Count] = []

    def note(*, keys: list[str], args: list[Any], client: object) -> tuple[int, int, int, int]:
        del client
        calls.append((keys, args))
        return _COUNTED

    backend = canvas.app.backend
    # A plain copy: the backend's own way to be copied makes a new one with connections of its own.
    noting = object.__new__(type(backend))
    vars(noting).update(vars(backend), _chord_part_return_script=note)
    for join, node in arrivals:
        noting.on_chord_part_return(_arrival(join, node), states.SUCCESS, None)
    return calls


def _tidying(keys: list[str], args: list[Any]) -> _Count:
    """What the backend's tidying script is given after this call of its counting script."""
    results, changes, size, counted, _, claim = keys
    return [claim, results, changes, size, counted], [args[-1], _DONE_S]


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
