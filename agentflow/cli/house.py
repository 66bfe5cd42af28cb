"""`init`, `gc` and `down`: the project's files and what agentflow keeps on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agentflow.cli import doctor, text
from agentflow.cli.options import JsonOption, RedisOption, config_of, seconds
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


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (init, gc, down):
        app.command()(command)
    app.command()(doctor.doctor)


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
    from agentflow.local import service
    from agentflow.runs import kept

    config = config_of(ctx)
    service.ensure(config, worker=False)
    removed = kept.gc(config=config, older_than_s=seconds(older_than) or 0.0, dry_run=dry_run)
    if as_json:
        text.put(json.dumps({"removed": removed, "dry_run": dry_run}))
        return
    for item in removed:
        text.put(("would remove " if dry_run else "removed ") + item)
    if not removed:
        text.say("nothing to remove")


def down(ctx: typer.Context, *, redis: RedisOption = None) -> None:
    """End the private Redis and the workers that are kept here; runs stay."""
    from agentflow.local import service
    from agentflow.monitor import Monitor

    config = config_of(ctx, {"redis.url": redis})
    if config.redis_url is not None:
        if not service.down(config):
            raise UsageError(
                f"no worker is kept here for {config.shown_url()}, and that Redis is not agentflow's to stop",
                why="`down` ends the private server of a data directory and workers that were spawned here",
                fix="stop it where it was started",
            )
        text.say("the workers that were kept here have ended")
        return
    if service.status(config) is None:
        text.say("nothing is running" if not service.down(config) else "down")
        return
    left = [run.id for run in Monitor(config).open_runs()]
    service.down(config)
    text.say("down")
    for run_id in left:
        text.say(f"run {run_id} is not finished: agentflow resume {run_id}")
