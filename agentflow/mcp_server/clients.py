"""The entry of this server in the configuration of coding agents: written, and taken out again.

    claude   project: .mcp.json                user: ~/.claude.json          JSON, key mcpServers
    codex    project: .codex/config.toml       user: ~/.codex/config.toml    TOML, table mcp_servers

Everything else in these files stays as it is: JSON keeps its keys, order and indentation; TOML is changed
as text, and the change is refused when what is read back differs in anything but our table. This module
does not need the SDK.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.errors import ConfigError

NAME = "agentflow"
#: Codex starts servers with an almost empty environment; these reach the server, and with it its workers.
FORWARDED = (
    "AGENTFLOW_HOME", "AGENTFLOW_MODEL", "AGENTFLOW_REDIS_URL", "ANTHROPIC_API_KEY", "OPENAI_API_KEY",
    "OPENAI_BASE_URL", "SSL_CERT_FILE", "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
)  # fmt: skip
#: Seconds that codex waits for the server to come up, and for an answer (its own: 10 and 60).
CODEX_STARTUP_S, CODEX_TOOL_S = 30, 3700
BACKUP = ".before-agentflow"


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it is and as it would be. `old` is None when there is none, `new` None when it would go."""

    path: Path
    old: str | None
    new: str | None

    @property
    def needed(self) -> bool:
        """Whether anything would change."""
        return self.old != self.new

    @property
    def backup(self) -> Path | None:
        """Where the file as it was is kept; None when there was none."""
        return None if self.old is None else self.path.with_name(self.path.name + BACKUP)

    def write(self) -> None:
        """Do it: the old file is copied first, the new one appears whole. Raises `ConfigError`."""
        try:
            if self.backup:
                shutil.copy2(self.path, self.backup)
            if self.new is None:
                self.path.unlink(missing_ok=True)
            else:
                _replace(self.path, self.new)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}", fix="--dry-run shows what belongs in it"
            ) from error


def install(client: str, scope: str, directory: Path) -> Change:
    """The change that enters the server; `scope` is `project` (of `directory`) or `user`."""
    path = _file(client, scope, directory)
    old = _read(path)
    argv = _command(portable=scope == "project")
    if client == "claude":
        return Change(path, old, _json_with(path, old, _claude_entry(argv)))
    return Change(path, old, _toml_with(path, old or "", _codex_entry(argv)))


def uninstall(client: str, scope: str, directory: Path) -> Change:
    """The change that takes the server out. A file that held nothing else goes."""
    path = _file(client, scope, directory)
    old = _read(path)
    if old is None:
        return Change(path, None, None)
    new = _json_with(path, old, None) if client == "claude" else _toml_with(path, old, "")
    return Change(path, old, new if new.strip() not in ("", "{}") else None)


def _file(client: str, scope: str, directory: Path) -> Path:
    home = Path.home()
    if client == "claude":
        own = Path(os.environ.get("CLAUDE_CONFIG_DIR") or home) / ".claude.json"
        path = directory / ".mcp.json" if scope == "project" else own
    else:
        own = Path(os.environ.get("CODEX_HOME") or home / ".codex")
        path = (directory / ".codex" if scope == "project" else own) / "config.toml"
    # A link (to where somebody keeps such files) stays one.
    return path.resolve()


def _command(*, portable: bool) -> list[str]:
    """How a client starts the server. A project's file is shared, so it names no place of this machine."""
    found = shutil.which(NAME)
    if portable and found:
        return [NAME, "mcp"]
    own = Path(sys.executable).parent / NAME
    if own.exists():
        return [str(own), "mcp"]
    return [found, "mcp"] if found else [sys.executable, "-m", "agentflow.cli.main", "mcp"]


def _claude_entry(argv: list[str]) -> dict[str, Any]:
    return {"type": "stdio", "command": argv[0], "args": argv[1:]}


def _json_with(path: Path, old: str | None, entry: dict[str, Any] | None) -> str:
    try:
        data = json.loads(old) if old and old.strip() else {}
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    servers = data.get("mcpServers", {}) if isinstance(data, dict) else None
    if not isinstance(servers, dict):
        raise _unreadable(path, "mcpServers is not a mapping")
    if servers.get(NAME) == entry:
        return old or ""
    if entry is None:
        servers.pop(NAME)
    else:
        servers[NAME] = entry
    data["mcpServers"] = servers
    if not servers:
        del data["mcpServers"]
    indent = re.search(r'\n([ \t]+)"', old or "")
    return json.dumps(data, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"


def _codex_entry(argv: list[str]) -> str:
    """The table as TOML; JSON's strings and lists of strings are TOML's."""
    return (
        f"[mcp_servers.{NAME}]\n"
        f"command = {json.dumps(argv[0])}\n"
        f"args = {json.dumps(argv[1:])}\n"
        f"env_vars = {json.dumps(list(FORWARDED))}\n"
        f"startup_timeout_sec = {CODEX_STARTUP_S}\n"
        f"tool_timeout_sec = {CODEX_TOOL_S}\n"
    )


_HEADER = re.compile(r"^[ \t]*\[")
_OURS = re.compile(rf"""^[ \t]*\[[ \t]*mcp_servers[ \t]*\.[ \t]*["']?{NAME}["']?[ \t]*(\.[^\]]*)?\]""")


def _toml_with(path: Path, old: str, entry: str) -> str:
    """The text with our table replaced, added at the end, or taken out (`entry` empty)."""
    before = _toml(path, old)
    wanted = tomllib.loads(entry).get("mcp_servers", {}).get(NAME)
    if before.get("mcp_servers", {}).get(NAME) == wanted:
        return old
    kept, ours = [], False
    for line in old.splitlines(keepends=True):
        if _HEADER.match(line):
            ours = _OURS.match(line) is not None
        if not ours:
            kept.append(line)
    rest = "".join(kept).rstrip("\n")
    new = "\n\n".join(part for part in (rest, entry.rstrip("\n")) if part)
    new += "\n" if new else ""
    if not _differs_in_ours_alone(before, new, wanted):
        raise ConfigError(
            f"{path} is written in a way that cannot be changed safely",
            why=f"the table mcp_servers.{NAME} is not one of its own",
            fix=f"put this into it yourself:\n{entry}" if entry else "take the table out yourself",
            code="AF-MCP-011",
        )
    return new


def _differs_in_ours_alone(before: dict[str, Any], new: str, wanted: Any) -> bool:
    try:
        after = tomllib.loads(new)
    except tomllib.TOMLDecodeError:
        return False
    return _without_ours(after) == _without_ours(before) and after.get("mcp_servers", {}).get(NAME) == wanted


def _without_ours(data: dict[str, Any]) -> dict[str, Any]:
    servers = {name: value for name, value in data.get("mcp_servers", {}).items() if name != NAME}
    rest = {name: value for name, value in data.items() if name != "mcp_servers"}
    return rest | ({"mcp_servers": servers} if servers else {})


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read as the client's configuration",
        why=why,
        fix="mend it first; it was left as it is",
        code="AF-MCP-010",
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error


def _replace(path: Path, text: str) -> None:
    """Write a file whole, with the old one's mode (it may hold keys): a client may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        if path.exists():
            shutil.copymode(path, name)
        else:
            Path(name).chmod(0o600 if path.parent == Path.home() else 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
