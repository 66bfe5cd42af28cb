"""The tools of an agent that works through a model: read, search, list, edit, write, run, finish.

Each tool is a model of its arguments (its docstring is what the agent reads) and one method of
`Toolbox`. A tool that cannot do what it was asked answers with a text that starts with `error:`; the
agent sees it and goes on. Only `finish` ends the loop, by raising `Finished`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentflow.environment import Environment, Finding, Job, Outcome
from agentflow.process import Completed
from agentflow.runners.files import RefusedError, Tree
from agentflow.spec.artifacts import matches

MAX_RESULT_CHARS = 30_000
MAX_ENTRIES = 500
MAX_LINES = 1_000
#: Arguments longer than this are not parsed: no file that an agent writes in one go is that long.
MAX_ARGUMENT_CHARS = 500_000
#: Longer commands do not start on every system.
MAX_COMMAND_CHARS = 100_000
#: What a dependent's prompt is given of this node.
MAX_HANDOFF_CHARS = 16_000
SEARCH_TIMEOUT_S = 20.0
RUN_TIMEOUT_S = 300.0


class Finished(Exception):
    """The agent called `finish`; carries what it said."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.summary)
        self.outcome = outcome


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ReadArguments(_Arguments):
    """Read a text file of the workspace, whole or from a line on."""

    path: str = Field(description="relative to the workspace")
    start: int = Field(default=1, ge=1, description="first line, from 1")
    lines: int = Field(default=MAX_LINES, ge=1, le=MAX_LINES)


class SearchArguments(_Arguments):
    """Find lines that match an extended regular expression (grep -E), with file and line number."""

    pattern: str = Field(min_length=1, max_length=1_000)
    path: str = Field(default=".", description="file or directory to search")


class ListArguments(_Arguments):
    """List a directory; directories end with a slash."""

    path: str = "."


class EditArguments(_Arguments):
    """Replace text in a file. `old` must occur exactly once: give enough lines around it."""

    path: str
    old: str = Field(min_length=1)
    new: str


class WriteArguments(_Arguments):
    """Write a whole file, new or in place of the old one."""

    path: str
    content: str


class RunArguments(_Arguments):
    """Run a command in the workspace (no shell; for one: ["sh", "-c", "..."]) and see its output."""

    command: list[str] | str
    timeout: float = Field(default=60.0, gt=0, le=RUN_TIMEOUT_S, description="seconds")


class RequestArguments(_Arguments):
    """Ask for a file that you may not write (or that must not change while you read it). Answers at once.
    When another task has it: finish without it, or ask again with `wait`, which ends this attempt, drops its
    changes and begins the task again when the file is free.
    """

    path: str = Field(min_length=1, max_length=1_024, description="a file, dir/** or dir/*.ext")
    mode: Literal["write", "read", "append"] = Field(
        default="write", description="append: add at the end of a file that others may add to as well"
    )
    wait: bool = False


class FindingArguments(_Arguments):
    """One finding of a report."""

    severity: Literal["critical", "high", "medium", "low", "info"]
    message: str
    file: str = ""
    line: int = Field(default=0, ge=0)


class FinishArguments(_Arguments):
    """End the task. `handoff` is all that the agents who depend on you are told: decisions, public
    names, traps. For a report task it is the report itself, with a verdict.
    """

    summary: str = Field(min_length=1, description="one line: what was done")
    handoff: str = Field(default="", description="text for the agents that depend on this task")
    verdict: Literal["", "approve", "block"] = ""
    findings: list[FindingArguments] = Field(default_factory=list, max_length=200)


