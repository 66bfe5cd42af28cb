"""The tools that move a run: plan, start, wait, pause, resume, cancel, land."""

from __future__ import annotations

import contextlib
from typing import Annotated

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context
from pydantic import Field

from agentflow import drafting, fleet, graph, runs
from agentflow.canvas.plan import make_plan
from agentflow.canvas.spending import parse_changes
from agentflow.config import Config
from agentflow.errors import RepositoryError, UsageError
from agentflow.local import service
from agentflow.mcp_server import shapes, views
from agentflow.mcp_server.calls import BEAT_S, Beat, Tell, told, with_config
from agentflow.mcp_server.project import Project
from agentflow.monitor import RunStatus
from agentflow.runs.submitting import slug
from agentflow.spec.models import Spec
from agentflow.spec.reader import load_spec, parse_spec
from agentflow.states import CLOSED, RunState

#: Seconds between two looks at a run that is waited for.
LOOK_S = 0.5
#: Longest and usual wait of one call; clients have limits of their own, and a wait can be repeated.
WAIT_MAX_S, WAIT_S = 3600, 120

SpecText = Annotated[str | None, Field(description="The spec itself, YAML or JSON")]
SpecFile = Annotated[str | None, Field(description="A feature file, relative to the directory of the server")]
RunId = Annotated[str, Field(min_length=1, description="The run's id, or the beginning of it")]
AnyRun = Annotated[str | None, Field(description="A run's id or its beginning; without it the newest run")]
ConfirmToken = Annotated[
    str | None, Field(description="From the error of the first call, which does nothing but ask")
]


