"""The planner as an agent: words in, a feature file out, carried and shown like any other node.

It looks at the clone that it is given (names of files, the beginning of some) and talks to one model;
it runs nothing and writes nothing there. Its report is the YAML.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from agentflow import planner
from agentflow.agents import RoleConfig
from agentflow.config import Config
from agentflow.environment import Environment, Job, Outcome
from agentflow.errors import ConfigError, ProviderError
from agentflow.llm.client import ChatModel
from agentflow.llm.endpoint import Endpoint
from agentflow.planner import Answer, Message, Request
from agentflow.runners import transcript
from agentflow.runners.transcript import note

#: What tells how a repository is built and tested; the beginning of those that are there is told.
MANIFESTS = (
    "README.md", "README.rst", "pyproject.toml", "tox.ini", "setup.cfg", "package.json", "Makefile",
    "justfile", "go.mod", "Cargo.toml", "pom.xml", "build.gradle", "Gemfile", "composer.json",
)  # fmt: skip
MANIFEST_CHARS = 1_500
#: Of a file that the request names.
FILE_CHARS = 20_000
#: Of all excerpts together.
EXCERPTS_CHARS = 80_000
#: Names of files that are looked at; a larger repository is told by a part of it.
PATHS_MAX = 200_000
#: Statuses of an endpoint that does not know structured output.
_NO_SCHEMA = frozenset({400, 415, 422, 501})


class PlannerRunner:
    """Plans with the model that its runner configuration names."""

    def run(self, job: Job, environment: Environment) -> Outcome:
        """Make a plan; raises `PlanRefusedError` after the last repair, or what the endpoint raises."""
        if job.output != "report":
            raise ConfigError("a planner changes no file", fix="give its task `output: report`")
        endpoint = Endpoint.read(job.runner, os.environ)
        config = config_of(job.runner)
        request = request_of(job, environment.root)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a", encoding="utf-8", errors="replace", buffering=1) as log:
            model = ChatModel(
                endpoint,
                stop=job.stop,
                deadline=job.deadline,
                charge=job.meter.charge,
                reserve=job.meter.reserve,
                note=lambda text: note(log, text),
                gate=job.gate,
            )
            with model:
                planned = _Conversation(job, model, log).plan(request, config)
        tasks = len(planned.spec.tasks)
        return Outcome(
            summary=f"{tasks} task{'s' if tasks != 1 else ''} planned in {planned.rounds} "
            f"answer{'s' if planned.rounds != 1 else ''}",
            handoff=planned.yaml,
            usage=job.meter.usage,
        )


class _Conversation:
    """Asks the model and keeps what was said, a plan that was refused too."""

    def __init__(self, job: Job, model: ChatModel, log: TextIO) -> None:
        self.job = job
        self.model = model
        self.log = log
        self.said: list[Message] = []
        self.answered_by = ""
        self.structured = True

    def plan(self, request: Request, config: Config) -> planner.Planned:
        """The whole conversation; its transcript is saved however it ends."""
        ending = "interrupted"
        try:
            planned = planner.plan(self.ask, request, config, model=self.model.endpoint.model)
            ending = "planned"
        except Exception as error:
            ending = f"{type(error).__name__}: {error}"
            raise
        finally:
            facts = {"answered_by": self.answered_by, "ending": ending}
            transcript.save(self.job, self.model.endpoint, self.said, facts)
            note(self.log, f"ended: {ending}")
        return planned

    def ask(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> Answer:
        """One answer; an endpoint that refuses structured output is asked again without."""
        told = messages[len(self.said) :] if self.said else messages
        self.said = list(messages)
        note(self.log, f"told: {told[-1]['content'][:2000]}")
        try:
            reply = self.model.complete(messages, schema=schema if self.structured else None)
        except ProviderError as error:
            if not self.structured or error.status not in _NO_SCHEMA:
                raise
            note(self.log, f"{error.what}; asking again without structured output")
            self.structured = False
            reply = self.model.complete(messages)
        self.answered_by = reply.model
        self.said = [*messages, {"role": "assistant", "content": reply.text}]
        note(self.log, f"answered: {reply.text}")
        return Answer(reply.text, cut=reply.finish == "length")


def config_of(runner: Mapping[str, Any]) -> Config:
    """What the checks must know of the submitter's configuration: its roles."""
    roles = runner.get("roles") or {}
    if not roles:
        return Config()
    return Config(roles={name: RoleConfig(name=name, **about) for name, about in roles.items()})


def request_of(job: Job, root: Path) -> Request:
    """The job as a request, with what can be seen of the repository at `root`."""
    paths = list(_files(root))
    named = dict.fromkeys(job.runner.get("files") or (), FILE_CHARS)
    manifests = {name: MANIFEST_CHARS for name in MANIFESTS if name in paths and name not in named}
    return Request(
        words=str(job.runner.get("words") or job.prompt),
        paths=paths,
        excerpts=_excerpts(root, {**named, **manifests}),
        instructions=job.instructions,
        max_tasks=int(job.runner.get("max_tasks") or planner.MAX_TASKS),
    )


def _files(root: Path) -> Iterator[str]:
    """The files of the checkout, by their paths; git's own are left out."""
    count = 0
    for place, directories, names in os.walk(root):
        directories[:] = sorted(d for d in directories if d != ".git")
        for name in sorted(names):
            count += 1
            if count > PATHS_MAX:
                return
            yield (Path(place) / name).relative_to(root).as_posix()


def _excerpts(root: Path, wanted: Mapping[str, int]) -> dict[str, str]:
    """The beginning of each of these files that is a file of the repository and text."""
    found: dict[str, str] = {}
    left = EXCERPTS_CHARS
    top = root.resolve()
    for path, most in wanted.items():
        place = (root / path).resolve()
        if left <= 0 or not place.is_file() or not place.is_relative_to(top):
            continue
        with place.open("rb") as file:
            text = file.read(min(most, left)).decode("utf-8", "ignore")
        if text.strip() and "\0" not in text:
            found[path] = text
            left -= len(text)
    return found
