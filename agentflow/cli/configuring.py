"""`config show`, `config schema` and `config import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cli import text
from agentflow.cli.options import JsonOption, config_of
from agentflow.errors import UsageError

if TYPE_CHECKING:
    from agentflow.config.foreign.reading import Imported

_OUT = Path("agentflow.yaml")

app = typer.Typer(help="The configuration that holds here.", rich_markup_mode=None, no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    """Add these commands."""
    app.command("show")(show)
    app.command("schema")(schema)
    app.command("import")(import_file)
    parent.add_typer(app, name="config")


def show(
    ctx: typer.Context,
    *,
    origin: Annotated[bool, typer.Option("--origin", help="Where each value comes from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print every key of the configuration.

    Passwords and what looks like a key are masked.
    """
    config = config_of(ctx)
    values = config.as_dict()
    # Shown as it is written in the file, and as its origin is kept.
    values["redis.url"] = values.pop("redis_url")
    if as_json:
        shown = {"values": values, "origins": config.origins} if origin else values
        text.put(json.dumps(shown, indent=2, default=str))
        return
    rows = []
    for key, value in _flat(values):
        row = (key, json.dumps(value, default=str, ensure_ascii=False))
        rows.append((row[0], config.origin(key), row[1]) if origin else row)
    for line in text.table(("key", "origin", "value") if origin else ("key", "value"), rows):
        text.put(line)


def _flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Dotted keys; mappings without entries stand as `{}`."""
    if isinstance(value, dict) and value:
        return [
            row
            for name, below in value.items()
            for row in _flat(below, f"{key}.{name}" if key else str(name))
        ]
    return [(key, value)]


def schema() -> None:
    """Print the JSON Schema of agentflow.yaml, for editors."""
    from agentflow.config.schema import json_schema

    text.put(json.dumps(json_schema(), indent=2))


def import_file(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="config.yaml, automatosx.config.json and the like.")],
    *,
    out: Annotated[Path, typer.Option(help="Where to write; nothing is overwritten.")] = _OUT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the result and write nothing.")] = False,
) -> None:
    """Make an agentflow.yaml of an older system's configuration.

    A table on stderr says of each key what it becomes, or why it has no counterpart.
    """
    del ctx
    from agentflow.config.foreign.reading import read_foreign
    from agentflow.config.foreign.writing import as_yaml

    imported = read_foreign(file)
    _say(imported)
    made = as_yaml(imported, file.name)
    if dry_run:
        text.put(made.removesuffix("\n"))
        return
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(made)
    except FileExistsError:
        raise UsageError(
            f"{out} is there already", why="nothing is overwritten", fix="name another file: --out FILE"
        ) from None
    except OSError as error:
        what = f"{out} cannot be written: {error.strerror}"
        raise UsageError(what, fix="name another: --out FILE") from error
    text.put(f"wrote {out}")
    text.say("next: agentflow config show --origin")


def _say(imported: Imported) -> None:
    """The table, then the counts."""
    rows = [
        (row.key, row.value, f"{row.ours} ({row.remark})" if row.remark else row.ours)
        if row.ours
        else (row.key, row.value, f"unsupported: {row.remark}")
        for row in imported.rows
    ]
    for line in text.table(("key", "value", "becomes"), [tuple(map(text.clean, row)) for row in rows]):
        text.say(line)
    keys = text.count(len(imported.rows), "key")
    text.say(f"{imported.kind.file}: {keys}, {len(imported.taken)} taken over, {len(imported.left)} not")
