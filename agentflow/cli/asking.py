"""What `run` was asked for: a feature file, a role with words, a line, or words for the planner.

Tried in that order. Each ends as a spec with its text; words for the planner are planned, shown and saved.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentflow.cli import planning, text
from agentflow.errors import RepositoryError, UsageError

if TYPE_CHECKING:
    from agentflow.config import Config
    from agentflow.spec.changes import Changes
    from agentflow.spec.lines import Word
    from agentflow.spec.models import Spec

FILE_ENDINGS = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The spec, the text that it was read from, and the file, for one that was planned just now."""

    spec: Spec
    text: str
    saved: Path | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What changes the spec: `files` as they were typed, and the fields of `Changes`."""

    files: tuple[str, ...] = ()
    strategy: str | None = None
    shards: int | None = None
    runner: str | None = None


def understand(given: Sequence[str], config: Config, options: Options) -> Asked:
    """The spec that the words of a command line mean. Raises what reading or planning it raises."""
    from agentflow.spec import lines

    _check_runner(options.runner, config)
    if not given or (len(given) == 1 and is_file_name(given[0])):
        return _of_file(Path(given[0]) if given else planning.DEFAULT_FILE, config, options)
    words = lines.words_of(given)
    known = frozenset(_known_files())
    if (len(given) > 1 and lines.is_role(words, config)) or lines.is_line(words, known, config):
        return _of_line(words, known, config, options)
    lines.check_mistyped(words, config)
    return _of_words(given, known, config, options)


def of_template(name: str, given: Sequence[str], config: Config, options: Options) -> Asked:
    """A template's file, saved under the feature's name. Raises `UsageError` for another name."""
    from agentflow import drafting
    from agentflow.fields import slug
    from agentflow.spec.reader import parse_spec
    from agentflow.spec.templates import template

    written = template(name, " ".join(given))
    changes = _changes(options, frozenset(_known_files()) if options.files else frozenset())
    spec = parse_spec(written, name=f"the template {name}", config=config, changes=changes)
    saved = drafting.save_text(written, Path(f"{slug(spec.feature, name)}.yaml"))
    return Asked(spec, written, saved)


def is_file_name(word: str) -> bool:
    """Whether a word names a feature file: one that is there, or one by its ending."""
    try:
        if Path(word).is_file():
            return True
    except OSError:  # longer than a name can be
        return False
    return Path(word).suffix in FILE_ENDINGS and not any(char.isspace() for char in word)


def confirm(asked: Asked, *, yes: bool) -> None:
    """Ask whether a plan made just now is to be run. Raises `UsageError` when nobody says yes."""
    if asked.saved is None or yes:
        return
    following = f"agentflow run {shlex.quote(str(asked.saved))}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "the plan was not run: nobody is there to be asked",
            fix=f"look at it and `{following}`, or say --yes",
            code="AF-USAGE-013",
        )
    text.say("run it? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("the plan was not run", fix=f"`{following}` runs it", code="AF-USAGE-013")


def _of_file(file: Path, config: Config, options: Options) -> Asked:
    if file == planning.DEFAULT_FILE and not file.is_file() and not options.files:
        planning.load(file, config)  # raises: there is none
    changes = _changes(options, frozenset(_known_files()) if options.files else frozenset())
    spec = planning.load(file, config, changes)
    return Asked(spec, file.read_text("utf-8"))


def _of_line(words: Sequence[Word], known: frozenset[str], config: Config, options: Options) -> Asked:
    from agentflow.spec import lines
    from agentflow.spec.reader import parse_spec
    from agentflow.spec.writer import write_spec

    data = lines.line_data(words, known, config)
    written = write_spec(data, header=[f"From the line: {data['feature']}"])
    spec = parse_spec(written, name="the line", config=config, changes=_changes(options, known))
    return Asked(spec, written)


def _of_words(given: Sequence[str], known: frozenset[str], config: Config, options: Options) -> Asked:
    from agentflow.spec.lines import named_files
    from agentflow.spec.reader import parse_spec

    said = " ".join(given)
    if len(said.split()) < 2:  # noqa: PLR2004 (one word)
        raise UsageError(
            f"there is no file {said!r}, and it says too little to plan from",
            fix="name a feature file, or say in a sentence what is to be built",
            code="AF-USAGE-001",
        )
    saved, yaml = planning.drafted(said, config, named_files(options.files, known, each=True))
    rest = Options(strategy=options.strategy, shards=options.shards, runner=options.runner)
    spec = parse_spec(yaml, name=str(saved), config=config, changes=_changes(rest, known))
    return Asked(spec, yaml, saved)


def _changes(options: Options, known: frozenset[str]) -> Changes:
    from agentflow.spec.changes import Changes
    from agentflow.spec.lines import named_files

    files = named_files(options.files, known, each=options.shards is not None)
    return Changes(options.strategy, options.shards, files, options.runner)


def _check_runner(name: str | None, config: Config) -> None:
    if name is None or name in config.runners:
        return
    from agentflow.explain import did_you_mean

    raise UsageError(
        f"there is no runner {name!r}",
        fix=did_you_mean(name, config.runners) or f"runners are: {', '.join(sorted(config.runners))}",
        code="AF-USAGE-014",
    )


def _known_files() -> list[str]:
    """What is committed here; nothing where there is no repository (the run will say so)."""
    from agentflow import runs

    try:
        return runs.files_of(Path.cwd())
    except RepositoryError:
        return []
