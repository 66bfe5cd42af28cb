"""The real command line as a process, with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Cli:
    """`agentflow` typed in a directory. `env` holds what differs from this process' environment."""

    def __init__(self, cwd: Path, home: Path, runtime: Path) -> None:
        self.cwd = cwd
        self.home = home
        self.env = {
            "AGENTFLOW_HOME": str(home),
            "XDG_RUNTIME_DIR": str(runtime),
            "PYTHONPATH": str(ROOT),
            "AGENTFLOW_GRACE_S": "1",
            "TERM": "xterm",
            "COLUMNS": "100",
        }

    def argv(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "agentflow.cli.main", *map(str, words)]

    def environ(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def run(
        self, *words: object, code: int | None = 0, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `code` is the exit code that it must have (None: any)."""
        done = subprocess.run(
            self.argv(*words), cwd=self.cwd, env=self.environ(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if code is not None:
            assert done.returncode == code, (
                f"{words} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *words: object, code: int | None = 0, timeout: float = 60) -> Any:
        """What a command printed on stdout, as JSON."""
        return json.loads(self.run(*words, code=code, timeout=timeout).stdout)

    def start(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        options = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
        } | options
        return subprocess.Popen(
            self.argv(*words), cwd=self.cwd, env=self.environ(), text=True, start_new_session=True, **options
        )


@contextmanager
def command_line(tmp_path: Path, cwd: Path | None = None) -> Iterator[Cli]:
    """A command line whose private server and worker are gone afterwards."""
    runtime = Path(tempfile.mkdtemp(prefix="afc-"))
    place = cwd or tmp_path / "project"
    place.mkdir(exist_ok=True)
    cli = Cli(place, tmp_path / "home", runtime)
    try:
        yield cli
    finally:
        cli.run("down", code=None)
        shutil.rmtree(runtime, ignore_errors=True)


def repository(place: Path, files: Mapping[str, str], message: str = "first") -> Path:
    """A git repository with one commit of these files."""
    place.mkdir(parents=True, exist_ok=True)
    git(place, "init", "--quiet", "--initial-branch=main")
    write(place, files)
    git(place, "add", "--all")
    git(place, "commit", "--quiet", f"--message={message}")
    return place


def write(place: Path, files: Mapping[str, str]) -> None:
    """Write files, directories included."""
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def git(place: Path, *words: str) -> str:
    """What a git command prints, with an identity of ours."""
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "tester"), ("EMAIL", "tester@localhost"))
    }
    done = subprocess.run(
        ["git", *words], cwd=place, env=os.environ | identity, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"git {words} left with {done.returncode}: {done.stderr}"
    return done.stdout
