"""Which paths of a repository a spec may name, and why another one is refused.

They must mean one file on every system, stay below the top of the repository, and keep away from what
git itself reads.
"""

from __future__ import annotations

import re
import unicodedata

PATH_MAX_CHARS = 1024
NAME_MAX_BYTES = 255
#: Never written by an agent: they make git run or fetch things.
GIT_CONTROL = frozenset({".git", ".gitmodules", ".gitattributes"})

_DRIVE = re.compile(r"^[A-Za-z]:")
#: Characters that HFS+ ignores in file names, so that `.g<ZWNJ>it` would be `.git` there.
_IGNORABLE = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def path_problem(text: str) -> tuple[str, str] | None:
    """(reason, fix) when `text` is not a plain relative path in the repository."""
    here = "a path below the top of the repository, with /: src/app.py, src/**, docs/*.md"
    if len(text) > PATH_MAX_CHARS:
        return f"the path is longer than {PATH_MAX_CHARS} characters", here
    if not text.isprintable():
        return "the path holds a control or invisible character", "remove it"
    if "\\" in text or _DRIVE.match(text):
        return "the path is written as on Windows", here
    if text.startswith(("/", "~")):
        return "the path is absolute", here
    if unicodedata.normalize("NFC", text) != text:
        return (
            "the path is not in Unicode form NFC; its twin in that form would be another file",
            f"write it as {unicodedata.normalize('NFC', text)!r} in form NFC",
        )
    return next(filter(None, map(_part_problem, text.split("/"))), None)


def _part_problem(part: str) -> tuple[str, str] | None:
    """(reason, fix) when one component of a path cannot be."""
    bare = _IGNORABLE.sub("", part).rstrip(" .").casefold()
    git = bare in GIT_CONTROL or re.fullmatch(r"git~\d+", bare)
    rules: list[tuple[bool, str, str]] = [
        (part in {"", "."}, "the path has an empty component", "write it without //, ./ and a trailing /"),
        (part == "..", "the path leaves the repository", "name it from the top of the repository"),
        (bool(git), f"{part!r} belongs to git: no agent may write or name it", "leave it out"),
        (part.startswith(" "), f"{part!r} starts with a space", "some file systems drop it: rename"),
        (
            part.endswith((" ", ".")),
            f"{part!r} ends in a dot or a space",
            "some file systems drop it: rename",
        ),
        (
            part.startswith("-"),
            f"{part!r} starts with a dash: commands would take it for an option",
            "rename",
        ),
        (
            len(part.encode()) > NAME_MAX_BYTES,
            f"a component is longer than {NAME_MAX_BYTES} bytes",
            "shorten it",
        ),
    ]
    return next(((reason, fix) for is_so, reason, fix in rules if is_so), None)


def pattern_problem(text: str) -> tuple[str, str] | None:
    """(reason, fix) when `text` is not an artifact pattern: a file, `dir/**`, `dir/*.ext` or `**`."""
    if not text:
        return "the pattern is empty", "a file, dir/** or dir/*.ext"
    if text.endswith("/") and text.strip("/"):
        return "a directory is written with **", f"{text.rstrip('/')}/**"
    return path_problem(text) or _wildcard_problem(text)


def _wildcard_problem(text: str) -> tuple[str, str] | None:
    *parents, last = text.split("/")
    if any(char in text for char in "?[]{}!"):
        return "only * and ** are known in patterns", "a file, dir/** or dir/*.ext"
    if any("*" in parent for parent in parents):
        top = text.split("*", 1)[0].rpartition("/")[0]
        return "* may stand in the last component only", f"{top}/**" if top else "**"
    if "**" in last and last != "**":
        return "** stands alone after a directory", "/".join([*parents, "**"])
    return None


def plain_path_problem(text: str) -> tuple[str, str] | None:
    """(reason, fix) when `text` is not the path of one file or directory."""
    if "*" in text:
        return "expected one path, not a pattern", "name the file or directory"
    return pattern_problem(text)
