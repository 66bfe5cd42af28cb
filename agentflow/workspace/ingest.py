"""Taking an attempt's commit into the store: git checks the objects, the tree policy checks the rest.

`index-pack --strict` refuses malformed objects, `.git` in all its spellings and dangerous .gitmodules.
It accepts symlinks out of the tree, gitlinks, odd names and odd modes (ATTACKS D12): those are ours to
refuse. Everything happens in a quarantine; what is refused never becomes readable in the store.
`git fetch` of a bundle is not used: before git 2.46 it checks nothing.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from agentflow.errors import PolicyViolation
from agentflow.spec.artifacts import matches
from agentflow.workspace import policy
from agentflow.workspace.commit import CHANGED_MAX_FILES, WRITTEN_MAX_BYTES, Recorded
from agentflow.workspace.gitcmd import IDENTITY, Git, GitError, check_oid
from agentflow.workspace.objects import COMMITS, Commit, Reader, build_commit, parse_commit
from agentflow.workspace.store import Store
from agentflow.workspace.trees import Change, Comparison

#: Bytes of a pack that are read: what an attempt may write, and what it takes to pack it.
PACK_MAX_BYTES = WRITTEN_MAX_BYTES + WRITTEN_MAX_BYTES // 2
#: Objects of a pack: each changed file, with the directories above it.
PACK_MAX_OBJECTS = 4 * CHANGED_MAX_FILES
#: Changed paths of a whole run that are compared.
RESULT_MAX_FILES = 1_000_000
#: Bytes of a commit object: its message is capped at 10 KB, its parents are one.
_COMMIT_MAX_BYTES = 64 * 1024


def ingest(
    store: Store,
    recorded: Recorded,
    ref: str,
    *,
    allowed: Sequence[str] | None = None,
    appends: Sequence[str] = (),
    kept: Sequence[str] = (),
) -> tuple[str, ...]:
    """Check a recorded commit and take it into the store as `ref`; returns the paths that it changes.

    The paths are read from the trees, not from `recorded`. `allowed` are the declared artifacts (None:
    everything but sensitive paths), `appends` further ones that may only have grown at their end, `kept` such
    as may not have been changed. Raises `PolicyViolation` naming the paths; the store is unchanged then.
    """
    check_oid(recorded.commit)
    _check_pack(recorded.pack)
    with store.quarantine() as quarantine:
        git = Git(store.git_dir, objects=quarantine)
        _index_pack(git, recorded.pack)
        with Reader(git) as reader:
            commit = _check_commit(reader, recorded)
            base = store.commit(recorded.base)
            changes = _check_trees(reader, base.tree, commit.tree, _both(allowed, appends))
            policy.check_modes(reader, changes, allowed, appends, kept)
        store.adopt(quarantine)
    COMMITS.put(store.git, recorded.commit, commit)
    store.keep(ref, recorded.commit)
    store.tidy()
    return tuple(change.path for change in changes)


def _both(allowed: Sequence[str] | None, appends: Sequence[str]) -> Sequence[str] | None:
    return None if allowed is None else [*allowed, *appends]


def check_result(store: Store, base: str, result: str, named: Sequence[str]) -> None:
    """Check what a whole run made of `base`, when it comes from machines that are not this one.

    The tree policy as for an attempt, but for sizes; `named` are the artifacts of all nodes, which may name
    sensitive files. Raises `PolicyViolation`.
    """
    if result == base:
        return
    if store.git.call("merge-base", "--is-ancestor", base, check_oid(result), ok=(0, 1)).returncode:
        raise PolicyViolation(
            f"the result {result[:12]} is not built on {base[:12]}",
            fix="see who may write to Redis, and run the feature again",
            code="AF-POLICY-002",
        )
    with Reader(store.git) as reader:
        difference = Comparison(reader, RESULT_MAX_FILES).run(
            store.commit(base).tree, store.commit(result).tree
        )
        unnamed = [c for c in difference.changes if not any(matches(pattern, c.path) for pattern in named)]
        policy.check_changes(difference.changes, ("**",))
        policy.check_changes(unnamed, None)
        policy.check_contents(reader, difference.changes, sys.maxsize)


def changed_paths(git: Git, base: str, commit: str) -> list[str]:
    """The paths in which two commits differ, as `ingest` told them when it took the later one."""
    with Reader(git) as reader:
        trees = [parse_commit(reader.content(check_oid(oid), "commit")).tree for oid in (base, commit)]
        difference = Comparison(reader, RESULT_MAX_FILES).run(*trees)
        return [change.path for change in difference.changes]


def _check_pack(pack: Path) -> None:
    """Refuse by the header what would take long to index."""
    with pack.open("rb") as stream:
        header = stream.read(12)
    if len(header) < 12 or header[:4] != b"PACK":  # noqa: PLR2004  # the length of a pack's header
        raise PolicyViolation("what came is not a pack of git objects", code="AF-POLICY-001")
    count = struct.unpack(">I", header[8:])[0]
    if count > PACK_MAX_OBJECTS:
        raise PolicyViolation(
            f"the pack holds {count} objects; at most {PACK_MAX_OBJECTS} are taken", code="AF-POLICY-006"
        )


def _index_pack(git: Git, pack: Path) -> None:
    with pack.open("rb") as source:
        try:
            git.call(
                "index-pack",
                "--stdin",
                "--strict",
                "--threads=1",
                f"--max-input-size={PACK_MAX_BYTES}",
                source=source,
            )
        except GitError as error:
            if "No space left" in error.stderr:
                raise
            raise PolicyViolation(
                "git refuses the objects of this commit",
                why=error.stderr[-1000:],
                fix="write plain files with plain names",
                code="AF-POLICY-001",
            ) from error


def _check_commit(reader: Reader, recorded: Recorded) -> Commit:
    """The commit has one parent, the base, and is agentflow's own (ATTACKS D19, D21)."""
    data = reader.content(recorded.commit, "commit", cap=_COMMIT_MAX_BYTES)
    commit = parse_commit(data)
    rebuilt, _ = build_commit(commit.tree, commit.parents, commit.date, commit.message)
    if commit.parents != (recorded.base,) or commit.author != IDENTITY or rebuilt != recorded.commit:
        raise PolicyViolation(
            f"commit {recorded.commit} is not one commit by agentflow on {recorded.base}",
            why=f"parents {', '.join(commit.parents) or 'none'}, by {commit.author!r}",
            code="AF-POLICY-002",
        )
    return commit


def _check_trees(reader: Reader, base: str, new: str, allowed: Sequence[str] | None) -> list[Change]:
    """The tree policy. The comparison is bounded, so it can come first."""
    difference = Comparison(reader, CHANGED_MAX_FILES).run(base, new)
    if not reader.content(new, "tree"):
        raise PolicyViolation(
            "every file was deleted", fix="keep what the task does not name", code="AF-POLICY-008"
        )
    policy.check_twins(difference.twins)
    policy.check_changes(difference.changes, allowed)
    policy.check_contents(reader, difference.changes, WRITTEN_MAX_BYTES)
    return difference.changes
