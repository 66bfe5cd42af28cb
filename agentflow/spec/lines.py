"""One line for a feature: `review "security issues" auth.py AND test auth.py AND docs auth.py`.

    line = part ("AND" part)*
    part = VERB-or-ROLE ("quoted words" | FILE | DIRECTORY | PATTERN | word)*

Quoted words are the prompt, files of the repository are what the part reads, the parts run beside each
other. What verbs mean is in verbs.yaml.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from agentflow.agents import Closed
from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.explain import did_you_mean
from agentflow.fields import Name, Text, slug
from agentflow.places import Source, read_yaml
from agentflow.spec.artifacts import matches
from agentflow.spec.models import Output

AND = "AND"
FEATURE_MAX_CHARS = 200
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}
_FILE = re.compile(r"(?:.*/)?[^/\s]*[^/\s.]\.[A-Za-z][A-Za-z0-9]{0,7}|.*/.*|.*\*.*")
_EXAMPLE = "for example: agentflow run 'review \"security issues\" auth.py AND test auth.py'"


class Verb(Closed):
    """What a verb asks for."""

    role: Name
    output: Output = "change"
    also: tuple[Name, ...] = ()
    prompt: Text


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a line. A quoted one is never a verb, a file or AND."""

    text: str
    quoted: bool = False


@functools.cache
def verbs() -> Mapping[str, Verb]:
    """Every verb by its words, from verbs.yaml."""
    node, _ = read_yaml(
        files("agentflow").joinpath("verbs.yaml").read_text("utf-8"), Source("verbs.yaml", "AF-SPEC")
    )
    known = {name: Verb.model_validate(verb) for name, verb in node.plain().items()}
    return {word: verb for name, verb in known.items() for word in (name, *verb.also)}


def words_of(given: Sequence[str]) -> list[Word]:
    """The words of a command line: those in a single argument; of several, those with blanks were quoted."""
    if len(given) != 1:
        return [Word(text, quoted=bool(re.search(r"\s", text))) for text in given]
    return _split(given[0])


def _split(text: str) -> list[Word]:
    """Words at blanks; a quote begins only where a word does, so that don't is a word."""
    found: list[Word] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        end = text.find(_QUOTES[text[at]], at + 1) if text[at] in _QUOTES else -1
        if end > at and (end + 1 == len(text) or text[end + 1].isspace()):
            found.append(Word(text[at + 1 : end], quoted=True))
            at = end + 1
        else:
            blank = re.search(r"\s", text[at:])
            stop = at + blank.start() if blank else len(text)
            found.append(Word(text[at:stop]))
            at = stop
    return found


def is_line(words: Sequence[Word], known: Collection[str], config: Config) -> bool:
    """Whether words are a line: parts joined by AND, or one verb or role with nothing but quoted words and
    files of the repository.
    """
    if len(words) > 1 and any(word == Word(AND) for word in words):
        return True
    if len(words) < 2 or _head(words[0], config) is None:  # noqa: PLR2004 (a verb and something)
        return False
    return all(word.quoted or _reads(word, known) or _FILE.fullmatch(word.text) for word in words[1:])


def is_role(words: Sequence[Word], config: Config) -> bool:
    """Whether words are a role with something to do."""
    first = words[0] if words else Word("", quoted=True)
    return len(words) > 1 and not first.quoted and config.role_name(first.text) is not None


def check_mistyped(words: Sequence[Word], config: Config) -> None:
    """Raise `UsageError` for `bakend "Add POST /login"`: a word near a verb or role, then quoted ones."""
    if len(words) < 2 or words[0].quoted or not all(word.quoted for word in words[1:]):  # noqa: PLR2004 (a word and another)
        return
    first = words[0]
    near = did_you_mean(first.text, [*verbs(), *config.roles])
    if near:
        raise UsageError(
            f"{first.text!r} is neither a verb nor a role",
            fix=f"{near} For the planner, quote all words as one",
            code="AF-USAGE-011",
        )


