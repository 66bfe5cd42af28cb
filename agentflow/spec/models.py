"""The spec: what a feature asks for, as models that YAML, JSON and Python share.

Models say what a field may hold; what must hold between fields is in `checks.py`, and both together
are what `load_spec` and `check_spec` promise. Fields of later versions are here already: they are in
the published schema, and giving one is refused with "not built yet".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
)

from agentflow.agents import Priority, RunnerChoice
from agentflow.config.budget import Amount, Dollars, Spendable, dollars
from agentflow.config.sections import QueueName
from agentflow.fields import (
    Artifact,
    AtLeastOne,
    Commands,
    Count,
    Delay,
    Duration,
    Environ,
    Flag,
    Name,
    NotBuilt,
    Pattern,
    PlainPath,
    Text,
    not_built,
    refusal,
)

DEFAULT_RETRIES = 2
#: Tasks of a feature, those that for_each and shards make counted.
TASKS_MAX = 10_000
CONDITION_MAX_CHARS = 500


def _refuse_value(later: str, schema: list[str]) -> tuple[BeforeValidator, WithJsonSchema]:
    """Refuse one value of a choice as not built yet; the published schema knows it already."""

    def check(value: Any) -> Any:
        if value == later:
            raise not_built(f"{later!r}")
        return value

    return BeforeValidator(check), WithJsonSchema({"enum": [*schema, later]})


_output = _refuse_value("effect", ["change", "report"])
Output = Annotated[Literal["change", "report"], *_output]
OnFailure = Literal["continue", "stop", "rollback"]


_BASE = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._/~^@{}+-]{0,199}")
_TARGET = re.compile(r"(?!refs/)(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)|[./]$))[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")


def _ref(pattern: re.Pattern[str], what: str, fix: str) -> tuple[BeforeValidator, WithJsonSchema]:
    """A name that git takes for no option and no shell for a command."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and not pattern.fullmatch(value):
            raise refusal("014", f"this cannot be the name of {what}", fix)
        return value

    return BeforeValidator(check), WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern.pattern})$"})


_base = _ref(_BASE, "a commit to start from", "for example HEAD, main, origin/main or v1.2")
_target = _ref(_TARGET, "a branch", "for example agentflow/my-feature")
BaseRef = Annotated[Text, *_base]
TargetRef = Annotated[Text, *_target]


def _items(value: Any) -> Any:
    """The list of `[a, b]` or of `{items: [a, b]}`."""
    if not isinstance(value, dict):
        return value
    if set(value) != {"items"}:
        raise refusal("060", "for_each takes a list, or a mapping with items:", "for_each: [auth, billing]")
    return value["items"]


