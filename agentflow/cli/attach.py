"""Follow a run to its end: show its transitions, act on Ctrl-C, and outlive a supervisor that was killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agentflow.cli import live, text
from agentflow.cli.options import Progress
from agentflow.cli.picture import Picture
from agentflow.errors import AgentflowError, InfraError, UsageError
from agentflow.monitor import Event, Monitor, event_as_dict, reachable, run_finished

if TYPE_CHECKING:
    from agentflow.config import Config

#: Times in a row that a lost Redis is looked for again before the command gives up.
RECONNECTS = 5
#: Between two looks at whether the private worker stays alive.
WORKER_LOOK_S = 2.0
#: Between two lines that say what runs and what waits, in a log.
HEARTBEAT_S = 30.0


class Screen(Protocol):
    """Something that shows a run while it goes on."""

    def show(self, event: Event) -> None:
        """One transition."""

    def notice(self, message: str) -> None:
        """A word to the user."""

    def recall(self, line: str) -> None:
        """What was before anything is shown; '' for nothing."""


class Quiet:
    """Shows nothing but notices."""

    def show(self, event: Event) -> None:
        """Nothing."""

    def notice(self, message: str) -> None:
        """One line on stderr."""
        text.say(message)

    def recall(self, line: str) -> None:
        """Nothing."""


class Plain(Quiet):
    """One line per transition on stderr, and now and then what runs and waits."""

    def __init__(self, monitor: Monitor, run_id: str) -> None:
        self._monitor = monitor
        self._run_id = run_id
        self._run = monitor.run(run_id)
        self._ended = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Tell what goes on until the block ends; in GitHub Actions as a group that can be folded."""
        folded = text.in_github_actions()
        if folded:
            text.workflow_command("group", f"agentflow {self._run_id}: {self._run.feature}")
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        try:
            yield
        finally:
            self._ended.set()
            beat.join(1)
            if folded:
                text.workflow_command("endgroup")

    def show(self, event: Event) -> None:
        """The transition, when it says something."""
        line = live.plain_line(event, self._run.opened_ms)
        if line:
            text.say(line)

    def recall(self, line: str) -> None:
        """What was before, and what goes on now."""
        if line:
            text.say(line)
        status = self._monitor.status(self._run_id)
        if not status.run.is_at_rest:
            text.say(live.heartbeat(status))

    def _beat(self) -> None:
        while not self._ended.wait(heartbeat_s()):
            with suppress(AgentflowError):
                status = self._monitor.status(self._run_id)
                if not self._ended.is_set():
                    text.say(live.heartbeat(status))


def heartbeat_s(environ: Mapping[str, str] = os.environ) -> float:
    """Seconds between two heartbeats: $AGENTFLOW_HEARTBEAT_S, else 30."""
    with suppress(ValueError):
        return max(0.1, float(environ.get("AGENTFLOW_HEARTBEAT_S", HEARTBEAT_S)))
    return HEARTBEAT_S


@dataclass(frozen=True, slots=True)
class Before:
    """How far a run was when somebody comes back to it: that is summed up, and what comes after is shown.

    `after`: the position of its newest transition then, `0` for a run that is shown from its start.
    """

    after: str = "0"
    told: str = ""


#: A run from its start.
FROM_START = Before()


def before(run_id: str, *, config: Config) -> Before:
    """How far a run is now; `FROM_START` for one that the ledger does not know (Redis has lost it)."""
    monitor = Monitor(config)
    try:
        after = monitor.last_event(run_id)
        return Before(after, live.ended_before(monitor.status(run_id)))
    except UsageError:
        return FROM_START


def attach(
    run_id: str,
    *,
    config: Config,
    progress: Progress,
    events: bool = False,
    owner: bool = True,
    since: Before | None = None,
) -> bool:
    """Show the run until it is at rest; whether it came to rest (False: the user left it running).

    As its `owner` the first Ctrl-C drains the run and the second cancels it; else Ctrl-C only leaves.
    `events` also prints each transition, from the first one on, as a line of JSON on stdout; `tell_finished`
    prints the last one. People are shown what came after `since`, or everything.
    """
    monitor = Monitor(config)
    since = since or FROM_START
    with _screen(monitor, run_id, progress, events=events) as screen, _worker_watched(config, screen):
        if since is not FROM_START:
            screen.recall(since.told)
        if not owner:
            try:
                _follow(run_id, config, screen, events=events, since=since)
            except KeyboardInterrupt:
                return False
            return True
        with _interrupts(run_id, config, screen):
            _follow(run_id, config, screen, events=events, since=since)
    return True