def line_data(words: Sequence[Word], known: Collection[str], config: Config) -> dict[str, Any]:
    """The data of the spec that a line means. Raises `UsageError` for a verb or a file that is not there.

    `known` are the repository's files.
    """
    parts: list[list[Word]] = [[]]
    for word in words:
        if word == Word(AND):
            parts.append([])
        else:
            parts[-1].append(word)
    tasks: list[dict[str, Any]] = []
    taken: set[str] = set()
    for part in parts:
        task = _task(part, known, config)
        number, name = 2, task["id"]
        while task["id"] in taken:
            number, task["id"] = number + 1, f"{name}-{number}"
        taken.add(task["id"])
        tasks.append(task)
    said = " ".join(f'"{word.text}"' if word.quoted else word.text for word in words)
    return {"feature": " ".join(said.split())[:FEATURE_MAX_CHARS], "tasks": tasks}


def _task(part: Sequence[Word], known: Collection[str], config: Config) -> dict[str, Any]:
    if not part:
        raise UsageError("nothing stands on one side of AND", fix=_EXAMPLE, code="AF-USAGE-010")
    head = _head(part[0], config)
    if head is None:
        every = [*verbs(), *config.roles]
        raise UsageError(
            f"{part[0].text!r} is neither a verb nor a role",
            fix=did_you_mean(part[0].text, every) or f"verbs are: {', '.join(sorted(verbs()))}",
            code="AF-USAGE-011",
        )
    name, role, verb = head
    reads: dict[str, None] = {}
    prompt: list[str] = []
    for word in part[1:]:
        pattern = "" if word.quoted else _reads(word, known)
        if pattern:
            reads[pattern] = None
        elif not word.quoted and _FILE.fullmatch(word.text):
            raise missing_file(word.text, known)
        else:
            prompt.append(word.text)
    asked = " ".join(prompt).strip()
    if not (asked or reads):
        raise UsageError(f"{part[0].text!r} has nothing to work on", fix=_EXAMPLE, code="AF-USAGE-010")
    task = {"id": slug(name), "role": role, "output": verb.output if verb else "change", "reads": list(reads)}
    return {**task, "prompt": _prompt(part[0].text, asked, verb, is_role_name=name in config.roles)}


def _head(word: Word, config: Config) -> tuple[str, str, Verb | None] | None:
    """Id, role and verb of a part's first word."""
    if word.quoted:
        return None
    name = word.text.lower()
    role = config.role_name(word.text)
    verb = verbs().get(name) or verbs().get(role or "")
    if verb is not None and verb.role in config.roles:
        return name, verb.role, verb
    return (role, role, None) if role else None


def _prompt(word: str, asked: str, verb: Verb | None, *, is_role_name: bool) -> str:
    if not asked:
        return verb.prompt if verb else "Do your part on these files."
    return f"{word.capitalize()}: {asked}" if verb and not is_role_name else asked


def _reads(word: Word, known: Collection[str]) -> str:
    """The pattern of a file, directory or pattern that is in the repository, else an empty string."""
    text = word.text.removeprefix("./")
    if text in known:
        return text
    directory = text.rstrip("/")
    if directory and any(name.startswith(f"{directory}/") for name in known):
        return f"{directory}/**"
    return text if "*" in text and any(matches(text, name) for name in known) else ""


def missing_file(name: str, known: Collection[str]) -> UsageError:
    """The error for a file that the repository does not have."""
    fix = did_you_mean(name, known)
    if not fix:
        by_name = [path for path in known if path.rpartition("/")[2] == name.rpartition("/")[2]]
        fix = f"did you mean {by_name[0]!r}?" if by_name else "name a file that is committed"
    return UsageError(
        f"the repository has no file {name!r}",
        why="only what is committed is part of a run",
        fix=fix,
        code="AF-USAGE-012",
    )


def named_files(given: Sequence[str], known: Collection[str], *, each: bool = False) -> tuple[str, ...]:
    """What `--files` names: files, directories and patterns, with commas or one by one.

    `each`: every file by itself. Raises `UsageError` for what is not there.
    """
    found: dict[str, None] = {}
    for text in (part.strip() for item in given for part in item.split(",")):
        if not text:
            continue
        pattern = _reads(Word(text), known)
        if not pattern:
            raise missing_file(text, known)
        names = [name for name in sorted(known) if matches(pattern, name)] if each else [pattern]
        found.update(dict.fromkeys(names))
    return tuple(found)
