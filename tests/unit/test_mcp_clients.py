"""The server's entry in the configuration of coding agents: what is there stays, twice is once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from agentflow.errors import ConfigError
from agentflow.mcp_server import clients

CLAUDE = """\
{
    "numStartups": 34,
    "mcpServers": {
        "other": {"type": "http", "url": "https://example.org/mcp"}
    },
    "text": "ünchanged"
}
"""
CODEX = """\
# mine
model = "gpt-5"  # the usual one

[mcp_servers.other]
command = "other"

[[things]]
name = "a"
"""
OLD_TABLE = """\
[mcp_servers.agentflow]
command = "old"
[mcp_servers.agentflow.env]
A = "1"

"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path


def test_claude_keeps_keys_order_and_indentation(place: Path) -> None:
    file = place / "home" / ".claude.json"
    file.write_text(CLAUDE)
    file.chmod(0o600)
    change = clients.install("claude", "user", place)
    change.write()
    data = json.loads(file.read_text())
    assert list(data) == ["numStartups", "mcpServers", "text"]
    assert list(data["mcpServers"]) == ["other", "agentflow"]
    assert data["mcpServers"]["agentflow"]["args"][-1] == "mcp"
    assert file.read_text().startswith('{\n    "numStartups"')
    assert "ünchanged" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert change.backup
    assert change.backup.read_text() == CLAUDE
    assert change.backup.stat().st_mode & 0o777 == 0o600
    assert not clients.install("claude", "user", place).needed


def test_a_new_file_comes_and_goes_whole(place: Path) -> None:
    for client, scope in (("claude", "project"), ("codex", "user"), ("codex", "project")):
        change = clients.install(client, scope, place)
        change.write()
        assert change.path.is_file()
        assert not clients.install(client, scope, place).needed
        gone = clients.uninstall(client, scope, place)
        gone.write()
        assert not change.path.exists()
        assert not clients.uninstall(client, scope, place).needed


@pytest.mark.parametrize(
    "before",
    [
        CODEX,
        OLD_TABLE + CODEX.partition("\n\n")[2],
        CODEX + OLD_TABLE,
        CODEX.replace("\n", "\r\n"),
        "",
        'notify = ["""\n[x]\n"""]\n',
        CODEX + "[ mcp_servers . 'agentflow' ]\ncommand = 'x'\n[last]\nx = 1\n",
    ],
)  # fmt: skip
def test_codex_keeps_its_text(place: Path, before: str) -> None:
    file = place / "home" / ".codex" / "config.toml"
    file.parent.mkdir()
    file.write_bytes(before.encode())
    clients.install("codex", "user", place).write()
    wanted = tomllib.loads(before.replace("\r\n", "\n"))
    wanted.get("mcp_servers", {}).pop("agentflow", None)
    found = tomllib.loads(file.read_text())
    ours = found["mcp_servers"].pop("agentflow")
    assert ours["args"][-1] == "mcp"
    assert "OPENAI_API_KEY" in ours["env_vars"]
    assert ours["tool_timeout_sec"] > 3600
    if not found["mcp_servers"]:
        del found["mcp_servers"]
    assert found == wanted
    if "# mine" in before:
        assert "# mine" in file.read_text()
    assert not clients.install("codex", "user", place).needed
    clients.uninstall("codex", "user", place).write()
    if file.exists():
        assert tomllib.loads(file.read_text()) == wanted


def test_what_cannot_be_read_is_left_alone(place: Path) -> None:
    json_file, toml_file = place / ".mcp.json", place / ".codex" / "config.toml"
    toml_file.parent.mkdir()
    for client, file, text in (
        ("claude", json_file, "{"),
        ("claude", json_file, '{"mcpServers": []}'),
        ("codex", toml_file, "= 1"),
        ("codex", toml_file, 'x = """\n[mcp_servers.agentflow]\n"""\nmcp_servers.agentflow.command = "x"'),
        ("codex", toml_file, 'mcp_servers = {agentflow = {command = "x"}}'),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            clients.install(client, "project", place).write()
        assert caught.value.code in ("AF-MCP-010", "AF-MCP-011")
        assert caught.value.fix
        assert file.read_text() == text


def test_a_link_stays_a_link(place: Path) -> None:
    real = place / "dotfiles.json"
    real.write_text("{}")
    (place / ".mcp.json").symlink_to(real)
    clients.install("claude", "project", place).write()
    assert (place / ".mcp.json").is_symlink()
    assert "agentflow" in json.loads(real.read_text())["mcpServers"]
