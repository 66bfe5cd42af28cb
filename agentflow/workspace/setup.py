"""What a workspace needs before anything runs (`npm ci`, a venv): made once per machine and key.

The key is what decides the outcome: the commands, the content of the key files at the base, and what is
kept. It is made in place, where it stays (a venv holds its own path), then made read-only and linked
into every workspace. What is not kept is removed, so that no stale source is imported from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from agentflow.errors import AttemptError, InfraError
from agentflow.workspace import clone, commands
from agentflow.workspace.commands import WORKER_HOME, Terms
from agentflow.workspace.store import Store, locked

#: Changes when the way of making a setup changes; older ones are made again.
_VERSION = 1


class SetupSpec(Protocol):
    """`setup:` of a spec or of a plan."""

    @property
    def commands(self) -> Sequence[Sequence[str]]:
        """What to run, in order, at the top of a checkout of the base."""
        ...

    @property
    def key(self) -> Sequence[str]:
        """Files whose content decides what comes out."""
        ...

    @property
    def keep(self) -> Sequence[str]:
        """Paths that are kept and linked into workspaces."""
        ...


def setup_key(store: Store, spec: SetupSpec | None, base_commit: str) -> str:
    """The name of what `spec` makes of a commit; empty without a setup."""
    if spec is None:
        return ""
    asked = "".join(f"{base_commit}:{path}\n" for path in spec.key).encode()
    files = store.git.out("cat-file", "--batch-check=%(objectname)", data=asked).splitlines() if asked else []
    blobs = [None if line.endswith(" missing") else line for line in files]
    parts = [
        _VERSION,
        [list(c) for c in spec.commands],
        list(zip(spec.key, blobs, strict=True)),
        list(spec.keep),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def provide(
    store: Store, spec: SetupSpec | None, base_commit: str, dest: Path, *, data_dir: Path, terms: Terms
) -> str:
    """Link the setup of `base_commit` into the checkout `dest`, making it first if need be; returns its key.

    Raises `AttemptError` with the output when a command fails, `AttemptTimeout`, `AttemptCancelled`.
    """
    if spec is None:
        return ""
    key = setup_key(store, spec, base_commit)
    place = data_dir.absolute() / "setup" / store.name / key
    if not (place / "ready").exists():
        with locked(place.with_suffix(".lock"), stop=terms.stop, deadline=terms.deadline):
            if not (place / "ready").exists():
                _make(store, spec, base_commit, place, terms)
    for name in spec.keep:
        _link(place / "tree" / name, dest / name)
    clone.hide(dest, spec.keep)
    return key


def _make(store: Store, spec: SetupSpec, base_commit: str, place: Path, terms: Terms) -> None:
    """Run the commands in a checkout of the base and keep what is to be kept."""
    clone.remove_tree(place)
    place.mkdir(parents=True)
    workspace = clone.prepare(store, base_commit, place / "tree")
    # It is made once for all attempts, by the project's own word: with the worker's HOME, where the keys
    # of package registries are, not with that of the attempt which happens to be the first.
    shared = {"HOME": terms.env[WORKER_HOME]} if WORKER_HOME in terms.env else {}
    for command in spec.commands:
        done = commands.run(command, workspace.root, terms, shared)
        if not done.ok:
            raise AttemptError(
                f"setup failed: {commands.named(command)} ended with {commands.how_it_ended(done)}",
                why=commands.tail(done.output)[-1500:],
                fix="run the command in a fresh clone of the base and correct `setup:`",
                code="AF-SETUP-001",
                feedback=commands.tail(done.output),
            )
    missing = [name for name in spec.keep if not (workspace.root / name).exists()]
    if missing:
        raise AttemptError(
            f"setup did not make what it is to keep: {', '.join(missing)}",
            fix="correct `keep:`, or the commands",
            code="AF-SETUP-002",
        )
    clone.remove_tree(workspace.state)
    _keep_only(workspace.root, [Path(name) for name in spec.keep])
    (place / "ready").touch()


def _keep_only(root: Path, keep: Sequence[Path]) -> None:
    """Remove what is not kept, and make the rest read-only."""
    above = {parent for name in keep for parent in name.parents}
    for top, directories, files in os.walk(root):
        here = Path(top).relative_to(root)
        for name in [*directories, *files]:
            path = here / name
            if path not in keep and path not in above:
                _remove(root / path)
        directories[:] = [name for name in directories if here / name in above]
    for kept in keep:
        _make_read_only(root / kept)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        clone.remove_tree(path)
    else:
        path.unlink()


def _make_read_only(path: Path) -> None:
    writable = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    below = [Path(top) / name for top, directories, files in os.walk(path) for name in [*directories, *files]]
    for one in [path, *below]:
        if not one.is_symlink():
            one.chmod(one.stat().st_mode & ~writable)


def _link(source: Path, target: Path) -> None:
    """Put a link where a workspace expects the kept path."""
    if target.exists() or target.is_symlink():
        raise InfraError(
            f"setup keeps {target.name!r}, which the repository has itself",
            why="the kept path would hide files of the base",
            fix="keep only what the commands make",
            code="AF-SETUP-003",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)
