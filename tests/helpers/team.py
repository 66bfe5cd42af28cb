"""Several people and machines on one: each has a uid, a HOME that no other can read, and loopback alone.

Redis is all that they have in common: a unix socket, which reaches across network namespaces.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.redis_server import running_server
from helpers.wait import wait_until

from agentflow.config import load_config
from agentflow.store.client import connect
from agentflow.store.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
FIRST_UID = 64_100
COMMAND_S = 150


def why_not() -> str:
    """Why members cannot be made here; '' when they can."""
    if os.geteuid() != 0:
        return "other uids need root"
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", "ip link set lo up && setpriv --reuid 1 true"],
        capture_output=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"namespaces: {done.stderr.decode().strip()}"


class Member:
    """One user on a machine of their own."""

    def __init__(self, name: str, number: int, place: Path, url: str) -> None:
        self.name = name
        self.uid = FIRST_UID + number
        self.home = place / name
        self.home.mkdir(mode=0o700)
        self._shadow = place / f"shadow-{name}"
        self._shadow.mkdir()
        self.own(self.home)
        self.processes: list[subprocess.Popen[str]] = []
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "AGENTFLOW_HOME": str(self.home / "data"),
            "AGENTFLOW_GRACE_S": "1",
            "AGENTFLOW_LEASE_TTL_MS": "1500",
            "AGENTFLOW_RENEW_MS": "300",
            "AGENTFLOW_SCAN_MS": "200",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *_further_paths()]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "LANG": "C.UTF-8",
        }
        self.url = url

    def own(self, path: Path) -> None:
        """Give a directory tree to this member."""
        subprocess.run(["chown", "-R", f"{self.uid}:{self.uid}", str(path)], check=True)

    def argv(self, words: list[str]) -> list[str]:
        """The command as this member, on a machine with loopback alone."""
        inner = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", *words]
        script = "; ".join(["set -e", "ip link set lo up", *self._mounts(), f"exec {shlex.join(inner)}"])
        return ["unshare", "--mount", "--net", "sh", "-c", script]

    def _mounts(self) -> list[str]:
        """Make interpreter and project readable, where they lie below somebody's closed home."""
        needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT}
        lines = []
        for closed in {c for path in needed if (c := _closed(path))}:
            shadow = self._shadow / str(closed).strip("/").replace("/", "-")
            for path in sorted(p for p in needed if p.is_relative_to(closed)):
                place = shadow / path.relative_to(closed)
                place.mkdir(parents=True, exist_ok=True)
                lines.append(shlex.join(["mount", "--bind", str(path), str(place)]))
            lines.append(shlex.join(["mount", "--rbind", str(shadow), str(closed)]))
        return lines

    def start(self, *words: object, cwd: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a command; `python` stands for this interpreter."""
        first, *rest = map(str, words)
        command = [sys.executable if first == "python" else first, *rest]
        process = subprocess.Popen(
            self.argv(command), cwd=cwd or self.home, env=self.env, stdin=subprocess.DEVNULL, text=True,
            start_new_session=True, **options,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def agentflow(self, *words: object, cwd: Path, code: int | None = 0) -> Any:
        """What an agentflow command printed with --json."""
        return self.result_of(self.type(*words, "--json", cwd=cwd), code=code)

    def type(self, *words: object, cwd: Path) -> subprocess.Popen[str]:
        """Start an agentflow command that names the team's Redis."""
        command = ("python", "-m", "agentflow.cli.main", "--redis-url", self.url, *words)
        return self.start(*command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def result_of(self, process: subprocess.Popen[str], *, code: int | None = 0) -> Any:
        """Wait for a command and read its JSON."""
        try:
            out, err = process.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"did not end: {process.args}\n{process.communicate()}") from None
        assert code in (None, process.returncode), f"exit {process.returncode}:\n{out}\n{err}"
        return json.loads(out) | {"stderr": err}

    def work(self, *options: str, queues: str = "", slots: int = 4) -> subprocess.Popen[str]:
        """Start a plain Celery worker that belongs to this member."""
        chosen = ["-Q", queues] if queues else []
        log = (self.home / "worker.log").open("a")
        self.env["AGENTFLOW_REDIS_URL"] = self.url
        with log:
            return self.start(
                "python", "-m", "celery", "-A", "agentflow", "worker", "--pool", "threads", "-c", slots,
                "-n", f"{self.name}@{self.name}", "-l", "info", *chosen, *options, stdout=log, stderr=log,
            )  # fmt: skip

    def log(self) -> str:
        """What the worker said."""
        path = self.home / "worker.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End what runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()


class Team:
    """Members around one Redis."""

    def __init__(self, place: Path, url: str) -> None:
        self.place = place
        self.url = url
        self.ledger = Ledger(connect(load_config(None, {"redis.url": url}).client_url()))
        self.members: dict[str, Member] = {}

    def member(self, name: str) -> Member:
        """A new member."""
        found = self.members[name] = Member(name, len(self.members), self.place, self.url)
        return found

    def wait_for_workers(self, count: int) -> None:
        """Until that many have signed the register."""
        wait_until(lambda: len(self.ledger.workers()) >= count, timeout=60, what=f"{count} workers")


@contextmanager
def team() -> Iterator[Team]:
    """A team that leaves nothing behind."""
    place = Path(tempfile.mkdtemp(prefix="aftm-"))
    place.chmod(0o755)
    try:
        with running_server() as server:
            server.socket.parent.chmod(0o755)
            server.socket.chmod(0o777)
            found = Team(place, f"unix://{server.socket}?db=0")
            try:
                yield found
            finally:
                for member in found.members.values():
                    member.close()
                found.ledger.client.close()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _closed(path: Path) -> Path | None:
    """The first directory above `path` that others may not pass."""
    for above in [*reversed(path.parents), path]:
        if not above.stat().st_mode & 0o001:
            return above
    return None


def _further_paths() -> list[str]:
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