@contextmanager
def _screen(monitor: Monitor, run_id: str, progress: Progress, *, events: bool) -> Iterator[Screen]:
    if progress is Progress.AUTO:
        progress = _automatic(events=events)
    if progress is Progress.QUIET:
        yield Quiet()
        return
    screen = Picture(monitor, run_id, sys.stderr) if progress is Progress.TTY else Plain(monitor, run_id)
    with screen.shown():
        yield screen


def _automatic(*, events: bool) -> Progress:
    """A live view where it can be drawn; nothing beside NDJSON on the same terminal; else lines."""
    if sys.stderr.isatty() and not (events and sys.stdout.isatty()):
        return Progress.PLAIN if text.is_dumb_terminal() else Progress.TTY
    return Progress.QUIET if events else Progress.PLAIN


def _follow(run_id: str, config: Config, screen: Screen, *, events: bool, since: Before) -> None:
    """Every new transition to the screen; a private server that went away is started again."""
    from agentflow import runs

    after, failures = "0" if events else since.after, 0
    while True:
        try:
            with reachable(config.client_url()):
                for event in runs.follow(run_id, config=config, after=after, repo=Path.cwd()):
                    after, failures = event.id, 0
                    if is_after(event.id, since.after):
                        screen.show(event)
                    if events:
                        text.put(json.dumps(event_as_dict(event)))
        except runs.DataLostError:
            raise
        except InfraError:
            failures += 1
            if failures > RECONNECTS:
                raise
            _bring_back(config, screen, failures)
        else:
            return


def is_after(position: str, other: str) -> bool:
    """Whether a position of the stream of transitions (`1700000000000-0`) comes after another one."""
    return _position(position) > _position(other)


def _position(word: str) -> tuple[int, int]:
    ms, _, number = word.partition("-")
    return int(ms), int(number or 0)


def tell_finished(run_id: str, config: Config, exit_code: int) -> None:
    """The one `run.finished` of an event stream, printed when nothing more is done to the run."""
    text.put(json.dumps(run_finished(Monitor(config).run(run_id), exit_code)))


@contextmanager
def _worker_watched(config: Config, screen: Screen) -> Iterator[None]:
    """Say so when the private worker dies at every start: the run would wait without a word."""
    from agentflow.local import service

    ended = threading.Event()

    def watch() -> None:
        told = 1
        while not ended.wait(WORKER_LOOK_S):
            status = service.status(config)
            if status and status.worker_failures > told:
                told = status.worker_failures
                screen.notice(f"the worker has died at its start {told} times: {service.last_words(config)}")

    if config.redis_url is None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _bring_back(config: Config, screen: Screen, failures: int) -> None:
    from agentflow.local import service

    screen.notice("Redis went away; looking for it again")
    time.sleep(min(2.0, 0.1 * 2**failures))
    service.ensure(config)
    screen.notice("")


@contextmanager
def _interrupts(run_id: str, config: Config, screen: Screen) -> Iterator[None]:
    """First Ctrl-C: drain. Second: cancel. Third: leave at once.

    The handler only starts a thread: a reader that is blocked on Redis goes on, and sees the run end.
    """
    presses = 0

    def pressed(_number: int, _frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 2:  # noqa: PLR2004 (drain, cancel, and out)
            raise KeyboardInterrupt
        verb = "drain" if presses == 1 else "cancel"
        screen.notice(
            "draining: running attempts finish, nothing new starts; Ctrl-C again cancels"
            if verb == "drain"
            else "cancelling: running attempts are ended"
        )
        threading.Thread(target=_control, args=(verb, run_id, config, screen), daemon=True).start()

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _control(verb: str, run_id: str, config: Config, screen: Screen) -> None:
    from agentflow import runs

    try:
        with reachable(config.client_url()):
            (runs.drain if verb == "drain" else runs.cancel)(run_id, config=config)
    except InfraError as error:
        screen.notice(str(error))
