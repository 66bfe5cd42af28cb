"""Files inside one directory, for an agent that must not reach anything else.

A path is refused when it is absolute, climbs out, goes through a link that leads out, or touches git's
own files. What is opened is checked again by descriptor (regular file, size), so that a FIFO or
device put there meanwhile neither hangs nor feeds the worker. An agent that may run commands has the
worker's rights anyway; for all others nothing changes the tree between check and use.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

#: Files above this are not read whole into a worker that serves many attempts.
MAX_FILE_BYTES = 2_000_000
MAX_PATH_CHARS = 1_000


class RefusedError(Exception):
    """A tool cannot do what it was asked; the text is meant for the model."""


class Tree:
    """Reads and writes below `root` only."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def resolve(self, path: str) -> Path:
        """The real place of a path that the model named; raises `RefusedError`."""
        if len(path) > MAX_PATH_CHARS or any(unicodedata.category(c) == "Cc" for c in path):
            raise RefusedError("that is not a path: too long, or it holds control characters")
        if path.startswith(("/", "~")) or "\\" in path:
            raise RefusedError(f"{path!r}: give a path relative to the workspace, with /")
        if ".." in path.split("/"):
            raise RefusedError(f"{path!r}: `..` is not allowed")
        real = Path(os.path.realpath(self.root / path))
        if not real.is_relative_to(self.root):
            raise RefusedError(f"{path!r} leads out of the workspace")
        parts = (*Path(path).parts, *real.relative_to(self.root).parts)
        if any(part.casefold() == ".git" for part in parts):
            raise RefusedError(f"{path!r}: git's own files are not yours; agentflow makes the commit")
        return real

    def name(self, real: Path) -> str:
        """A resolved place as the path that commits and artifact patterns use."""
        return real.relative_to(self.root).as_posix()

    def read(self, path: str) -> str:
        """A text file whole; raises `RefusedError` for anything else."""
        real = self.resolve(path)
        try:
            # O_NONBLOCK: opening a FIFO returns at once instead of waiting for a writer.
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise RefusedError(f"{path!r} does not exist{_near(real)}") from None
        except OSError as error:
            raise RefusedError(f"{path!r}: {error.strerror}") from error
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISDIR(status.st_mode):
                raise RefusedError(f"{path!r} is a directory; use list")
            if not stat.S_ISREG(status.st_mode):
                raise RefusedError(f"{path!r} is not a regular file")
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise RefusedError(f"{path!r} is larger than {MAX_FILE_BYTES:,} bytes; use search")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise RefusedError(f"{path!r} is not UTF-8 text") from None

    def write(self, path: str, content: str) -> None:
        """Put a text file in place, with the directories above it; raises `RefusedError`."""
        real = self.resolve(path)
        try:
            data = content.encode()
            real.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(real, flags, 0o644), "wb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise RefusedError(f"{path!r} is not a regular file")
                file.truncate()
                file.write(data)
        except UnicodeEncodeError:
            raise RefusedError("the content is not valid Unicode text") from None
        except OSError as error:
            raise RefusedError(f"{path!r}: {error.strerror}") from error

    def entries(self, path: str) -> Iterator[str]:
        """Names in a directory, sorted, directories with a `/`; git's own are left out."""
        real = self.resolve(path)
        if not real.is_dir():
            raise RefusedError(f"{path!r} is not a directory")
        with os.scandir(real) as found:
            for entry in sorted(found, key=lambda e: e.name):
                if entry.name.casefold() != ".git":
                    yield entry.name + ("/" if entry.is_dir() else "")


def _near(real: Path) -> str:
    """What else is where a missing file was looked for."""
    if not real.parent.is_dir():
        return ""
    names = sorted(p.name for p in real.parent.iterdir() if p.name != ".git")[:20]
    return f"; there are: {', '.join(names)}" if names else ""
