"""`agentflow demo`: the packaged example, done by scripted agents in a repository made for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from agentflow.cli import running, text
from agentflow.cli.options import EventsOption, JsonOption, Progress, ProgressOption, Surroundings
from agentflow.errors import InfraError, UsageError

#: How long the scripted model may take to leave.
STOP_S = 5.0
_IDENTITY = {
    "GIT_AUTHOR_NAME": "agentflow demo",
    "GIT_AUTHOR_EMAIL": "demo@localhost",
    "GIT_COMMITTER_NAME": "agentflow demo",
    "GIT_COMMITTER_EMAIL": "demo@localhost",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(demo)


def demo(
    ctx: typer.Context,
    *,
    keep: Annotated[Path | None, typer.Option(help="Make the repository in this new directory.")] = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Nodes at once.")] = None,
    progress: ProgressOption = Progress.AUTO,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """See seven scripted agents finish a small shop."""
    from agentflow import runs

    here: Surroundings = ctx.obj
    place = _repository(keep)
    text.say(f"repository: {place}")
    with _model(place / "replies.yaml") as url:
        os.environ["SCRIPTED_MODEL_URL"] = url
        os.chdir(place)
        config = Surroundings(place, here.flags).config()
        try:
            running.execute(
                Path("feature.yaml"),
                config,
                runs.SubmitOptions(jobs=jobs),
                running.Manner(progress=progress, events=events, as_json=as_json),
            )
        finally:
            text.say(f"look: cd {place} && git log --graph --oneline --all")


def _repository(keep: Path | None) -> Path:
    """The example as a new repository with one commit."""
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UsageError(f"{keep} is there already", fix="name a directory that does not exist yet")
    place = keep.resolve() if keep else Path(tempfile.mkdtemp(prefix="agentflow-demo-")) / "shop"
    shutil.copytree(
        _example(), place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
    )
    for argv in (
        ["init", "--quiet", "--template=", "--initial-branch=main"],
        ["add", "--all"],
        ["commit", "--quiet", "--no-verify", "--message=A small shop, not finished"],
    ):
        done = subprocess.run(
            ["git", *argv], cwd=place, env=os.environ | _IDENTITY, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise InfraError(
                f"git {argv[0]} failed in {place}",
                why=done.stderr.strip(),
                fix="`agentflow doctor` checks git",
            )
    return place


def _example() -> Path:
    """The example's files: in the installed package, else in the project's checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "examples" / "shop"
    return shipped if shipped.is_dir() else package.parent / "examples" / "shop"


@contextmanager
def _model(replies: Path) -> Iterator[str]:
    """The scripted model server as a process that ends with this one; yields its base URL."""
    from agentflow.local.server import tied

    argv = [
        sys.executable,
        "-m",
        "agentflow.runners.scripted_server",
        "--replies",
        str(replies),
        "--port",
        "0",
    ]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with subprocess.Popen(
        tied(argv, signal.SIGTERM),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    ) as process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise InfraError("the scripted model did not start", fix="its message stands above")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
