"""Reads a spec: YAML or JSON, our shape or another system's, with all of its problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentflow.config import Config
from agentflow.errors import Problem, SpecError
from agentflow.explain import model_problems
from agentflow.places import Node, Source, Unreadable, read_json, read_text, read_yaml
from agentflow.spec.changes import Changes, changed
from agentflow.spec.checks import check_data, resolve
from agentflow.spec.models import Spec
from agentflow.spec.repeats import expand
from agentflow.spec.shapes import translate

#: Problems told at once; a file of another kind altogether has one in every line.
PROBLEMS_MAX = 100
NO_CHANGES = Changes()


def load_spec(path: Path, config: Config, changes: Changes = NO_CHANGES) -> Spec:
    """The spec in a file. Raises `SpecError` with all problems, in the order of the file."""
    try:
        text = read_text(path, _source(str(path)))
    except Unreadable as error:
        raise SpecError(error.problems) from None
    return parse_spec(text, name=str(path), config=config, changes=changes)


def parse_spec(text: str, *, name: str, config: Config, changes: Changes = NO_CHANGES) -> Spec:
    """The spec in a text; `name` stands before line and column in its problems. Raises `SpecError`.

    Repeated tasks are written out; `changes` are made to the text before anything is looked at.
    """
    source = _source(name)
    try:
        node, problems = read_json(text, source) if name.endswith(".json") else read_yaml(text, source)
    except Unreadable as error:
        raise SpecError(error.problems) from None
    if not isinstance(node.data, (dict, list)):
        problem = source.problem(
            "009", "a spec is a mapping with feature: and tasks:", (node.line, node.col),
            fix="see `agentflow init` for one to start from",
        )  # fmt: skip
        raise SpecError([problem])
    node, more, notes = translate(node, source)
    node, repeated = expand(changed(node, changes), source)
    data = node.plain()
    spec, found = _validated(data, node, source)
    problems += [*more, *repeated, *found, *check_data(data, config, node.place, source)]
    if problems or spec is None:
        raise SpecError(_first(problems, source))
    return resolve(spec, config).noting(notes)


def _source(name: str) -> Source:
    return Source(name, SpecError.code)


def _validated(data: Any, node: Node, source: Source) -> tuple[Spec | None, list[Problem]]:
    try:
        return Spec.model_validate(data, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, model_problems(error, Spec, node, source)


def _first(problems: list[Problem], source: Source) -> list[Problem]:
    """In the order of the file, each once, and not more than anyone reads."""
    # A problem of a repeated task is the same in every copy but for the value.
    each = {(p.line, p.col, p.code, p.reason): p for p in reversed(problems)}
    ordered = sorted(each.values(), key=lambda p: (p.line, p.col, p.code))
    if len(ordered) <= PROBLEMS_MAX:
        return ordered
    last = ordered[PROBLEMS_MAX - 1]
    more = source.problem("099", "and more problems than one can read", (last.line, last.col))
    return [*ordered[:PROBLEMS_MAX], more]