class Toolbox:
    """The tools of one attempt. A report node gets none that write; `run` needs `allow_run`."""

    def __init__(self, job: Job, environment: Environment) -> None:
        self._job = job
        self._environment = environment
        self._tree = Tree(job.workspace)
        self._given: list[str] = []
        self._tools: dict[str, tuple[type[_Arguments], Callable[[Any], str]]] = {
            "read": (ReadArguments, self._read),
            "search": (SearchArguments, self._search),
            "list": (ListArguments, self._list),
        }
        if job.output != "report":
            self._tools |= {"edit": (EditArguments, self._edit), "write": (WriteArguments, self._write)}
        if job.runner.get("allow_run"):
            self._tools["run"] = (RunArguments, self._run)
        if job.request:
            self._tools["request_artifact"] = (RequestArguments, self._request)
        wanted = job.runner.get("tools")
        if wanted:
            self._tools = {name: tool for name, tool in self._tools.items() if name in wanted}
        self._tools["finish"] = (FinishArguments, self._finish)

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as the chat API takes them."""
        return [_schema(name, model) for name, (model, _) in self._tools.items()]

    def call(self, name: str, arguments: str) -> str:
        """Do one call of the model's; raises `Finished`, or what the attempt ends with."""
        if name not in self._tools:
            return f"error: there is no tool {name[:80]!r}; there are: {', '.join(self._tools)}"
        if len(arguments) > MAX_ARGUMENT_CHARS:
            return f"error: {len(arguments):,} characters of arguments; do it in smaller parts"
        model, method = self._tools[name]
        try:
            return _capped(method(model.model_validate_json(arguments or "{}")))
        except ValidationError as error:
            return "error: " + "; ".join(_wrong(e) for e in error.errors(include_url=False)[:10])
        except RefusedError as error:
            return f"error: {error}"

    def _read(self, asked: ReadArguments) -> str:
        lines = self._tree.read(asked.path).splitlines(keepends=True)
        chosen = lines[asked.start - 1 : asked.start - 1 + asked.lines]
        if len(chosen) == len(lines):
            return "".join(lines) or "(empty file)"
        if not chosen:
            raise RefusedError(f"{asked.path!r} has {len(lines)} lines")
        last = asked.start + len(chosen) - 1
        return "".join(chosen) + f"\n[lines {asked.start} to {last} of {len(lines)}]"

    def _search(self, asked: SearchArguments) -> str:
        place = self._tree.name(self._tree.resolve(asked.path))
        # A process of its own: a pattern that backtracks for hours can be ended, a thread cannot.
        argv = ["grep", "-rnIE", "--exclude-dir=.git", "-e", asked.pattern, "--", place]
        done = self._execute(argv, SEARCH_TIMEOUT_S)
        if done.returncode > 1:
            raise RefusedError(f"the search failed: {done.output.strip()[:500]}")
        return done.output or "no line matches"

    def _list(self, asked: ListArguments) -> str:
        names = list(self._tree.entries(asked.path))
        more = f"\n[{len(names) - MAX_ENTRIES} more]" if len(names) > MAX_ENTRIES else ""
        return ("\n".join(names[:MAX_ENTRIES]) or "(empty)") + more

    def _edit(self, asked: EditArguments) -> str:
        self._check_scope(asked.path)
        text = self._tree.read(asked.path)
        found = text.count(asked.old)
        if found == 0:
            raise RefusedError(f"`old` is not in {asked.path!r}; read it again and copy the text exactly")
        if found > 1:
            raise RefusedError(f"`old` occurs {found} times in {asked.path!r}; give more lines around it")
        self._tree.write(asked.path, text.replace(asked.old, asked.new))
        return f"edited {asked.path}"

    def _write(self, asked: WriteArguments) -> str:
        self._check_scope(asked.path)
        self._tree.write(asked.path, asked.content)
        return f"wrote {asked.path}, {len(asked.content)} characters"

    def _check_scope(self, path: str) -> None:
        """Say at once what the ingest would refuse at the end."""
        name = self._tree.name(self._tree.resolve(path))
        patterns = (*self._job.artifacts, *self._given)
        if self._job.artifacts and not any(matches(pattern, name) for pattern in patterns):
            ask = "; ask for it with `request_artifact`" if "request_artifact" in self._tools else ""
            raise RefusedError(
                f"{name!r} is not among the files that you may write: {', '.join(patterns)}{ask}"
            )

    def _request(self, asked: RequestArguments) -> str:
        if self._job.request is None:
            raise RefusedError("nothing can be asked for here")
        answer = self._job.request(asked.path, asked.mode, wait=asked.wait)
        if answer.granted and asked.mode != "read":
            self._given.append(asked.path)
        return answer.text

    def _run(self, asked: RunArguments) -> str:
        try:
            argv = shlex.split(asked.command) if isinstance(asked.command, str) else asked.command
        except ValueError as error:
            raise RefusedError(f"the command cannot be split: {error}") from error
        if not argv or sum(map(len, argv)) > MAX_COMMAND_CHARS:
            raise RefusedError("the command is empty, or too long")
        done = self._execute(argv, asked.timeout)
        head = "timed out" if done.timed_out else f"exit code {done.returncode}"
        return f"{head}\n{_capped(done.output)}"

    def _execute(self, argv: list[str], timeout_s: float) -> Completed:
        if any("\0" in word for word in argv):
            raise RefusedError("a NUL character cannot be in a command")
        deadline = min(self._job.deadline, time.monotonic() + timeout_s)
        done = self._environment.execute(argv, deadline=deadline, env=self._job.env, stop=self._job.stop)
        self._job.stop.check()
        return done

    def _finish(self, asked: FinishArguments) -> str:
        if len(asked.handoff) > MAX_HANDOFF_CHARS:
            raise RefusedError(
                f"`handoff` has {len(asked.handoff):,} characters; at most {MAX_HANDOFF_CHARS:,}"
            )
        if self._job.output == "report" and not asked.handoff:
            raise RefusedError("this task is a report: put its text into `handoff`")
        findings = tuple(Finding(f.severity, f.message, f.file, f.line) for f in asked.findings)
        raise Finished(Outcome(asked.summary, asked.handoff, asked.verdict, findings))


def _schema(name: str, model: type[_Arguments]) -> dict[str, Any]:
    parameters = model.model_json_schema()
    description = parameters.pop("description")
    parameters.pop("title", None)
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def _wrong(problem: Mapping[str, Any]) -> str:
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


def _capped(text: str) -> str:
    """The head and the tail of a long result: errors stand at either end."""
    if len(text) <= MAX_RESULT_CHARS:
        return text
    half = MAX_RESULT_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