class RunTools:
    """Each method is a tool; its docstring is what a model reads of it."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def plan(
        self,
        context: Context,
        words: Annotated[
            str | None, Field(description="What is to be built, in plain words; a model plans it")
        ] = None,
        files: Annotated[list[str] | None, Field(description="Files that the words are about")] = None,
        spec: SpecText = None,
        file: SpecFile = None,
    ) -> shapes.Planned:
        """Turn words into a spec, or check a spec; answers with the spec, its waves and critical path.

        Give exactly one of words, spec and file. Nothing is run and no branch is touched.
        """

        def work(config: Config, tell: Tell) -> shapes.Planned:
            _exactly_one(words=words, spec=spec, file=file)
            if words is None:
                found, text = self._read(spec, file, config)
                return _planned(found, text, config)
            draft = drafting.draft(
                words, config=config, repo=self._project.directory, files=tuple(files or ()), tell=tell
            )
            return _planned(draft.spec, draft.yaml, config, draft.rounds)

        with told():
            return await with_config(self._project, context, "planning", work)

    async def run_start(
        self,
        context: Context,
        spec: SpecText = None,
        file: SpecFile = None,
        only: Annotated[list[str] | None, Field(description="Only these nodes and what they need")] = None,
        jobs: Annotated[int | None, Field(ge=1, description="Nodes at once")] = None,
        timeout_s: Annotated[float | None, Field(gt=0, description="Longest time of the whole run")] = None,
        budget: Annotated[
            list[str] | None, Field(description="What it may spend: usd=5, tokens=100000, backend.usd=2")
        ] = None,
    ) -> shapes.Started:
        """Start a run of a spec (from `plan`, or a feature file) and return at once with its id.

        Agents work in their own copies; the repository's checkout and branches stay as they are until
        run_land. Give exactly one of spec and file.
        """

        def work(config: Config, _tell: Tell) -> shapes.Started:
            _exactly_one(spec=spec, file=file)
            found, text = self._read(spec, file, config)
            notes: list[str] = []
            service.ensure(config, worker=False)
            options = runs.SubmitOptions(
                only=tuple(only or ()),
                jobs=jobs,
                timeout_s=timeout_s,
                detach=True,
                spec_text=text,
                budget=tuple(parse_changes(budget or (), config)),
            )
            run_id = runs.submit(
                found, config=config, repo=self._project.directory, options=options, tell=notes.append
            )
            service.ensure(config)
            run = self._project.monitor(config).run(run_id)
            standing = fleet.status(config)
            if standing.drained:
                notes.append(
                    f"the fleet is drained ({standing.reason}): nothing starts until scale_workers ends that"
                )
            return shapes.Started(
                run=run.id,
                state=run.state.value,
                feature=run.feature,
                target=run.target,
                total=run.nodes_total,
                notes=notes,
                next=views.what_next(run),
            )

        with told():
            return await with_config(self._project, context, "starting", work)

    async def run_wait(
        self,
        context: Context,
        run: AnyRun = None,
        timeout_s: Annotated[
            float, Field(gt=0, le=WAIT_MAX_S, description="Seconds; then the answer says finished: false")
        ] = WAIT_S,
    ) -> shapes.RunView:
        """Wait until a run has come to rest, or for timeout_s; reports progress meanwhile.

        An answer with finished: false is no failure: call it again.
        """
        beat, said, told_at = Beat(context), "", 0.0
        deadline = anyio.current_time() + timeout_s
        with told():
            status = await anyio.to_thread.run_sync(self._begin_waiting, run)
            while not views.at_rest(status.run) and (now := anyio.current_time()) < deadline:
                line = views.progress_line(status)
                if line != said or now - told_at > BEAT_S:
                    said, told_at = line, now
                    await beat.tell(status.done, status.total, line)
                await anyio.sleep(min(LOOK_S, deadline - now))
                status = await anyio.to_thread.run_sync(self._look, status.run.id)
            if views.at_rest(status.run):
                await anyio.to_thread.run_sync(self._publish, status)
        await beat.tell(status.done, status.total, views.progress_line(status))
        return views.run_view(status)

    async def run_cancel(
        self, context: Context, run: RunId, confirm_token: ConfirmToken = None
    ) -> shapes.Cancelled:
        """End a run: waiting nodes are cancelled now, running ones within seconds.

        What succeeded is kept. Needs a confirmation: the first call fails with a token for the second.
        """

        def work(config: Config, _tell: Tell) -> shapes.Cancelled:
            status = self._project.monitor(config).status(self._resolve(config, run))
            if status.run.state not in CLOSED:
                left = status.total - status.done
                self._project.confirm(
                    config,
                    "run_cancel",
                    {"run": status.run.id},
                    token=confirm_token,
                    what=f"it ends run {status.run.id} ({status.run.feature}): {left} of {status.total} nodes"
                    f" are not done, {status.run.running} of them running",
                )
                runs.cancel(status.run.id, config=config)
            return shapes.Cancelled(
                run=status.run.id, state=self._project.monitor(config).run(status.run.id).state.value
            )

        with told():
            return await with_config(self._project, context, "cancelling", work)

    async def run_pause(
        self,
        context: Context,
        run: RunId,
        reason: Annotated[str | None, Field(description="Told to whoever asks why nothing starts")] = None,
    ) -> shapes.Paused:
        """Let nothing further of a run start; running nodes go on to their end, and nothing is lost.

        It holds until run_resume.
        """

        def work(config: Config, _tell: Tell) -> shapes.Paused:
            run_id = self._resolve(config, run)
            told = "paused by its user" + (f": {reason}" if reason else "")
            state = runs.pause(run_id, config=config, reason=told)
            if state is not RunState.PAUSED:
                raise UsageError(
                    f"run {run_id} cannot be paused: it is {state.replace('_', ' ')}",
                    why="nothing of it is still to be started; nothing was changed",
                    fix="run_status tells more",
                    code="AF-RUN-006",
                )
            found = self._project.monitor(config).run(run_id)
            return shapes.Paused(
                run=run_id, state=state.value, running=max(0, found.running), next=views.what_next(found)
            )

        with told():
            return await with_config(self._project, context, "pausing", work)

    async def run_resume(
        self,
        context: Context,
        run: RunId,
        budget: Annotated[
            list[str] | None, Field(description="What it may spend from now on: usd=+5, tokens=100000")
        ] = None,
    ) -> shapes.RunView:
        """Go on with a run: end its pause, or do again what failed, was cancelled or was rolled back.

        What succeeded is kept. Returns at once; run_wait waits for its end.
        """

        def work(config: Config, tell: Tell) -> shapes.RunView:
            service.ensure(config)
            place = self._project.directory
            run_id = runs.find(run, config=config, repo=place)
            changes = parse_changes(budget or (), config)
            runs.resume(run_id, config=config, repo=place, tell=tell, budget=changes)
            return views.run_view(self._project.monitor(config).status(run_id))

        with told():
            return await with_config(self._project, context, "resuming", work)

    async def run_land(
        self, context: Context, run: RunId, confirm_token: ConfirmToken = None
    ) -> shapes.RunView:
        """Move the target branch to a run's tested result, all or nothing.

        A target that has moved meanwhile is not overwritten: the work is merged and validated on top of
        it. Needs a confirmation: the first call fails with a token for the second.
        """

        def work(config: Config, _tell: Tell) -> shapes.RunView:
            found = self._project.monitor(config).run(self._resolve(config, run))
            if found.state is RunState.READY_TO_LAND:
                self._project.confirm(
                    config,
                    "run_land",
                    {"run": found.id},
                    token=confirm_token,
                    what=f"it moves the branch {found.target} to {found.result[:12]} ({found.feature})",
                )
            runs.land(found.id, config=config, repo=self._project.directory)
            return views.run_view(self._project.monitor(config).status(found.id))

        with told():
            return await with_config(self._project, context, "landing", work)

    def _resolve(self, config: Config, run: str | None) -> str:
        return self._project.monitor(config).resolve(run)

    def _begin_waiting(self, run: str | None) -> RunStatus:
        config = self._project.config()
        monitor = self._project.monitor(config)
        status = monitor.status(monitor.resolve(run))
        if not views.at_rest(status.run):
            service.ensure(config)
        return status

    def _look(self, run_id: str) -> RunStatus:
        return self._project.monitor(self._project.config()).status(run_id)

    def _publish(self, status: RunStatus) -> None:
        """Bring what came out into the run's repository as hidden refs, when that one or a clone is here."""
        with contextlib.suppress(RepositoryError):
            runs.finish(
                status.run.id, config=self._project.config(), take=False, repo=self._project.directory
            )

    def _read(self, spec: str | None, file: str | None, config: Config) -> tuple[Spec, str]:
        """The spec that was given and its text. Raises `SpecError` with everything that is wrong with it."""
        if spec is not None:
            return parse_spec(spec, name="spec", config=config), spec
        path = self._project.directory / str(file)
        if not path.is_file():
            raise UsageError(
                f"there is no file {file} in {self._project.directory}",
                fix="give a path relative to that directory, or the spec's text as `spec`",
                code="AF-USAGE-001",
            )
        return load_spec(path, config), path.read_text("utf-8")


def _exactly_one(**given: str | None) -> None:
    present = [name for name, value in given.items() if value is not None]
    if len(present) != 1:
        raise UsageError(
            f"given together: {', '.join(present)}" if present else "nothing was given to work on",
            fix=f"give exactly one of {', '.join(given)}",
        )


def _planned(spec: Spec, text: str, config: Config, rounds: int = 0) -> shapes.Planned:
    made = make_plan(spec, config)
    return shapes.Planned(
        feature=made.feature,
        target=made.target or f"agentflow/{slug(made.feature)}",
        spec=text,
        tasks=[
            shapes.PlannedTask(
                id=node.id,
                role=node.role,
                needs=list(made.parents[node.id]),
                artifacts=list(node.artifacts) if node.declared else [],
                output=node.output,
                optional=node.optional,
            )
            for node in made.nodes
        ],
        waves=[list(wave) for wave in graph.waves(made.parents)],
        critical_path=list(graph.critical_path(made.parents, dict.fromkeys(made.parents, 1.0))),
        rounds=rounds,
        notes=list(spec.notes),
    )