def _item(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise refusal("060", "an item is a word or a whole number", "write it in quotes")
    return str(value)


def _each_once(items: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise refusal("060", f"the item {item!r} stands there twice", "name each item once")
        seen.add(item)
    return items


_item_schema: dict[str, Any] = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]}
_items_schema: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": TASKS_MAX,
    "uniqueItems": True,
    "items": _item_schema,
}
#: What a task is repeated for: a list, or a mapping with one below `items`.
ForEach = Annotated[
    tuple[Annotated[str, BeforeValidator(_item)], ...],
    Field(min_length=1, max_length=TASKS_MAX),
    AfterValidator(_each_once),
    BeforeValidator(_items),
    WithJsonSchema(
        {
            "anyOf": [
                _items_schema,
                {
                    "type": "object",
                    "required": ["items"],
                    "additionalProperties": False,
                    "properties": {"items": _items_schema},
                },
            ]
        }
    ),
]
Shards = Annotated[int, Field(strict=True, ge=1, le=TASKS_MAX)]
Strategy = Literal["concurrent", "pipeline", "hybrid"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


class Setup(_Model):
    """What a workspace needs before anything runs; done once per machine and key."""

    commands: Commands = Field(min_length=1, description="Commands, run in order at the top of a workspace")
    key: tuple[PlainPath, ...] = Field(default=(), description="Files whose content keys the cache")
    keep: tuple[PlainPath, ...] = Field(default=(), description="Directories to keep, read-only to attempts")


class Budget(Amount):
    """What the run may spend; a bare number means dollars."""

    roles: dict[Text, Spendable] = Field(
        default_factory=dict, description="Of all tasks of a role, by role: dollars or {usd, tokens}"
    )
    node: Spendable = Field(default_factory=Amount, description="Of each task that does not say")


RunBudget = Annotated[Budget, BeforeValidator(dollars, json_schema_input_type=Dollars | Budget)]


class Classes(_Model):
    """How many tasks of each complexity run at once; 0: as many as there is room for."""

    high: Count = Field(default=1, description="Tasks with complexity: high")
    medium: Count = Field(default=2, description="Tasks with complexity: medium")
    low: Count = Field(default=0, description="Tasks with complexity: low")


class Policy(_Model):
    """What holds for the whole run."""

    on_failure: OnFailure = Field(
        default="continue",
        description="continue: run all that can still run; stop: start nothing more; rollback: and undo it",
    )
    max_concurrent: AtLeastOne | None = Field(default=None, description="Attempts at once in this run")
    strict_artifacts: Flag = Field(default=False, description="Refuse change tasks without artifacts")
    retries: Count = Field(default=DEFAULT_RETRIES, description="Further attempts, for tasks that do not say")
    retry_delay: Delay | None = Field(default=None, description="Back-off base, for tasks that do not say")
    timeout: Duration | None = Field(
        default=None, description="Time of an attempt, for tasks that do not say"
    )
    queue_timeout: Duration | None = Field(
        default=None, description="Longest wait of a node that can start, for tasks that do not say"
    )
    constraints: dict[str, Any] = Field(
        default_factory=dict, description="Limits of other systems' files, kept as they are"
    )
    goal: Text | None = Field(
        default=None, description="What other systems' files optimise for, kept as it is"
    )
    complexity: Classes = Field(
        default_factory=Classes, description="How many tasks of each complexity run at once (1, 2, all)"
    )
    exclusive: Flag = Field(
        default=False,
        description="Begin only when no other exclusive run of the repository may write what this one may",
    )


class Stage(_Model):
    """A stage of a pipeline: its tasks need all tasks of the stage before it."""

    stage: Name = Field(description="Its name")
    agents: tuple[Text, ...] = Field(min_length=1, description="The roles whose tasks are of this stage")
    parallel: Flag = Field(default=True, description="false: its tasks run one after the other")


class Rule(_Model):
    """Of a hybrid: which tasks take their place in the stages and which follow their needs only."""

    condition: Annotated[Text, Field(max_length=CONDITION_MAX_CHARS)] | None = Field(
        default=None,
        description="For example: tasks > 5, role == backend, tag == slow and not priority == low",
    )
    strategy: Literal["concurrent", "pipeline"] = Field(
        description="pipeline: they take their place in the stages; concurrent: they follow their needs"
    )
    agents: tuple[Text, ...] = Field(default=(), description="For tasks of these roles only (all)")


class Task(_Model):
    """One node of the feature's DAG."""

    id: Name = Field(description="Unique in the spec")
    role: Text = Field(description="What kind of agent: a role's name or alias")
    title: Text | None = Field(default=None, description="A short name for people")
    description: Text | None = Field(
        default=None, description="More for people; the prompt when there is none"
    )
    prompt: Text | None = Field(default=None, description="What the agent is asked to do")
    output: Output = Field(default="change", description="change: one commit; report: text and a verdict")
    needs: tuple[Text, ...] = Field(default=(), description="Ids of tasks that must succeed first")
    inputs: tuple[Text, ...] = Field(
        default=(), description="Ids of tasks before this one whose hand-off goes into its prompt (needs)"
    )
    artifacts: tuple[Artifact, ...] = Field(
        default=(),
        description="What it may write: a file, dir/** or dir/*.ext, locked while it runs; mode: read what "
        "nobody writes meanwhile, mode: append what it shares with others that append",
    )
    reads: tuple[Pattern, ...] = Field(
        default=(), description="Files to look at, named in the prompt; nothing is locked"
    )
    acceptance: Commands = Field(default=(), description="The task's own tests, run in a clean checkout")
    expect: Literal["green", "red_then_green", "none"] = Field(
        default="green",
        description="green: passes, no test lost; red_then_green: red before; none: not judged",
    )
    priority: Priority | None = Field(default=None, description="Which goes first (the role's, else medium)")
    timeout: Duration | None = Field(default=None, description="Time of one attempt: seconds, or 90s, 10m")
    queue_timeout: Duration | None = Field(
        default=None, description="Longest wait for a slot, a lock or a limit; then it fails (no limit)"
    )
    retries: Count | None = Field(default=None, description="Further attempts after a failure (2)")
    retry_delay: Delay | None = Field(default=None, description="Back-off base before another attempt (0)")
    optional: Flag = Field(default=False, description="Its failure does not fail what needs it")
    tags: tuple[Text, ...] = Field(default=(), description="Words to find it by")
    runner: RunnerChoice | None = Field(default=None, description="A configured runner's name, or one inline")
    env: Environ = Field(default_factory=dict, description="Environment of its commands")
    for_each: ForEach | None = Field(
        default=None, description="Once for each item: {item} in its texts is the item, ID-ITEM its id"
    )
    shards: Shards | None = Field(
        default=None, description="So many times; with for_each, its items split into so many parts"
    )
    shard: Text | None = Field(
        default=None, description="Tasks of one shard prefer one worker (for_each and shards say it)"
    )
    queue: QueueName | None = Field(default=None, description="The queue that it goes through (the spec's)")
    budget: Spendable | None = Field(
        default=None, description="What it may spend, all attempts together: dollars or {usd, tokens}"
    )
    complexity: Literal["low", "medium", "high"] | None = Field(
        default=None, description="low, medium or high: how many of them run at once (policy.complexity)"
    )


def _some_tasks(value: Any, handler: Callable[[Any], Any], info: ValidationInfo) -> Any:
    """Tasks, or a chain that stands alone."""
    if value == () and isinstance(value, tuple):
        if info.data.get("chain"):
            return value
        raise refusal("011", "the key 'tasks' is missing", "add it")
    return handler(value)


_needs_work = ConfigDict(json_schema_extra={"anyOf": [{"required": ["tasks"]}, {"required": ["chain"]}]})


class Spec(_Model):
    """A feature and the tasks that make it."""

    model_config = _needs_work

    feature: Text = Field(max_length=200, description="What is built, in a few words; names the branch")
    goal: Text | None = Field(default=None, description="More about it, told to every agent")
    description: Text | None = Field(default=None, description="More for people")
    base: BaseRef = Field(default="HEAD", description="The commit to start from: a branch, tag or commit")
    target: TargetRef | None = Field(default=None, description="The branch to land on (agentflow/<feature>)")
    setup: Setup | None = Field(default=None, description="What a workspace needs before anything runs")
    policy: Policy = Field(default_factory=Policy, description="What holds for the whole run")
    validation: Commands = Field(
        default=(), alias="validate", description="The tests of the merged tree; all must pass before landing"
    )
    runner: RunnerChoice | None = Field(default=None, description="For tasks that do not say")
    env: Environ = Field(default_factory=dict, description="Environment of all commands")
    queue: QueueName | None = Field(default=None, description="The queue of tasks that do not say")
    for_each: ForEach | None = Field(
        default=None, description="The chain once for each item; without a chain, every task"
    )
    shards: Shards | None = Field(
        default=None, description="The chain so many times (every task, without one); splits for_each's items"
    )
    chain: Annotated[tuple[Task, ...], Field(min_length=1, max_length=TASKS_MAX)] | None = Field(
        default=None, description="Tasks in a line, each needing the one before it"
    )
    strategy: Strategy | None = Field(
        default=None,
        description="concurrent: by needs; pipeline: stage by stage; hybrid: by rules (pipeline with stages)",
    )
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Stages of a pipeline, in order (design, implement, test, review, deploy)"
    )
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Of a hybrid: the first rule that fits a task says its strategy"
    )
    tasks: Annotated[
        tuple[Task, ...], Field(min_length=1, max_length=TASKS_MAX), WrapValidator(_some_tasks)
    ] = Field(
        default=(),
        validate_default=True,
        exclude_if=lambda tasks: not tasks,
        description="The nodes of the DAG",
    )
    budget: RunBudget | None = Field(
        default=None, description="What the run may spend: dollars or {usd, tokens, roles, node}"
    )
    hooks: NotBuilt = Field(default=None, description="Commands at checkpoint, merge, validate and land")
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read and has no effect yet; to be told before a run."""
        return self._notes

    def noting(self, notes: tuple[str, ...]) -> Spec:
        """The same spec with these notes."""
        copy = self.model_copy()
        object.__setattr__(copy, "_notes", notes)
        return copy
