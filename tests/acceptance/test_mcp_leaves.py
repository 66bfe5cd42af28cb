"""A client that goes away in the middle of a call leaves no server behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Cli, repository

#: A call that waits for a worker that never comes.
CALLS: list[dict[str, Any]] = [
    {
        "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"},
        },
    },
    {"method": "notifications/initialized"},
    {
        "id": 2, "method": "tools/call",
        "params": {
            "name": "plan", "arguments": {"words": "A login page"}, "_meta": {"progressToken": "p"},
        },
    },
]  # fmt: skip


@pytest.fixture
def cli(tmp_path: Path, redis_url: str) -> Iterator[Cli]:
    """A machine of a team without workers."""
    runtime = Path(tempfile.mkdtemp(prefix="afm-"))
    (tmp_path / "home").mkdir()
    found = Cli(repository(tmp_path / "project", {"a.txt": "a\n"}), tmp_path / "home", runtime)
    found.env |= {"AGENTFLOW_REDIS_URL": redis_url}
    yield found
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.mark.parametrize("is_heard", [True, False])
def test_the_server_goes_with_its_client(cli: Cli, *, is_heard: bool) -> None:
    server = cli.start("mcp", stdin=subprocess.PIPE)
    assert server.stdin
    assert server.stdout
    for call in CALLS:
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **call}) + "\n")
    server.stdin.flush()
    # Its progress says that the call is at work.
    assert any("planning: run" in line for line in server.stdout)
    if not is_heard:
        server.stdout.close()
    server.stdin.close()
    try:
        assert server.wait(30) == 0
    finally:
        server.kill()
    assert server.stderr
    assert "Traceback" not in server.stderr.read()
    server.stderr.close()
    if is_heard:
        server.stdout.close()
