"""agentflow from Python: `plan`, `run`, `submit`, `status`, `watch`, `shutdown` (docs/python.md).

What a command takes these take too: tasks as objects, a spec, a feature file, its text, or words for the
planner. Everything that goes wrong is an `agentflow.errors.AgentflowError`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentflow import drafting, graph, runs
from agentflow.canvas.plan import Plan, PlanNode, make_plan
from agentflow.config import Config, load_config
from agentflow.errors import Problem, RepositoryError, SpecError
from agentflow.local import service
from agentflow.monitor import Monitor, RunStatus
from agentflow.places import Source, Unreadable, read_yaml
from agentflow.results import RunResult
from agentflow.runs import SubmitOptions
from agentflow.spec import lines
from agentflow.spec.checks import check_spec, resolve
from agentflow.spec.models import Spec, Task
from agentflow.spec.reader import load_spec, parse_spec
from agentflow.spec.writer import write_spec
from agentflow.states import CLOSED
from agentflow.store.records import Event
from agentflow.watching import Watch

__all__ = ["Planned", "plan", "result", "run", "shutdown", "status", "submit", "watch"]

_SPEC_KEYS = frozenset({"tasks", "chain", "steps", "agents", "actors"})
FILE_ENDINGS = frozenset({".yaml", ".yml", ".json"})
#: Runs that this process has submitted, and watches that it has begun, for `shutdown`.
_submitted: dict[str, Config] = {}
_watches: list[Watch] = []


@dataclass(frozen=True)
class Planned:
    """A feature that can be looked at and run. `problems` is empty unless it was made with `check=False`.

    `yaml` is the text that it came from ('' for one made of objects).
    """

    spec: Spec
    config: Config
    problems: tuple[Problem, ...] = ()
    yaml: str = ""

    @functools.cached_property
    def plan(self) -> Plan:
        """Every default and role filled in; raises `SpecError` when there are problems."""
        if self.problems:
            raise SpecError(list(self.problems))
        return make_plan(self.spec, self.config)

    @property
    def nodes(self) -> tuple[PlanNode, ...]:
        """The nodes, each after all that it needs."""
        return self.plan.nodes

    def order(self) -> list[str]:
        """The ids, each after all that it needs."""
        return [node.id for node in self.nodes]

    def waves(self) -> list[list[str]]:
        """The ids by how early they can start; those of one wave can run together."""
        return graph.waves({node.id: node.needs for node in self.nodes})

    def cycle(self) -> list[str]:
        """A circle of needs as a path, its first id repeated at the end; empty when there is none."""
        return graph.find_cycle({task.id: task.needs for task in self.spec.tasks})


Source_ = Planned | Spec | Sequence[Task] | Path | str


def plan(
    source: Source_,
    *,
    feature: str = "feature",
    strategy: str | None = None,
    stages: Sequence[Mapping[str, Any]] | None = None,
    repo: Path | str = ".",
    files: Sequence[str] = (),
    config: Config | None = None,
    check: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Planned:
    """What would be run: of tasks, a spec, a feature file (`Path`, or its name), the text of one, or words.

    Words are a line (`review a.py AND test a.py`) or a wish; wishes go to the planner's model, with the text
    of `files`. `strategy` and `stages` replace the spec's.
    Raises `SpecError` with everything that is wrong (with `check=False` they are kept in `problems`),
    `PlanningError` when no plan came of the words.
    """
    if isinstance(source, Planned):
        return source
    config = config or load_config(Path(repo))
    spec, text = _spec_of(source, feature, Path(repo), files, config, tell)
    changes = {"strategy": strategy, "stages": None if stages is None else tuple(stages)}
    changes = {key: value for key, value in changes.items() if value is not None}
    if changes:
        given = {name: getattr(spec, name) for name in spec.model_fields_set}
        spec = Spec.model_validate({**given, **changes}).noting(spec.notes)
    problems = check_spec(spec, config)
    if problems and check:
        raise SpecError(problems)
    return Planned(spec if problems else resolve(spec, config), config, tuple(problems), text)


def _spec_of(
    source: Spec | Sequence[Task] | Path | str,
    feature: str,
    repo: Path,
    files: Sequence[str],
    config: Config,
    tell: Callable[[str], None] | None,
) -> tuple[Spec, str]:
    """The spec that is meant, and its text when it has one."""
    if isinstance(source, Spec):
        return source, ""
    if isinstance(source, str) and Path(source).suffix in FILE_ENDINGS and len(source.split()) == 1:
        source = repo / source
    if isinstance(source, Path):
        return load_spec(source, config), source.read_text("utf-8")
    if not isinstance(source, str):
        return Spec(feature=feature, tasks=tuple(source)), ""
    text = source if _is_spec(source) else _text_of_line(source, repo, config)
    if text:
        return parse_spec(text, name="the text", config=config), text
    drafted = drafting.draft(source, config=config, repo=repo, files=files, tell=tell)
    return drafted.spec, drafted.yaml


def _text_of_line(text: str, repo: Path, config: Config) -> str:
    """The feature file that a line of verbs means; '' for any other words."""
    said, known = lines.words_of([text]), _known_files(repo)
    return write_spec(lines.line_data(said, known, config)) if lines.is_line(said, known, config) else ""


def _known_files(repo: Path) -> frozenset[str]:
    """What is committed there; nothing where there is no repository (a run will say so)."""
    try:
        return frozenset(runs.files_of(repo))
    except RepositoryError:
        return frozenset()


def _is_spec(text: str) -> bool:
    """Whether a text is a feature file's: a list, or a mapping that has tasks by some name."""
    try:
        data = read_yaml(text, Source("the text", SpecError.code))[0].data
    except Unreadable:
        # Broken YAML of several lines that names tasks is a broken file, not a wish.
        return "\ntasks:" in text
    return isinstance(data, list) or (isinstance(data, dict) and bool(_SPEC_KEYS & data.keys()))


