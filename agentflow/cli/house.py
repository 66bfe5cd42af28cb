"""`init`, `config show`, `gc` and `down`: the project's files and what agentflow keeps on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agentflow.cli import doctor, text
from agentflow.cli.options import JsonOption, config_of, seconds
from agentflow.errors import UsageError

_CONFIG = """\
# agentflow.yaml: who does the work. `agentflow config show --origin` shows all that holds here.
default_runner: model
runners:
  model:
    type: openai
    base_url: ${OPENAI_BASE_URL:-https://api.openai.com/v1}
    api_key_env: OPENAI_API_KEY
    model: ${AGENTFLOW_MODEL:-gpt-5}
  # A command-line agent instead; it works in {workspace} and is judged by what it leaves there.
  # claude:
  #   type: command
  #   command: [sh, -c, 'claude -p --permission-mode acceptEdits < "$1"', sh, "{prompt_file}"]
  #   pass_env: [ANTHROPIC_API_KEY]
"""
_FEATURE = """\
# feature.yaml: what is to be built. `agentflow plan` shows its waves, `agentflow run` runs it.
feature: Greeting
goal: Greet a user by name, with tests and a line in the README.
tasks:
  - id: code
    role: backend
    prompt: Write greet(name) in greeting.py; it returns "Hello, <name>!".
    artifacts: [greeting.py]
  - id: tests
    role: tester
    prompt: Write tests/test_greeting.py for greet(name).
    needs: [code]
    artifacts: [tests/test_greeting.py]
    acceptance: ["{python} -m pytest -q tests/test_greeting.py"]
  - id: docs
    role: docs
    prompt: Add a line on greet(name) to README.md.
    needs: [code]
    artifacts: [README.md]
validate: ["{python} -m pytest -q"]
"""

config_app = typer.Typer(
    help="The configuration that holds here.", rich_markup_mode=None, no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (init, gc, down):
        app.command()(command)
    app.command()(doctor.doctor)
    config_app.command("show")(config_show)
    app.add_typer(config_app, name="config")


def init(ctx: typer.Context) -> None:
    """Write agentflow.yaml and feature.yaml to start from.

    Existing files are left alone.
    """
    del ctx
    if not any((parent / ".git").exists() for parent in (Path.cwd(), *Path.cwd().parents)):
        raise UsageError(
            f"{Path.cwd()} is not in a git repository",
            why="a run starts from a commit and ends in a branch",
            fix="git init && git add -A && git commit -m 'first'",
        )
    for name, content in (("agentflow.yaml", _CONFIG), ("feature.yaml", _FEATURE)):
        try:
            with Path(name).open("x", encoding="utf-8") as stream:
                stream.write(content)
        except FileExistsError:
            text.say(f"{name} is there already; left as it is")
        else:
            text.put(f"wrote {name}")
    text.say("next: agentflow doctor; agentflow plan")


def config_show(
    ctx: typer.Context,
    *,
    origin: Annotated[bool, typer.Option("--origin", help="Where each value comes from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print every key of the configuration."""
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
        rows.append((row[0], _origin(key, config.origins), row[1]) if origin else row)
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


def _origin(key: str, origins: dict[str, str]) -> str:
    """The origin of a key: its own, or of the mapping that it stands in."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return "default"


def gc(
    ctx: typer.Context,
    *,
    older_than: Annotated[
        str, typer.Option(help="Runs that were closed longer ago: 90s, 10m, 24h.")
    ] = "168h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what closed runs left; landed branches stay.

    Hidden refs, workspaces, logs and caches of runs that were closed long enough ago.
    """
    from agentflow import runs
    from agentflow.local import service

    config = config_of(ctx)
    service.ensure(config, worker=False)
    removed = runs.gc(config=config, older_than_s=seconds(older_than) or 0.0, dry_run=dry_run)
    if as_json:
        text.put(json.dumps({"removed": removed, "dry_run": dry_run}))
        return
    for item in removed:
        text.put(("would remove " if dry_run else "removed ") + item)
    if not removed:
        text.say("nothing to remove")


def down(ctx: typer.Context) -> None:
    """End the private Redis and its worker; runs are kept."""
    from agentflow.local import service
    from agentflow.monitor import Monitor

    config = config_of(ctx)
    if config.redis_url is not None:
        raise UsageError(
            f"the Redis at {config.redis_url} is not agentflow's to stop",
            why="`down` ends the private server of a data directory",
            fix="stop it where it was started",
        )
    if service.status(config) is None:
        text.say("nothing is running" if not service.down(config) else "down")
        return
    left = [run.id for run in Monitor(config).open_runs()]
    service.down(config)
    text.say("down")
    for run_id in left:
        text.say(f"run {run_id} is not finished: agentflow resume {run_id}")
