"""The MCP inspector from npm, as a command. Pinned by tests/inspector/package-lock.json.

It is installed once into `.tools/inspector` (`make clean` removes it). Its package asks for Node 22.19;
its command-line mode, which is all that is used here, runs on Node 20.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PINNED = ROOT / "tests" / "inspector"
PLACE = ROOT / ".tools" / "inspector"
NODE_MAJOR = 20
#: Exit codes of the inspector: an answer that says isError, a schema that is not portable.
TOOL_ERROR, SCHEMA_UNPORTABLE = 5, 6
INSTALL_S, CALL_S = 240, 120


class MissingError(Exception):
    """Why there is no inspector on this machine."""


def install() -> Path:
    """The inspector's program; installs it when it is not there. Raises `MissingError`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise MissingError(f"the MCP inspector needs {'npm' if node else 'Node'}, which is not on PATH")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = re.match(r"v(\d+)\.", said)
    if not major or int(major[1]) < NODE_MAJOR:
        raise MissingError(f"the MCP inspector needs Node {NODE_MAJOR} or newer; this one is {said}")
    PLACE.parent.mkdir(exist_ok=True)
    # Test processes run beside each other: one installs, the others wait for it.
    with (PLACE.parent / "inspector.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current():
            _install(npm)
    return _program()


def _program() -> Path:
    return PLACE / "node_modules" / ".bin" / "mcp-inspector"


def _is_current() -> bool:
    stamp = PLACE / "installed.json"
    return (
        stamp.is_file()
        and stamp.read_bytes() == (PINNED / "package-lock.json").read_bytes()
        and _program().exists()
    )


def _install(npm: str) -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINNED / name, PLACE / name)
    # No package's own script runs.
    argv = [npm, "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(argv, cwd=PLACE, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"npm did not install the MCP inspector within {INSTALL_S} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[0]
        raise MissingError(f"npm could not install the MCP inspector: {last}")
    shutil.copy(PINNED / "package-lock.json", PLACE / "installed.json")


class Inspector:
    """The inspector's command line, pointed at one server."""

    def __init__(
        self, program: Path, server: Sequence[str], options: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        self._program = program
        self._server = list(server)
        self._options = list(options)
        self._environ = dict(environ)

    def ask(self, method: str, *options: str, code: int = 0, era: str = "legacy") -> dict[str, Any]:
        """Start the server, call one method, and return what the inspector printed as JSON."""
        argv = [
            "node", str(self._program), "--cli", "--quiet", "--format", "json", "--protocol-era", era,
            "--method", method, *options, *self._options, *self._server,
        ]  # fmt: skip
        done = subprocess.run(
            argv, env=self._environ, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=CALL_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{method} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def call(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        error: bool = False,
        era: str = "legacy",
    ) -> dict[str, Any]:
        """Call a tool; its structured answer, or with `error` the text of its error as {"error": text}."""
        given = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments or {}))
        found = self.ask("tools/call", *given, code=TOOL_ERROR if error else 0, era=era)["result"]
        if error:
            return {"error": found["content"][0]["text"]}
        answer = found["structuredContent"]
        assert isinstance(answer, dict)
        return answer