def submit(
    source: Source_,
    *,
    repo: Path | str = ".",
    jobs: int | None = None,
    options: SubmitOptions | None = None,
    config: Config | None = None,
    tell: Callable[[str], None] | None = None,
    **about: Any,
) -> str:
    """Start a run and return its id at once; `about` is what `plan` takes.

    The run goes on by itself. It does not land: `runs.land`, or `agentflow land`.
    """
    planned = plan(source, repo=repo, config=config, tell=tell, **about)
    found = options or SubmitOptions(detach=True)
    text = found.spec_text or planned.yaml
    found = replace(found, jobs=jobs or found.jobs, spec_text=text)
    planned.plan  # noqa: B018 (what is wrong is said before anything starts)
    service.ensure(planned.config)
    run_id = runs.submit(planned.spec, config=planned.config, repo=Path(repo), options=found, tell=tell)
    _submitted[run_id] = planned.config
    return run_id


def run(
    source: Source_,
    *,
    repo: Path | str = ".",
    jobs: int | None = None,
    options: SubmitOptions | None = None,
    take: bool = True,
    on_event: Callable[[Event], None] | None = None,
    config: Config | None = None,
    tell: Callable[[str], None] | None = None,
    **about: Any,
) -> RunResult:
    """Run a feature to its end and land it (`take`), as `agentflow run` does; `about` is what `plan` takes.

    `jobs`: nodes at once. `on_event` is called for each transition. A failed run is a result like any
    other, see its `state` and `failed_nodes`. An exception (Ctrl-C too) leaves the run going.
    """
    planned = plan(source, repo=repo, config=config, tell=tell, **about)
    run_id = submit(planned, repo=repo, jobs=jobs, options=options or SubmitOptions(), tell=tell)
    for event in runs.follow(run_id, config=planned.config):
        if on_event:
            on_event(event)
    finished = runs.finish(run_id, config=planned.config, take=take)
    _submitted.pop(run_id, None)
    return finished


def _monitor(config: Config | None) -> Monitor:
    config = config or load_config(Path.cwd())
    service.ensure(config, worker=False)
    return Monitor(config)


def status(run_id: str | None = None, *, config: Config | None = None) -> RunStatus:
    """A run with its nodes as they are now; by its id, the beginning of one, or none for the newest."""
    monitor = _monitor(config)
    return monitor.status(monitor.resolve(run_id))


def result(run_id: str | None = None, *, config: Config | None = None) -> RunResult:
    """What a run came to, or has come to so far."""
    config = config or load_config(Path.cwd())
    return runs.result(_monitor(config).resolve(run_id), config=config)


def watch(
    names: str | Sequence[str], callback: Callable[[Event], None], *, config: Config | None = None
) -> Watch:
    """Call back, in a thread, for each transition of these runs and nodes; `stop` the handle or use `with`.

    A name is a run's id (its transitions so far come first), a node's id (of any run, from now on) or
    `RUN/NODE`.
    """
    config = config or load_config(Path.cwd())
    service.ensure(config, worker=False)
    watching = Watch([names] if isinstance(names, str) else list(names), callback, config.client_url())
    _watches.append(watching)
    return watching


def shutdown(wait: bool = True, *, config: Config | None = None) -> bool:  # noqa: FBT001, FBT002 (as executors have it)
    """End what this process began: its runs, its watches, and with them the private server and worker.

    With `wait` its runs are seen through to their end first; without, running attempts are handed back and
    `agentflow resume` goes on. The private server stays when somebody else's runs are open. Returns whether
    it was taken down; a Redis that is configured is left alone.
    """
    config = config or load_config(Path.cwd())
    url = config.client_url()
    mine = {run_id for run_id, its in _submitted.items() if its.client_url() == url}
    private = config.redis_url is None
    if not private or service.status(config) is not None:
        for run_id in sorted(mine):
            _end(run_id, config, wait=wait)
    for run_id in mine:
        del _submitted[run_id]
    for watching in [found for found in _watches if found.url == url]:
        _watches.remove(watching)
        watching.stop()
    if not private or service.status(config) is None:
        return False
    if any(found.id not in mine for found in Monitor(config).open_runs()):
        return False
    return service.down(config)


def _end(run_id: str, config: Config, *, wait: bool) -> None:
    """See a run through to its end, or let nothing further of it start."""
    if wait:
        for _ in runs.follow(run_id, config=config):
            pass
    elif runs.result(run_id, config=config).state not in CLOSED:
        runs.drain(run_id, config=config)
