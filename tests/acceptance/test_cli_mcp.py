"""`agentflow mcp` on the command line: without its extra, and the entries that it writes."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
from helpers.cli import Cli, command_line, write

WITHOUT = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "mcp":
            raise ModuleNotFoundError("No module named 'mcp'")

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def cli(tmp_path: Path):
    with command_line(tmp_path) as found:
        found.env["HOME"] = str(tmp_path)
        yield found


def test_without_the_extra_it_says_what_to_install(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "without", {"sitecustomize.py": WITHOUT})
    cli.env["PYTHONPATH"] = f"{tmp_path / 'without'}{os.pathsep}{cli.env['PYTHONPATH']}"
    for words in (("mcp",), ("mcp", "install", "claude")):
        done = cli.run(*words, code=2)
        assert done.stdout == ""
        assert "error[AF-MCP-004]" in done.stderr
        assert "pip install 'agentflow[mcp]'" in done.stderr
    assert not (cli.cwd / ".mcp.json").exists()


def test_an_entry_is_shown_written_and_taken_out(cli: Cli, tmp_path: Path) -> None:
    shown = cli.run("mcp", "install", "claude", "--dry-run")
    assert json.loads(shown.stdout)["mcpServers"]["agentflow"]["args"][-1] == "mcp"
    assert not (cli.cwd / ".mcp.json").exists()

    cli.run("mcp", "install", "claude")
    assert json.loads((cli.cwd / ".mcp.json").read_text()) == json.loads(shown.stdout)
    assert "nothing to change" in cli.run("mcp", "install", "claude").stderr
    cli.run("mcp", "install", "claude", "--scope", "user")
    assert "agentflow" in json.loads((tmp_path / ".claude.json").read_text())["mcpServers"]

    cli.run("mcp", "install", "codex")
    config = tmp_path / ".codex" / "config.toml"
    assert tomllib.loads(config.read_text())["mcp_servers"]["agentflow"]["args"][-1] == "mcp"
    cli.run("mcp", "uninstall", "codex")
    cli.run("mcp", "uninstall", "claude")
    assert not config.exists()
    assert not (cli.cwd / ".mcp.json").exists()


def test_a_client_that_hangs_up_ends_the_server(cli: Cli) -> None:
    # Standard input ends at once: that is how a client leaves.
    done = cli.run("mcp")
    assert (done.stdout, done.stderr) == ("", "")
