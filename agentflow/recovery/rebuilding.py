"""After Redis has lost data: the run is put back from the journal beside the repository and from git.

    Redis has lost everything    the run is planted again, closed, and what the journal has settled is adopted
    Redis has lost the latest    the ledger is older than the journal, and what it lacks is adopted

A commit counts as settled when the journal says so and the repository holds it; anything else is done again.
The generation rises and so do the fences, so that nobody of before can settle anything. What was spent is
carried over with each node.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentflow.canvas.opening import node_specs
from agentflow.canvas.plan import Plan
from agentflow.config import Config
from agentflow.errors import InfraError, RepositoryError
from agentflow.recovery import journal as journals
from agentflow.recovery.journal import Journal, Story
from agentflow.recovery.recording import home_or_none
from agentflow.states import NodeState
from agentflow.store import restoring
from agentflow.store.ledger import Ledger
from agentflow.store.orders import configured_limits
from agentflow.store.reading import RunNotFoundError
from agentflow.store.records import INTEGRATE
from agentflow.store.scripts import Answer
from agentflow.workspace import inspect
from agentflow.workspace.gitcmd import Git
from agentflow.workspace.ingest import changed_paths
from agentflow.workspace.store import Store

log = logging.getLogger("agentflow.recovery")

Facts = Mapping[str, Mapping[str, Any]]
Tell = Callable[[str], None]


class DataLostError(InfraError):
    """Redis answers, but it no longer has a run that it had."""

    code = "AF-INFRA-012"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"Redis has lost the run {run_id}",
            why="it was emptied, or it came back without its data",
            fix=f"agentflow resume {run_id} (in the repository): it goes on from what was settled",
        )


def known_here(word: str, repo: Path) -> str:
    """The run that has a journal in this repository and is called so, or begins so; '' when there is none."""
    with contextlib.suppress(RepositoryError):
        found = journals.known_runs(inspect.git_dir_of(repo))
        matching = [word] if word in found else [run_id for run_id in found if run_id.startswith(word)]
        if len(matching) == 1:
            return matching[0]
    return ""


def newest_here(repo: Path) -> str:
    """The run whose journal in this repository was written last; '' when there is none."""
    with contextlib.suppress(RepositoryError):
        return next(iter(journals.known_runs(inspect.git_dir_of(repo))), "")
    return ""


def put_right(ledger: Ledger, run_id: str, *, config: Config, repo: Path, tell: Tell | None = None) -> Answer:
    """Give the ledger what the journal has and it has not; returns what that moved.

    Raises `RunNotFoundError` when neither knows the run, `InfraError` when its journal cannot be used.
    """
    try:
        run = ledger.run(run_id)
    except RunNotFoundError:
        return _restore(ledger, run_id, config, repo, tell)
    home = home_or_none(run, repo)
    story = Journal(home, run_id).read() if home else Story()
    nodes = ledger.nodes(run_id)
    lacking = {
        node: facts
        for node, facts in _settled(story).items()
        if node in nodes and nodes[node].state is not NodeState.SUCCEEDED
    }
    undone = {node: ledger.fields(run_id, node, "undone")[0] for node in lacking}
    # What was rolled back on purpose is not what the ledger has lost.
    lacking = {
        n: facts for n, facts in lacking.items() if int(facts["fields"]["fence"]) > int(undone[n] or 0)
    }
    is_older = bool(lacking) or story.generation > run.generation
    # A ledger that has lost nothing knows the limits better: one that it has not was taken away.
    budget = {name: n for name, n in story.budget.items() if is_older or not name.startswith("limit:")}
    restoring.carry_over(ledger.client, run_id, budget)
    if home is None or not is_older:
        return Answer(())
    return _adopt(ledger, run_id, lacking, story.generation, home, tell)


def _restore(ledger: Ledger, run_id: str, config: Config, repo: Path, tell: Tell | None) -> Answer:
    """Plant a run that the ledger has not, and adopt what it had settled."""
    home = _home_with_journal(run_id, repo)
    story = Journal(home, run_id).read() if home else Story()
    if home is None or not story.plan:
        raise _not_known(run_id, repo, config, is_torn=home is not None)
    plan = _readable(story, run_id)
    base = str(story.run.get("base", ""))
    if not Store(home).has(base):
        raise InfraError(
            f"run {run_id} cannot be restored: its base {base[:12]} is not in {home}",
            why="its ref was removed, and git has collected it",
            fix="fetch that commit, or run the feature again",
            code="AF-INFRA-014",
        )
    restoring.plant(
        ledger,
        story.run,
        node_specs(plan),
        plan.model_dump_json(),
        nodes=story.nodes,
        generation=story.generation,
        closing=story.closing,
    )
    ledger.default_limits(configured_limits(config))
    restoring.carry_over(ledger.client, run_id, story.budget)
    return _adopt(ledger, run_id, _settled(story), story.generation, home, tell)


def _readable(story: Story, run_id: str) -> Plan:
    """The plan as the journal has it."""
    try:
        return Plan.model_validate(story.plan)
    except ValidationError as error:
        raise InfraError(
            f"run {run_id} cannot be restored: the plan in its journal is not one of this version",
            why="; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3]),
            fix="resume it with the version that it was submitted with, or run the feature again",
            code="AF-INFRA-016",
        ) from error


def _adopt(
    ledger: Ledger, run_id: str, settled: Facts, generation: int, home: Path, tell: Tell | None
) -> Answer:
    commits = {node: str(facts["fields"].get("commit", "")) for node, facts in settled.items()}
    missing = set(Store(home).missing(sorted({commit for commit in commits.values() if commit})))
    lost = [node for node, commit in commits.items() if commit in missing]
    for node in lost:
        log.warning("run %s: the commit of %s is not in the repository; it is done again", run_id, node)
    here = {node: facts for node, facts in settled.items() if node not in lost}
    paths = {
        node: changed_paths(Git(home), str(facts["fields"].get("base", "")), commits[node])
        for node, facts in here.items()
        if commits[node] and facts["fields"].get("base")
    }
    count, answer = restoring.adopt(ledger, run_id, here, paths, generation=generation)
    if tell:
        nodes = f"{count} settled node{'' if count == 1 else 's'}"
        tell(f"restored from the journal: {nodes}" + (f", {len(lost)} lost" if lost else ""))
    return answer


def _settled(story: Story) -> Facts:
    """What the journal says has succeeded."""
    return {
        node: facts
        for node, facts in story.nodes.items()
        if node != INTEGRATE and facts["fields"].get("state") == NodeState.SUCCEEDED
    }


def _home_with_journal(run_id: str, repo: Path) -> Path | None:
    """The git directory here that has the run's journal."""
    with contextlib.suppress(RepositoryError):
        git_dir = inspect.git_dir_of(repo)
        if Journal(git_dir, run_id).exists():
            return git_dir
    return None


def _not_known(run_id: str, repo: Path, config: Config, *, is_torn: bool) -> InfraError | RunNotFoundError:
    record = config.data_dir / "runs" / run_id
    if not is_torn and not (Path(run_id).name == run_id and (record / "plan.json").is_file()):
        return RunNotFoundError(
            f"there is no run {run_id!r}",
            why=f"the ledger has none, and there is no journal of it in the repository of {repo}",
            fix="`agentflow runs` lists the runs that are known here; type this in the run's repository",
        )
    return InfraError(
        f"run {run_id} cannot be restored: Redis has lost it, and its journal "
        + ("does not say what it is" if is_torn else f"is not in the repository of {repo}"),
        why="it is written while somebody is attached to the run, in the repository that this belongs to",
        fix=f"type this in that repository, or run it again: agentflow run {record / 'spec.yaml'}",
        code="AF-INFRA-011",
    )
