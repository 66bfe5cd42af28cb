"""From words to a spec: a run of one report node whose agent is the planner.

It is a run like any other: workers carry it, `status`, `why` and `cancel` know it, its log keeps what the
model said. `draft` starts it, sees it through and reads its report, which is a feature file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow import planner, runs
from agentflow.agents import OpenAIRunner, PlannerRunner, RoleBrief
from agentflow.config import Config
from agentflow.environment import Usage
from agentflow.errors import AgentflowError, ConfigError, ProviderError, UsageError
from agentflow.fields import slug
from agentflow.llm.endpoint import Endpoint
from agentflow.local import service
from agentflow.results import NodeResult
from agentflow.spec.models import Spec, Task
from agentflow.spec.reader import parse_spec
from agentflow.states import RunState

#: Seconds that a plan may take, repairs included.
PLAN_TIMEOUT_S = 900.0
#: What needs no model, for every error that says that one is missing.
WITHOUT_MODEL = "start without one: `agentflow plan --template fullstack`, or `agentflow init`"


class PlanningError(AgentflowError):
    """No plan came of the words; the run that tried has the conversation in its log."""

    code = "AF-PLAN"


@dataclass(frozen=True, slots=True)
class Draft:
    """A planned feature. `yaml` is its file; `rounds` counts the model's answers, the good one included."""

    spec: Spec
    yaml: str
    rounds: int
    usage: Usage
    run: str = ""


def draft(
    words: str,
    *,
    config: Config,
    repo: Path,
    files: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
) -> Draft:
    """Plan a feature for a repository from words. `files` are told to the model with their text.

    Raises `PlanningError` when no usable plan came out, `ConfigError` when no model is configured. Ctrl-C
    cancels the run.
    """
    words = words.strip()
    if not words:
        raise UsageError("there are no words to plan from", fix="say what is to be built")
    say = tell or (lambda _note: None)
    spec = _spec(words, config, files)
    service.ensure(config, worker=False)
    run_id = runs.submit(spec, config=config, repo=repo, tell=tell)
    try:
        service.ensure(config)
        say(f"planning: run {run_id}")
        for event in runs.follow(run_id, config=config):
            if event.kind in ("node.retry", "node.delayed", "node.lost") and event.reason:
                say(f"planning: {event.reason}")
    except KeyboardInterrupt:
        runs.cancel(run_id, config=config)
        raise
    return _read(run_id, config)


def save(drafted: Draft, file: Path) -> Path:
    """Write the feature file as `save_text` does. Returns it."""
    return save_text(drafted.yaml, file)


def save_text(content: str, file: Path) -> Path:
    """Write a feature file; one that is there is left alone and `-2`, `-3` ... is tried. Returns it."""
    stem, suffix = file.stem, file.suffix or ".yaml"
    for number in range(1, 1000):
        place = file.with_name(f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        try:
            with place.open("x", encoding="utf-8") as stream:
                stream.write(content)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"cannot write {place}: {error.strerror}", fix="name another file") from error
        return place
    raise UsageError(f"{file} and a thousand names like it are taken", fix="name another file")


def file_for(drafted: Draft, directory: Path) -> Path:
    """Where a draft goes that nobody named a file for: `FEATURE.yaml`."""
    return directory / f"{slug(drafted.spec.feature, 'feature')}.yaml"


# -- the run ---------------------------------------------------------------------------------------


def _spec(words: str, config: Config, files: Sequence[str]) -> Spec:
    runner = planner_runner(words, config, files)
    short = " ".join(words.split())
    task = Task(
        id=planner.NODE,
        role=planner.ROLE,
        title="Plan the feature",
        prompt=words,
        output="report",
        runner=runner,
        # What is wrong with an answer is repaired inside of the attempt, and a call is repeated there too.
        retries=0,
        timeout=PLAN_TIMEOUT_S,
    )
    return Spec(feature=f"Plan: {short}"[:200], tasks=(task,))


def planner_runner(words: str, config: Config, files: Sequence[str] = ()) -> PlannerRunner:
    """The runner of a planning run: an endpoint of the configuration, and what the model must know.

    The endpoint is `planner.runner`, else the default runner when that is a model, else the first runner
    that is one. Raises `ConfigError`.
    """
    settings: Any = getattr(config, "planner", None)
    chosen = _endpoint(config, getattr(settings, "runner", None))
    taken = (OpenAIRunner.model_fields.keys() & PlannerRunner.model_fields.keys()) - {"type"}
    shared = {name: getattr(chosen, name) for name in taken}
    model = getattr(settings, "model", None) or config.roles[planner.ROLE].model
    if model:
        shared["model"] = model
    made = PlannerRunner.model_validate(
        {
            **shared,
            "words": words,
            "files": tuple(files),
            "max_tasks": getattr(settings, "max_tasks", None) or planner.MAX_TASKS,
            "roles": {
                name: RoleBrief(aliases=role.aliases, instructions=role.instructions)
                for name, role in config.roles.items()
            },
        }
    )
    if config.redis_url is None:
        _check_endpoint(made)
    return made


def _endpoint(config: Config, name: str | None) -> OpenAIRunner | PlannerRunner:
    models = {
        key: runner
        for key, runner in config.runners.items()
        if isinstance(runner, OpenAIRunner | PlannerRunner)
    }
    for wanted in [name] if name else [config.default_runner, *models]:
        if wanted in models:
            return models[wanted]
    raise ConfigError(
        f"the runner {name!r} cannot plan: it is no model behind an endpoint"
        if name
        else "planning from words needs a model, and no runner is one",
        why="the planner asks a model for a plan; an agent that is a command cannot be asked",
        fix=f"set planner.runner to a runner of type openai, or {WITHOUT_MODEL}",
        code="AF-PLAN-002",
    )


def _check_endpoint(runner: PlannerRunner) -> None:
    """Refuse before anything starts what the worker of this machine would refuse too."""
    try:
        Endpoint.read(runner.model_dump(mode="json"), os.environ)
    except (ConfigError, ProviderError) as error:
        raise ConfigError(
            f"planning from words needs a model: {error.what}",
            why=error.why,
            fix=f"{error.fix}; or {WITHOUT_MODEL}",
            code="AF-PLAN-002",
        ) from None


def _read(run_id: str, config: Config) -> Draft:
    result = runs.finish(run_id, config=config)
    node = result.nodes[planner.NODE]
    if result.state != RunState.LANDED:
        raise _no_plan(run_id, result.state, result.reason, node, config)
    text = runs.open_ledger(config).texts(run_id).get(planner.NODE, "")
    # The checks once more, with this configuration: the worker may have another one.
    spec = parse_spec(text, name=f"the plan of {run_id}", config=config)
    return Draft(spec, text, planner.rounds_of(text), Usage(**node.usage), run_id)


def _no_plan(run_id: str, state: str, reason: str, node: NodeResult, config: Config) -> PlanningError:
    record = runs.open_ledger(config).node(run_id, planner.NODE)
    what = node.reason or reason or f"the run is {state}"
    first, _, more = record.feedback.partition("\n")
    why = more if record.reason.endswith(first) else record.feedback
    logs = f"`agentflow logs {run_id} {planner.NODE}` shows what was asked and answered"
    error = PlanningError(
        f"no plan came of the words: {what}",
        why=why.strip(),
        fix="; ".join(filter(None, (node.fix, logs, WITHOUT_MODEL))),
        code=record.code if record.code.startswith("AF-PLAN") else "",
    )
    if state in (RunState.CANCELLED, RunState.CANCELLING, RunState.PAUSED, RunState.DRAINING):
        error.exit_code = type(error.exit_code).INTERRUPTED
    return error
