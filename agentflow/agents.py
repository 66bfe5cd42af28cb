"""Roles and runners: what kinds of agent there are, and what does their work."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from agentflow.fields import (
    AtLeastOne,
    Command,
    Count,
    Duration,
    Environ,
    Name,
    Number,
    Pattern,
    PlainPath,
    Text,
)
from agentflow.places import Source, read_yaml

Priority = Literal["critical", "high", "medium", "low"]


class Closed(BaseModel):
    """A frozen model that refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CommandRunner(Closed):
    """A command-line agent. Its words may hold {prompt_file} {workspace} {task} {python}."""

    type: Literal["command"] = "command"
    command: Command = Field(description="The agent: a list of words, or a string that is split")
    env: Environ = Field(default_factory=dict, description="Its environment, besides the task's")
    pass_env: tuple[Text, ...] = Field(default=(), description="Variables of the worker that it may see")
    timeout: Duration | None = Field(default=None, description="Longest time of one call")


class Prices(Closed):
    """US dollars per million tokens."""

    input: Number = Field(default=0.0, description="US dollars per million tokens read")
    output: Number = Field(default=0.0, description="US dollars per million tokens written")


#: The published schema wants the type where a mapping alone would not tell it.
_SAYS_TYPE = ConfigDict(json_schema_extra={"required": ["type"]})


class _Endpoint(Closed):
    """A model behind an OpenAI-compatible endpoint; the runner has the default of each limit."""

    model_config = _SAYS_TYPE

    base_url: Text | None = Field(default=None, description="The endpoint (OPENAI_BASE_URL, else OpenAI's)")
    api_key_env: Text = Field(default="OPENAI_API_KEY", description="The variable that holds the key")
    model: Text | None = Field(default=None, description="The model (AGENTFLOW_MODEL; a role may say)")
    max_output_tokens: AtLeastOne | None = Field(default=None, description="Tokens of one answer")
    max_retries: Count | None = Field(default=None, description="Repeats of a call that may succeed later")
    backoff_s: Number | None = Field(default=None, description="Wait before the first repeat; then doubled")
    temperature: Number | None = Field(default=None, description="0: the likeliest word (a role may say)")
    prices: Prices = Field(default_factory=Prices)
    headers: dict[str, Text] = Field(default_factory=dict, description="Further headers of each request")


class OpenAIRunner(_Endpoint):
    """A tool loop against an OpenAI-compatible endpoint; the runner has the default of each limit."""

    type: Literal["openai"] = "openai"
    max_turns: AtLeastOne | None = Field(default=None, description="Calls of the model in one attempt")
    max_calls: AtLeastOne | None = Field(default=None, description="Calls of tools in one attempt")
    max_total_tokens: AtLeastOne | None = Field(default=None, description="Tokens of one attempt")


class RoleBrief(Closed):
    """What a planner must know of a role: its other words and what it is for."""

    aliases: tuple[Name, ...] = ()
    instructions: str = ""


class PlannerRunner(_Endpoint):
    """Makes a feature file of words; what it knows of the house travels with it (no worker's own file)."""

    type: Literal["planner"] = "planner"
    words: Text | None = Field(default=None, description="What is asked for (the task's prompt)")
    files: tuple[PlainPath, ...] = Field(default=(), description="Files whose text is told to the model")
    roles: dict[Name, RoleBrief] = Field(default_factory=dict, description="Roles to choose from (built-in)")
    max_tasks: AtLeastOne | None = Field(default=None, description="Tasks of one plan")


class NoopRunner(Closed):
    """Does nothing for some seconds: for benchmarks and tests of the machinery."""

    model_config = _SAYS_TYPE

    type: Literal["noop"] = "noop"
    seconds: Number = Field(default=0.0, description="How long it does nothing")
    calls: AtLeastOne = Field(default=1, description="How often it spends `usd` and `tokens`")
    usd: Number = Field(default=0.0, description="US dollars that each call says to have cost")
    tokens: Count = Field(default=0, description="Tokens that each call says to have read")


def _runner_kind(value: Any) -> str | None:
    """Which runner a mapping describes; only one with a `command` need not say its type.

    The tags are no keys of a runner, so that they can be told from keys in the location of an error.
    """
    if isinstance(value, BaseModel):
        return f"{getattr(value, 'type', None)} runner"
    if not isinstance(value, dict):
        return "command runner"
    given = value.get("type", "command" if "command" in value else None)
    return None if given is None else f"{given} runner"


RunnerConfig = Annotated[
    Annotated[CommandRunner, Tag("command runner")]
    | Annotated[OpenAIRunner, Tag("openai runner")]
    | Annotated[PlannerRunner, Tag("planner runner")]
    | Annotated[NoopRunner, Tag("noop runner")],
    Discriminator(_runner_kind),
]
#: In a spec: the name of a configured runner, or a whole one.
RunnerChoice = Annotated[
    Annotated[Name, Tag("name")]
    | Annotated[CommandRunner, Tag("command runner")]
    | Annotated[OpenAIRunner, Tag("openai runner")]
    | Annotated[PlannerRunner, Tag("planner runner")]
    | Annotated[NoopRunner, Tag("noop runner")],
    Discriminator(lambda value: _runner_kind(value) if isinstance(value, (dict, BaseModel)) else "name"),
]


class RoleSettings(Closed):
    """What a configuration file may say about a role; what it leaves out stays as it is."""

    aliases: tuple[Name, ...] = Field(default=(), description="Other words for it, besides NAME-engineer")
    instructions: str = Field(default="", description="Told to the agent before the task's prompt")
    runner: Name | None = Field(default=None, description="A configured runner's name")
    model: Text | None = Field(default=None, description="The model for this role (the runner's)")
    temperature: Number | None = Field(default=None, description="For this role (the runner's)")
    max_tokens: AtLeastOne | None = Field(default=None, description="Tokens of one answer (the runner's)")
    tools: tuple[Text, ...] | None = Field(default=None, description="The tools it may use (all)")
    max_concurrent: Count = Field(default=0, description="Attempts of the role at once; 0: no limit")
    priority: Priority | None = Field(default=None, description="critical, high, medium or low (medium)")
    artifacts: tuple[Pattern, ...] = Field(default=(), description="For change tasks that declare none")
    depends_on: tuple[Name, ...] = Field(
        default=(),
        description="Roles, or what roles provide, whose tasks come before those that declare no needs",
    )
    provides: tuple[Name, ...] = Field(default=(), description="Names that other roles may depend on")


class RoleConfig(RoleSettings):
    """A role with its name."""

    name: Name


@functools.cache
def builtin_roles() -> dict[str, RoleConfig]:
    """The roles that need no configuration, from roles.yaml."""
    source = Source("roles.yaml", "AF-CONFIG")
    node, _ = read_yaml(files("agentflow").joinpath("roles.yaml").read_text("utf-8"), source)
    return {name: RoleConfig(name=name, **settings) for name, settings in node.plain().items()}


def default_runners() -> dict[str, RunnerConfig]:
    """The runners that need no configuration."""
    return {"openai": OpenAIRunner(), "noop": NoopRunner()}


def find_role(word: str, roles: Mapping[str, RoleSettings]) -> str | None:
    """The role that a name, an alias, `NAME-engineer` or `NAME-developer` stands for, or None."""
    name = re.sub(r"[\s_]+", "-", word.strip().lower())
    for candidate in (name, name.removesuffix("-engineer"), name.removesuffix("-developer")):
        if candidate in roles:
            return candidate
        for role, settings in roles.items():
            if candidate in settings.aliases:
                return role
    return None
