"""The judgement: agentflow runs the acceptance commands itself, in a clean checkout of the commit.

Neither the agent's word nor an exit code is enough. Pytest is asked for a report that lists every test;
what ran on the base must still run, and none of it may have become a skip. This stops mistakes and the
known ways around a test run (`os._exit(0)`, `--collect-only`, deleted tests); code that forges the
report itself is stopped only when the tests are protected from it (the sandbox, later).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentflow.environment import Stop
from agentflow.workspace import clone, setup
from agentflow.workspace.commands import Terms
from agentflow.workspace.setup import SetupSpec
from agentflow.workspace.store import Store, locked
from agentflow.workspace.trials import Trial, TrialCache, lost_tests, try_command


@dataclass(frozen=True, slots=True)
class Verdict:
    """What acceptance says. `output` is the end of what the red command printed; `tests` counts outcomes."""

    ok: bool
    reason: str = ""
    output: str = ""
    tests: Mapping[str, int] = field(default_factory=dict)


def judge(
    store: Store,
    *,
    commit: str,
    base: str,
    commands: Sequence[Sequence[str]],
    expect: str,
    setup: SetupSpec | None,
    env: Mapping[str, str],
    data_dir: Path,
    scratch: Path,
    deadline: float,
    stop: Stop,
    log: Path | None = None,
    cache: Path | None = None,
) -> Verdict:
    """Judge `commit` by `commands`, against `base`.

    `expect`: `green`: they pass, no test is lost or newly skipped; `red_then_green`: the same, and one of
    them fails on the base; `none`: nothing is judged. `scratch` is a directory for checkouts, removed
    afterwards; `env` is the whole environment; `cache` keeps verdicts of one generation of a run.
    Raises `AttemptTimeout`, `AttemptCancelled`, and what `setup.provide` raises.
    """
    if expect == "none" or not commands:
        return Verdict(ok=True, reason="nothing to judge")
    terms = Terms(env, deadline, stop, log)
    court = _Court(store, setup, data_dir, scratch.absolute(), terms, TrialCache(cache))
    try:
        if expect == "red_then_green":
            unproved = _unproved(court, base, commands)
            if unproved:
                return unproved
        return _compare(court, commit, base, commands)
    finally:
        clone.remove_tree(scratch)


def _unproved(court: _Court, base: str, commands: Sequence[Sequence[str]]) -> Verdict | None:
    """A verdict when every command is green without the change."""
    if any(court.on_base(base, command).red for command in commands):
        return None
    return Verdict(
        ok=False,
        reason="the acceptance is green on the base already, so it proves nothing (expect: red_then_green)",
        output="Write a test that fails without your change and passes with it.",
    )


def _compare(court: _Court, commit: str, base: str, commands: Sequence[Sequence[str]]) -> Verdict:
    """The commit's trials, each against the base's where both have tests."""
    counts: Counter[str] = Counter()
    trials = []
    for command in commands:
        trial = court.on_candidate(commit, command)
        if trial.red:
            return Verdict(ok=False, reason=trial.red, output=trial.output)
        trials.append(trial)
        counts.update((trial.tests or {}).values())
    for trial in trials:
        lost = lost_tests(court.on_base(base, trial.command), trial) if trial.tests else ""
        if lost:
            return Verdict(ok=False, reason=lost, output=f"{lost}. Tests may be added, not taken away.")
    return Verdict(ok=True, reason="green", tests=dict(counts))


@dataclass(slots=True)
class _Court:
    """Where trials happen: one clean checkout a commit, made when the first command needs it."""

    store: Store
    setup: SetupSpec | None
    data_dir: Path
    scratch: Path
    terms: Terms
    cache: TrialCache
    checkouts: dict[str, Path] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def on_base(self, commit: str, command: Sequence[str]) -> Trial:
        """A trial on the base; the same trial is made once, also when many attempts ask at once."""
        path = self._cached_at(commit, command)
        with contextlib.ExitStack() as stack:
            if path:
                lock = locked(path.with_suffix(".lock"), stop=self.terms.stop, deadline=self.terms.deadline)
                stack.enter_context(lock)
            return self.cache.load(path) or self._try(commit, command, path)

    def on_candidate(self, commit: str, command: Sequence[str]) -> Trial:
        """A trial on what is judged; only a red one is believed from the cache."""
        path = self._cached_at(commit, command)
        known = self.cache.load(path)
        return known if known and known.red else self._try(commit, command, path)

    def _try(self, commit: str, command: Sequence[str], path: Path | None) -> Trial:
        report = self.scratch / "reports" / "junit.xml"
        trial = try_command(command, self._checkout(commit), report, self.terms)
        self.cache.keep(path, trial)
        return trial

    def _cached_at(self, commit: str, command: Sequence[str]) -> Path | None:
        if self.cache.folder is None:
            return None
        if commit not in self.keys:
            self.keys[commit] = setup.setup_key(self.store, self.setup, commit)
        tree = self.store.commit(commit).tree
        return self.cache.path(tree, command, self.keys[commit], self.terms.env)

    def _checkout(self, commit: str) -> Path:
        if commit not in self.checkouts:
            root = self.scratch / commit[:12]
            clone.prepare(self.store, commit, root)
            setup.provide(self.store, self.setup, commit, root, data_dir=self.data_dir, terms=self.terms)
            self.checkouts[commit] = root
        return self.checkouts[commit]
