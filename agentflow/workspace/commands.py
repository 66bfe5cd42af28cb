"""Commands of the spec (`setup:`, `acceptance:`, `validate:`) run in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentflow.environment import Environment, PlainEnvironment, Stop
from agentflow.errors import AttemptTimeout
from agentflow.process import Completed

#: The variable that tells an attempt's commands, which have a HOME of their own, the worker's.
WORKER_HOME = "AGENTFLOW_WORKER_HOME"
#: The end of a command's output that people and the next attempt are shown.
TAIL_CHARS = 8_000


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which commands run: exactly this environment, until this deadline (monotonic) or this stop."""

    env: Mapping[str, str]
    deadline: float
    stop: Stop
    log: Path | None = None
    make_environment: Callable[[Path], Environment] = PlainEnvironment


def fill(command: Sequence[str], workspace: Path, env: Mapping[str, str]) -> list[str]:
    """Put values for `{python}`, `{workspace}` and `{task}`; other braces stay as they are."""
    values = {
        "{python}": sys.executable,
        "{workspace}": str(workspace),
        "{task}": env.get("AGENTFLOW_NODE", ""),
    }
    filled = []
    for word in command:
        for name, value in values.items():
            word = word.replace(name, value)  # noqa: PLW2901  # one word, several names
        filled.append(word)
    return filled


def run(command: Sequence[str], workspace: Path, terms: Terms, extra: Mapping[str, str]) -> Completed:
    """Run one command to its end, with `extra` in its environment.

    Raises `AttemptCancelled` on a stop and `AttemptTimeout` at the deadline.
    """
    env = {**terms.env, **extra}
    argv = fill(command, workspace, env)
    if terms.log:
        terms.log.parent.mkdir(parents=True, exist_ok=True)
        with terms.log.open("a") as log:
            log.write(f"$ {' '.join(argv)}\n")
    environment = terms.make_environment(workspace)
    done = environment.execute(argv, deadline=terms.deadline, env=env, stop=terms.stop, log=terms.log)
    terms.stop.check()
    if done.timed_out:
        raise AttemptTimeout(
            f"{named(command)} did not end before the deadline",
            fix="raise the task's `timeout:`, or see why it hangs",
            feedback=f"{named(command)} did not end in time. Its output ended:\n{tail(done.output)}",
        )
    return done


def named(command: Sequence[str]) -> str:
    """A command as one short word for messages."""
    text = " ".join(command)
    return f"`{text[:120]}{'...' if len(text) > 120 else ''}`"  # noqa: PLR2004  # characters, twice


def tail(output: str) -> str:
    """The end of an output."""
    return output if len(output) <= TAIL_CHARS else f"[...]{output[-TAIL_CHARS:]}"


def how_it_ended(done: Completed) -> str:
    """`exit code 1`, `signal 9`."""
    return f"exit code {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
