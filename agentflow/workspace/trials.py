"""One command tried on one tree: how it ended, which tests it ran, and the cache of such trials."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agentflow.workspace import commands, junit
from agentflow.workspace.commands import Terms
from agentflow.workspace.store import write_atomically

#: Variables that differ between attempts and decide nothing.
_OF_ONE_ATTEMPT = ("HOME", "TMPDIR")
#: Test ids named in one message.
_NAMED_MAX = 10


@dataclass(frozen=True, slots=True)
class Trial:
    """How a command ended. `tests` are the outcomes by test id; None when it left no report."""

    command: tuple[str, ...]
    ended: str
    exit_ok: bool
    output: str
    tests: Mapping[str, str] | None = None

    @property
    def red(self) -> str:
        """Why it is red; empty when it is green. An exit code alone is not believed of pytest."""
        failed = [name for name, outcome in (self.tests or {}).items() if outcome == junit.FAILED]
        if not self.exit_ok:
            count = f", {len(failed)} of {len(self.tests or ())} tests failed" if failed else ""
            return f"{commands.named(self.command)} ended with {self.ended}{count}"
        if failed:
            return f"{commands.named(self.command)} ended with exit code 0, but {some(failed)} failed"
        if is_pytest(self.command) and self.tests is None:
            why = "it did not run to its end, or without pytest's junit plugin"
            return f"{commands.named(self.command)} left no report: {why}"
        if is_pytest(self.command) and not self.tests:
            return f"{commands.named(self.command)} ran no test"
        return ""


def is_pytest(command: Sequence[str]) -> bool:
    """Whether a command is evidently pytest (also behind `uv run`, `coverage run -m`, ...)."""
    return any(Path(word).name in {"pytest", "py.test"} for word in command)


def lost_tests(before: Trial, after: Trial) -> str:
    """What `after` no longer tests and `before` did; empty when nothing was lost."""
    olds, news = before.tests or {}, after.tests or {}
    ran = [name for name, outcome in olds.items() if outcome != junit.SKIPPED]
    lost = [name for name in ran if name not in news]
    skipped = [name for name in ran if news.get(name) == junit.SKIPPED]
    if lost:
        return f"tests were lost: {some(lost)}"
    if skipped:
        return f"tests are skipped now: {some(skipped)}"
    return ""


def some(names: Sequence[str]) -> str:
    """A few names, and how many more."""
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more


def try_command(command: Sequence[str], workspace: Path, report: Path, terms: Terms) -> Trial:
    """Run a command in a checkout; `report` is where pytest is told to leave its report."""
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    options = (
        f"{terms.env.get('PYTEST_ADDOPTS', '')} -o junit_family=xunit1 --junitxml={shlex.quote(str(report))}"
    )
    done = commands.run(command, workspace, terms, {"PYTEST_ADDOPTS": options.strip()})
    ended = commands.how_it_ended(done)
    return Trial(
        tuple(command), ended, done.returncode == 0, commands.tail(done.output), junit.read_report(report)
    )


@dataclass(frozen=True, slots=True)
class TrialCache:
    """Trials in files, by tree, command, setup and environment. `folder` None: nothing is kept.

    It belongs to one generation of a run: what failed because something was missing on the machine must
    not stay failed when the run is resumed.
    """

    folder: Path | None

    def path(self, tree: str, command: Sequence[str], setup: str, env: Mapping[str, str]) -> Path | None:
        """The file of one trial."""
        if self.folder is None:
            return None
        own = {
            name: text
            for name, text in env.items()
            if name not in _OF_ONE_ATTEMPT and not name.startswith("AGENTFLOW_")
        }
        task = env.get("AGENTFLOW_NODE") if any("{task}" in word for word in command) else None
        key = json.dumps([tree, list(command), setup, own, task], sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"

    @staticmethod
    def load(path: Path | None) -> Trial | None:
        """A trial made before; None when there is none (or none that can be read)."""
        try:
            data = json.loads(path.read_text("utf-8")) if path else None
            return Trial(**{**data, "command": tuple(data["command"])}) if data else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @staticmethod
    def keep(path: Path | None, trial: Trial) -> None:
        """Remember a trial."""
        if path:
            write_atomically(path, json.dumps(asdict(trial)))
