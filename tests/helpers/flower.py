"""A real `celery -A agentflow flower` on a port of its own."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.wait import wait_until
from helpers.workers import ROOT, Stage

#: What the page with the list of tasks asks for.
LIST = {
    "draw": "1", "start": "0", "length": "100", "search[value]": "", "order[0][column]": "0",
    "order[0][dir]": "asc", "columns[0][data]": "name",
}  # fmt: skip


@dataclass(frozen=True)
class Flower:
    """Where it listens. `user` is `name:password`."""

    url: str
    user: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(self, path: str, data: Mapping[str, str] | None = None, *, user: str = "") -> tuple[int, str]:
        """GET (or POST) a path: the status (0: nobody answers) and the body."""
        request = urllib.request.Request(  # noqa: S310  # our own loopback address
            self.url + path, None if data is None else urllib.parse.urlencode(data).encode()
        )
        if user or self.user:
            word = base64.b64encode((user or self.user).encode()).decode()
            request.add_header("Authorization", f"Basic {word}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # as above
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def listed(self) -> list[dict[str, Any]]:
        """The rows of the page with the list of tasks."""
        status, body = self.ask("/tasks/datatable", LIST)
        return json.loads(body)["data"] if status == 200 else []

    def wait_for_worker(self, name: str) -> None:
        """Until it has heard of a worker."""
        wait_until(lambda: name in self.ask("/workers?json=1")[1], timeout=40)


@contextmanager
def flower(
    scene: Stage, log: Path, *options: str, user: str = "", env: Mapping[str, str] | None = None
) -> Iterator[Flower]:
    """Flower as a user of the stage's Redis starts it, in the stage's directory; gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words: Sequence[str] = (f"--port={port}", *([f"--basic-auth={user}"] if user else []), *options)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "agentflow", "flower", *words],
            cwd=scene.home, env={**os.environ, **scene.env, "PYTHONPATH": str(ROOT), **(env or {})},
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    found = Flower(f"http://127.0.0.1:{port}", user)
    try:
        wait_until(lambda: found.ask("/healthcheck")[0] == 200, timeout=40, what="flower answers")
        yield found
    finally:
        process.kill()
        process.wait()
