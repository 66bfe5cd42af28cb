"""The scripted server as the process that the demo starts."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from agentflow.errors import Exit

REPLIES = "replies:\n  - {name: a, when: [x], turns: [{text: hello}]}\n"


def start(path: Path, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "agentflow.runners.scripted_server", "--replies", str(path), *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    path = tmp_path / "replies.yaml"
    path.write_text(REPLIES)
    return path


@pytest.mark.parametrize("way", ["signal", "stdin"])
def test_says_where_it_is_and_leaves_when_told(replies: Path, way: str) -> None:
    with start(replies, *(["--exit-with-stdin"] if way == "stdin" else [])) as server:
        assert server.stdin
        assert server.stdout
        url = server.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/models") as answer:  # noqa: S310 - our own address
            assert answer.status == 200
        if way == "signal":
            server.send_signal(signal.SIGTERM)
        else:
            server.stdin.close()
        assert server.wait(10) == 0


def test_a_wrong_file_is_a_clear_message(tmp_path: Path) -> None:
    path = tmp_path / "replies.yaml"
    path.write_text("replies: []\n")
    with start(path) as server:
        _, told = server.communicate(timeout=20)
    assert server.returncode == Exit.SPEC
    assert "replies: Tuple should have at least 1 item" in told


def test_a_taken_port_is_a_clear_message(replies: Path) -> None:
    with start(replies, "--exit-with-stdin") as first:
        assert first.stdout
        port = first.stdout.readline().strip().removesuffix("/v1").rpartition(":")[2]
        with start(replies, "--port", port) as second:
            _, told = second.communicate(timeout=20)
        first.communicate()
    assert second.returncode == Exit.INFRA
    assert f"cannot listen on 127.0.0.1:{port}" in told
