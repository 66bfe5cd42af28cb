"""What a tree of ours may hold: kinds of file, names, places, sizes. Pure but for reading blobs."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

from agentflow.errors import PolicyViolation
from agentflow.paths import GIT_CONTROL, path_problem
from agentflow.spec.artifacts import matches
from agentflow.workspace.objects import Reader
from agentflow.workspace.trees import FILE, GITLINK, PROGRAM, SYMLINK, Change, Entry

#: Paths named in one message.
_NAMED_MAX = 10
#: Bytes of a symlink's target, and of a file that can be an LFS pointer.
_SMALL_BYTES = 1024
_LFS_MARK = b"version https://git-lfs.github.com/spec/"

#: Files that change what people's shells, editors, agents and interpreters do (ATTACKS A16). An agent
#: writes them only where an artifact names them.
SENSITIVE_NAMES = frozenset(
    {
        ".bash_profile",
        ".bashrc",
        ".envrc",
        ".gitconfig",
        ".mcp.json",
        ".netrc",
        ".npmrc",
        ".pre-commit-config.yaml",
        ".profile",
        ".pypirc",
        ".zshenv",
        ".zshrc",
        "sitecustomize.py",
        "usercustomize.py",
    }
)
SENSITIVE_DIRECTORIES = frozenset(
    {".claude", ".codex", ".cursor", ".devcontainer", ".github", ".husky", ".idea", ".ssh", ".vscode"}
)


def check_changes(changes: Sequence[Change], allowed: Sequence[str] | None) -> None:
    """Kinds, names and places of all changed paths. Raises `PolicyViolation` that names them."""
    written = [(c.path, c.new) for c in changes if c.new]
    _refuse(
        (path for path, new in written if new.mode == GITLINK),
        "a submodule was added",
        fix="put plain files there",
        code="AF-POLICY-003",
    )
    _refuse(
        (path for path, new in written if new.mode not in {FILE, PROGRAM, SYMLINK, GITLINK}),
        "files have a mode that git does not use",
        fix="write plain files",
        code="AF-POLICY-004",
    )
    _refuse(
        (c.path for c in changes if not GIT_CONTROL.isdisjoint(c.path.casefold().split("/"))),
        "files that steer git were changed",
        fix="leave .gitattributes and .gitmodules alone",
        code="AF-POLICY-009",
    )
    # An odd name that the user's own tree has already is none of the agent's doing.
    for change in changes:
        problem = name_problem(change.path) if change.old is None else None
        if problem:
            raise PolicyViolation(
                f"the name {change.path!r} cannot be taken",
                why=problem[0],
                fix=problem[1],
                code="AF-POLICY-010",
            )
    _check_places([c.path for c in changes], allowed)


def name_problem(path: str) -> tuple[str, str] | None:
    """(reason, fix) when a new path is not one that means the same file everywhere."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not UTF-8", "rename it"
    return path_problem(path)


def _check_places(paths: Iterable[str], allowed: Sequence[str] | None) -> None:
    if allowed is not None:
        _refuse(
            (path for path in paths if not any(matches(pattern, path) for pattern in allowed)),
            "files outside of the declared artifacts were changed",
            fix=f"change only {', '.join(allowed)}; or declare the others under `artifacts:`",
            code="AF-POLICY-011",
        )
        return
    _refuse(
        (path for path in paths if is_sensitive(path)),
        "sensitive files were changed that no artifact names",
        fix="declare them under `artifacts:` if the task is about them",
        code="AF-POLICY-012",
    )


def check_modes(
    reader: Reader,
    changes: Sequence[Change],
    allowed: Sequence[str] | None,
    appends: Sequence[str],
    kept: Sequence[str],
) -> None:
    """What is only read was not changed, and what is only appended to holds its old content first."""
    mine = allowed or ()
    others = [c for c in changes if not any(matches(pattern, c.path) for pattern in mine)]
    _refuse(
        (c.path for c in others if any(matches(pattern, c.path) for pattern in kept)),
        "files that this task only reads were changed",
        fix=f"leave {', '.join(kept)} as it is; or declare it with mode: write",
        code="AF-POLICY-017",
    )
    _refuse(
        (
            c.path
            for c in others
            if any(matches(pattern, c.path) for pattern in appends) and not _has_grown(reader, c)
        ),
        "files that this task may only append to were changed elsewhere than at their end",
        fix="keep what they hold, as it is, and add below it; or declare them with mode: write",
        code="AF-POLICY-018",
    )


