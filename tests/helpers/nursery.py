"""Worker and command processes that start in a tenth of a second: forks of one that has imported everything.

Each is a real process of its own, born before any thread, connection or configuration; only the imports are
shared. The nursery is a child of the test process; its children are ended with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from helpers.wait import wait_until
from helpers.workers import ROOT, Stage


class Nursery:
    """Starts workers of one stage."""

    def __init__(self, scene: Stage) -> None:
        self._scene = scene
        self._pids: list[int] = []
        env = {**os.environ, **scene.env, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        with (scene.home / "nursery.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__], cwd=scene.home, env=env, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def start(
        self,
        name: str,
        words: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        cwd: Path | None = None,
    ) -> int:
        """Fork a process that runs these words (`celery ...`, `agentflow ...`); its process id."""
        log = str(self._scene.home / f"{name}.log")
        child: IO[str] | None = self._process.stdin
        answers: IO[str] | None = self._process.stdout
        assert child
        assert answers
        order = {
            "words": list(words),
            "env": dict(env or {}),
            "log": log,
            "cwd": str(cwd or self._scene.home),
        }
        child.write(json.dumps(order) + "\n")
        child.flush()
        answer = answers.readline()
        assert answer, (self._scene.home / "nursery.log").read_text()
        pid = int(answer)
        self._pids.append(pid)
        return pid

    def worker(self, name: str, env: Mapping[str, str] | None = None, *, slots: int = 4) -> int:
        """A worker that is on the register."""
        words = ["celery", "-A", "agentflow", "worker", "-c", str(slots), "-n", f"{name}@test"]
        words += ["-l", "warning"]
        pid = self.start(name, words, env)
        wait_until(
            lambda: not is_alive(pid) or any(w.pid == pid for w in self._scene.ledger.workers()), timeout=60
        )
        return pid

    def wait_dead(self, pid: int) -> None:
        """Until the process is gone."""
        wait_until(lambda: not is_alive(pid), timeout=60, what=f"process {pid} is gone")

    def kill(self) -> None:
        """SIGKILL for all that lives."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            self.wait_dead(pid)
        self._pids.clear()

    def close(self) -> None:
        """End everything."""
        self.kill()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()


def is_alive(pid: int) -> bool:
    """Whether the process is there (the nursery reaps its children at once)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def nursery(scene: Stage) -> Iterator[Nursery]:
    """A nursery that leaves no process."""
    found = Nursery(scene)
    try:
        yield found
    finally:
        found.close()


def serve() -> None:
    """The nursery's own process: import everything, then fork as often as it is told to."""
    import openai  # noqa: F401
    from celery.bin.celery import celery  # noqa: F401

    import agentflow.cli.main
    import agentflow.runs
    import agentflow.tasks.integrate
    import agentflow.tasks.roles
    import agentflow.tasks.worker  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            os.chdir(order["cwd"])
            _live(order["words"], order["env"], order["log"])
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _live(words: list[str], env: dict[str, str], log: str) -> None:
    """What a child does instead of a new program."""
    from celery.bin.celery import celery

    from agentflow import failpoints
    from agentflow.cli.main import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    with Path(os.devnull).open("rb") as nothing, Path(log).open("ab") as out:
        os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.update(env)
    failpoints.arm(os.environ)
    sys.argv = words
    code = 0
    try:
        celery() if words[0] == "celery" else main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
