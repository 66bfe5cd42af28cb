"""A model's validation errors as problems with a place, a code, a reason and a fix."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from agentflow.errors import Problem
from agentflow.places import Location, Node, Source, show

#: A file of another kind altogether has a problem in every line; guessing at each would take minutes.
PROBLEMS_LOOKED_AT = 300


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'needs'?` when a known word is near, else an empty string."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def model_problems(
    error: ValidationError, model: type[BaseModel], node: Node, source: Source
) -> list[Problem]:
    """The errors of a model, each with the place of its value in the document."""
    return [
        _one_problem(detail, model, node, source)
        for detail in error.errors(include_url=False)[:PROBLEMS_LOOKED_AT]
        # A list none of whose items is right counts as too short as well.
        if not (detail["type"] == "too_short" and detail["input"])
    ]


def _one_problem(detail: Mapping[str, Any], model: type[BaseModel], node: Node, source: Source) -> Problem:
    location: tuple[int | str, ...] = detail["loc"]
    kind, context = detail["type"], detail.get("ctx", {})
    value = show(detail["input"])
    if kind == "extra_forbidden":
        word = str(location[-1])
        known = keys_of(model, location[:-1])
        fix = did_you_mean(word, known) or (f"known here: {', '.join(known)}" if known else "")
        place = node.place(location, of_key=True)
        return source.problem("010", f"unknown key {word!r}", place, fix=fix)
    if kind == "missing":
        place = node.place(location[:-1])
        return source.problem("011", f"the key {location[-1]!r} is missing", place, fix="add it")
    place = node.place(location)
    if kind.startswith("af_"):
        return source.problem(kind[3:], context["reason"], place, value=value, fix=context["fix"])
    if kind.startswith("union_tag"):
        return _runner_type(context, location, node, source)
    if kind == "literal_error":
        expected = context["expected"]
        fix = did_you_mean(str(detail["input"]), re.findall(r"'([^']+)'", expected))
        return source.problem("013", f"expected {expected}", place, value=value, fix=fix)
    number = "012" if kind.endswith(("_type", "_parsing", "_from_float")) else "013"
    return source.problem(number, _in_words(kind, detail["msg"]), place, value=value)


def _runner_type(
    context: Mapping[str, Any], location: tuple[int | str, ...], node: Node, source: Source
) -> Problem:
    """A runner of a type that is not there, or of none."""
    if "tag" not in context:
        fix = "add type: openai, or a command"
        return source.problem("011", "the runner's type is missing", node.place(location), fix=fix)
    types = re.findall(r"'([^']+) runner'", context["expected_tags"])
    given = context["tag"].removesuffix(" runner")
    fix = did_you_mean(given, types) or f"one of: {', '.join(types)}"
    place = node.place((*location, "type"))
    return source.problem("013", "there is no runner of this type", place, value=show(given), fix=fix)


_KINDS = {
    "string_type": "expected a string; write it in quotes if it is one",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "string_too_short": "the text is empty",
    "too_short": "the list is empty",
    "none_required": "nothing may stand here",
}


def _in_words(kind: str, message: str) -> str:
    return _KINDS.get(kind) or message[:1].lower() + message[1:]


def keys_of(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that a model's files know at a location."""
    for step in location:
        known = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        if isinstance(step, str) and step in known:
            below = list(_models_in(known[step]))
            tagged = [m for m in below if any(str(s) == _tag(m) for s in location)]
            if not below:
                return []
            model = (tagged or below)[0]
    return sorted(f.alias or name for name, f in model.model_fields.items())


def _tag(model: type[BaseModel]) -> str:
    """How a location names a choice among runners."""
    field = model.model_fields.get("type")
    return f"{field.default} runner" if field else ""


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """The models that a field's type holds, in a list, a mapping or a choice too."""
    arguments = typing.get_args(annotation)
    if not arguments and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in arguments:
        yield from _models_in(part)