def _has_grown(reader: Reader, change: Change) -> bool:
    old, new = change.old, change.new
    if new is None or new.mode not in {FILE, PROGRAM}:
        return False
    if old is None:
        return True
    if old.mode != new.mode:
        return False
    return reader.content(new.oid, "blob").startswith(reader.content(old.oid, "blob"))


def is_sensitive(path: str) -> bool:
    """Whether a path configures people's tools rather than the product."""
    *parents, name = path.casefold().split("/")
    return name in SENSITIVE_NAMES or not SENSITIVE_DIRECTORIES.isdisjoint(parents)


def check_twins(twins: Sequence[tuple[str, str]]) -> None:
    """Refuse paths that are one path on systems without case or with another Unicode form (ATTACKS D22)."""
    _refuse(
        (f"{one} / {other}" for one, other in twins),
        "names differ only in case or Unicode form",
        fix="rename one of each pair",
        code="AF-POLICY-013",
    )


def check_contents(reader: Reader, changes: Sequence[Change], cap: int) -> None:
    """Sizes of what was written, targets of symlinks, LFS pointers. Sizes come before any content."""
    written = [(c.path, c.new) for c in changes if c.new and (c.old is None or c.old.oid != c.new.oid)]
    infos = reader.infos([new.oid for _, new in written])
    total = sum(info.size for info in infos)
    if total > cap:
        raise PolicyViolation(
            f"{total // 2**20} MiB were written; at most {cap // 2**20} MiB are taken",
            fix="keep large and generated files out of the repository (.gitignore)",
            code="AF-POLICY-005",
        )
    small = [(p, new) for (p, new), info in zip(written, infos, strict=True) if info.size <= _SMALL_BYTES]
    links = [path for path, new in written if new.mode == SYMLINK]
    _refuse(
        set(links) - {path for path, _ in small},
        "symlinks have targets longer than any path",
        fix="remove them",
        code="AF-POLICY-014",
    )
    _check_small(reader, small)


def _check_small(reader: Reader, small: Sequence[tuple[str, Entry]]) -> None:
    contents = [(path, new, reader.content(new.oid, "blob")) for path, new in small]
    _refuse(
        (path for path, new, data in contents if new.mode == SYMLINK and leaves_tree(path, data)),
        "symlinks lead out of the repository",
        fix="link to a path inside of it, relative to the link",
        code="AF-POLICY-014",
    )
    _refuse(
        (path for path, new, data in contents if new.mode != SYMLINK and data.startswith(_LFS_MARK)),
        "files are Git LFS pointers",
        fix="write the content itself; LFS is not supported",
        code="AF-POLICY-015",
    )


def leaves_tree(path: str, target: bytes) -> bool:
    """Whether a symlink at `path` leads out of the tree, or into .git.

    Only leading `..` are accepted: after a name, `..` could climb out of another symlink's target.
    """
    text = target.decode("utf-8", "surrogateescape")
    parts = text.split("/")
    climbs = 0
    while climbs < len(parts) and parts[climbs] in {"..", "."}:
        climbs += 1
    ups = parts[:climbs].count("..")
    if text.startswith("/") or not text or ".." in parts[climbs:] or ups > path.count("/"):
        return True
    arrives = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
    return ".git" in arrives.casefold().split("/")


def _refuse(paths: Iterable[str], what: str, *, fix: str, code: str) -> None:
    named = sorted(set(paths))
    if not named:
        return
    shown = ", ".join(name.encode("utf-8", "replace").decode() for name in named[:_NAMED_MAX])
    more = f" and {len(named) - _NAMED_MAX} more" if len(named) > _NAMED_MAX else ""
    text = f"{what}: {shown}{more}"
    raise PolicyViolation(text, fix=fix, code=code, feedback=f"{text}. {fix[:1].upper()}{fix[1:]}.")
