"""Any agent that is a command: codex, claude, a script. What it says is kept, what it wrote is judged.

The command is an argv list; `{prompt_file}`, `{workspace}`, `{task}` and `{python}` are filled in,
anything else in braces stays as it is. It may write its hand-off to `$AGENTFLOW_HANDOFF`, its report
to `$AGENTFLOW_REPORT` and what it spent to `$AGENTFLOW_USAGE`; all lie outside of the workspace.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentflow.environment import Environment, Job, Outcome, Usage
from agentflow.errors import AttemptError, AttemptTimeout, ConfigError
from agentflow.process import Completed

#: What dependents are given of a hand-off or report.
MAX_TEXT_BYTES = 16_000
#: The end of the output that the next attempt is told.
FEEDBACK_CHARS = 4_000
_NOT_STARTED = (126, 127)


class CommandRunner:
    """Runs the configured command in the workspace, with its output in the attempt's log."""

    def run(self, job: Job, environment: Environment) -> Outcome:
        """Run the command to its end.

        Raises `AttemptError` for any exit code but 0 (with the end of the output as feedback),
        `AttemptTimeout` at the deadline or the command's own `timeout`, `AttemptCancelled` on a stop.
        """
        handoff, report, usage = _answer_files(job)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.prompt_file.write_text(_prompt(job), encoding="utf-8", errors="replace")
        argv = command(job)
        job.meter.reserve_attempt()
        try:
            done = environment.execute(
                argv,
                deadline=_deadline(job),
                env=_environ(job, handoff, report, usage, os.environ),
                stop=job.stop,
                log=job.log,
            )
        except BaseException:
            _charge(job, usage)
            raise
        if done.returncode not in _NOT_STARTED:
            _charge(job, usage)
        job.stop.check()
        _check(done, job)
        text = _answer(report) or (_tail(done.output) if job.output == "report" else "")
        return Outcome(summary=_last_line(done.output), handoff=_answer(handoff) or text)


def command(job: Job) -> list[str]:
    """The argv of the job, filled in; raises `ConfigError` without one."""
    argv: Sequence[str] = job.runner.get("command") or ()
    if not argv:
        raise ConfigError("the command runner has no command", fix="set `command:` to a list of words")
    values = {
        "{prompt_file}": str(job.prompt_file),
        "{workspace}": str(job.workspace),
        "{task}": job.node,
        "{python}": sys.executable,
    }
    return [_filled(word, values) for word in argv]


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _prompt(job: Job) -> str:
    return f"{job.instructions.strip()}\n\n{job.prompt}".lstrip()


def _deadline(job: Job) -> float:
    own = job.runner.get("timeout")
    return min(job.deadline, time.monotonic() + float(own)) if own else job.deadline


def _answer_files(job: Job) -> tuple[Path, Path, Path]:
    """Where the command may write its hand-off, its report and what it spent, without what was left there."""
    job.prompt_file.parent.mkdir(parents=True, exist_ok=True)
    at = job.prompt_file
    files = at.with_suffix(".handoff"), at.with_suffix(".report"), at.with_suffix(".usage")
    for file in files:
        file.unlink(missing_ok=True)
    return files


def _environ(
    job: Job, handoff: Path, report: Path, usage: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """The job's environment, the worker's variables that `pass_env` names, and `env` of the runner."""
    passed = {name: environ[name] for name in job.runner.get("pass_env") or () if name in environ}
    return {
        **job.env,
        **passed,
        **{name: str(value) for name, value in (job.runner.get("env") or {}).items()},
        "AGENTFLOW_HANDOFF": str(handoff),
        "AGENTFLOW_REPORT": str(report),
        "AGENTFLOW_USAGE": str(usage),
    }


def _charge(job: Job, told: Path) -> None:
    """What the command says that it has spent; without a word of it, what was reserved for it."""
    usage = usage_of(_answer(told))
    if usage:
        job.meter.charge(usage)
    else:
        job.meter.charge_reserved()


def usage_of(text: str) -> Usage | None:
    """What `{"usd": 0.1, "input_tokens": 9, "output_tokens": 8, "calls": 1, "model": "m"}` says, or None."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not (set(told) & {"usd", "input_tokens", "output_tokens"}):
        return None
    calls = max(1, int(_figure(told.get("calls"))))
    sent, received = int(_figure(told.get("input_tokens"))), int(_figure(told.get("output_tokens")))
    usd = _figure(told.get("usd"))
    share = {"calls": calls, "input_tokens": sent, "output_tokens": received, "cost_usd": usd}
    models = {str(told["model"])[:100]: share} if told.get("model") else {}
    return Usage(calls, sent, received, usd, models=models)


def _figure(value: object) -> float:
    """A number from 0 to a billion; anything else is 0."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return min(1e9, max(0.0, float(value))) if is_number else 0.0  # type: ignore[arg-type]


def _check(done: Completed, job: Job) -> None:
    feedback = done.output[-FEEDBACK_CHARS:]
    if done.timed_out:
        raise AttemptTimeout(
            f"the command was ended at its deadline, after {done.seconds:.0f} s",
            fix="raise the task's `timeout:`, or the runner's",
            feedback=feedback,
        )
    if done.returncode in _NOT_STARTED:
        raise AttemptError(
            f"the command {command(job)[0]!r} could not be started (exit code {done.returncode})",
            why=_last_line(done.output),
            fix="install it where the worker runs, or give its full path",
            feedback=feedback,
        )
    if done.returncode:
        how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise AttemptError(
            f"the command failed ({how})",
            why=_last_line(done.output),
            fix=f"its whole output is in {job.log}",
            feedback=feedback,
        )


def _answer(file: Path) -> str:
    """The text that the command wrote, capped; nothing when it is no regular file of its own."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(handle, "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            return ""
        return opened.read(MAX_TEXT_BYTES).decode("utf-8", "replace").strip()


def _tail(output: str) -> str:
    """The end of the output: what agents print last is what they want to say."""
    return output.encode()[-MAX_TEXT_BYTES:].decode("utf-8", "ignore").strip()


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip()[:500] if lines else ""
