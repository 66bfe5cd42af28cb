"""Print the part of requirements.lock that the program itself needs: no tools for tests, types and lint.

    python deploy/runtime_lock.py requirements.lock pyproject.toml [NAME ...] > runtime.lock

Each pin in the lock says whose need it is (`# via`); what is kept is what `project.dependencies` and the
further NAMEs come to. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> dict[str, list[str]]:
    """Name -> its lines, from the pin to the end of its annotation."""
    pins: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            lines = pins[normal(_first_name(line))] = []
        lines.append(line)
    return pins


def _first_name(text: str) -> str:
    found = _NAME.match(text)
    if not found:
        sys.exit(f"not a requirement: {text}")
    return found[0]


def needed_by(lines: list[str]) -> set[str]:
    """Who needs a pin, by its annotation."""
    notes = [
        line.strip("# \t").removeprefix("via").strip() for line in lines if line.lstrip().startswith("#")
    ]
    return {normal(_first_name(note)) for note in notes if note and not note.startswith("-")}


def select(pins: dict[str, list[str]], roots: set[str]) -> list[str]:
    """The names of `roots` and of all that they need, in the lock's order."""
    missing = sorted(roots - pins.keys())
    if missing:
        sys.exit(f"requirements.lock does not hold {', '.join(missing)}: `make lock` writes it anew")
    kept = set(roots)
    while True:
        more = {name for name, lines in pins.items() if name not in kept and needed_by(lines) & kept}
        if not more:
            return [name for name in pins if name in kept]
        kept |= more


def main() -> None:
    """Read the files that are named, print the selection."""
    lock, project, *names = sys.argv[1:]
    pins = read_lock(Path(lock).read_text("utf-8"))
    asked = tomllib.loads(Path(project).read_text("utf-8"))["project"]["dependencies"]
    roots = {normal(_first_name(text)) for text in [*asked, *names]}
    for name in select(pins, roots):
        sys.stdout.write("\n".join(pins[name]) + "\n")


if __name__ == "__main__":
    main()
