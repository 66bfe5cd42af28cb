"""The release of boltons from PyPI, and a repository in which its modules are hollow."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import string
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from helpers.hollow import hollow
from helpers.repos import commit_all, git, init

VERSION = "26.2.0"
SHA256 = "d39cfd15c1a1c3bd4d705c82252fa9edb8e4f5e8cc039f8e39afac7b1b47e92c"
#: Seconds for pip; it also fetches what the release's own build needs.
DOWNLOAD_S = 120
DATA = Path(__file__).resolve().parents[1] / "acceptance" / "boltons"
FEATURE = DATA / "feature.yaml"
# Found when this module is imported: tests get a home directory of their own.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentflow-tests"


class NoReleaseError(Exception):
    """pip could not bring the release; the text is what it said."""


@dataclass(frozen=True, slots=True)
class World:
    """A repository with hollow modules, and beside it what they were."""

    repo: Path
    originals: Path
    feature: Path
    #: The tree of the release as git names it.
    release_tree: str


def release() -> Path:
    """The sdist of the pinned version, from the user's cache or from a registry.

    Raises `NoReleaseError` when pip cannot bring it, AssertionError when it is another file.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    sdist = CACHE / f"boltons-{VERSION}.tar.gz"
    with (CACHE / "boltons.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not sdist.exists():
            _download(sdist)
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    assert digest == SHA256, f"{sdist} is not the release that these tests know"
    return sdist


def _download(sdist: Path) -> None:
    fresh = CACHE / f"fresh-{os.getpid()}"
    argv = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
        "--disable-pip-version-check", "--dest", str(fresh), f"boltons=={VERSION}",
    ]  # fmt: skip
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
        if done.returncode:
            raise NoReleaseError(done.stderr[-600:])
        (fresh / sdist.name).rename(sdist)
    except subprocess.TimeoutExpired as error:
        raise NoReleaseError(f"pip has not answered for {DOWNLOAD_S} s") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def tasks() -> list[dict[str, Any]]:
    """The nodes of the feature, one for each hollow module."""
    found: list[dict[str, Any]] = yaml.safe_load(FEATURE.read_text())["tasks"]
    return found


def build(sdist: Path, place: Path) -> World:
    """Lay the world out in `place`: the repository has one commit, and that never held the originals."""
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    repo = place / f"boltons-{VERSION}"
    release_tree = _tree_of(repo, place / "release.git")
    originals = place / "originals"
    originals.mkdir()
    for name in (task["id"] for task in tasks()):
        module = repo / "boltons" / f"{name}.py"
        shutil.copy2(module, originals)
        module.write_text(hollow(module.read_text("utf-8")), "utf-8")
    init(repo)
    commit_all(repo, "boltons with hollow modules")
    feature = place / "feature.yaml"
    words = {"restore": str(DATA / "restore.py"), "originals": str(originals)}
    feature.write_text(string.Template(FEATURE.read_text()).substitute(words))
    return World(repo, originals, feature, release_tree)


def _tree_of(directory: Path, git_dir: Path) -> str:
    """The tree id of a directory, by a repository that is thrown away."""
    git(directory, "init", "--quiet", "--bare", str(git_dir))
    with_tree = ("--git-dir", str(git_dir), "--work-tree", str(directory))
    git(directory, *with_tree, "add", "--all", "--force")
    tree = git(directory, *with_tree, "write-tree")
    shutil.rmtree(git_dir)
    return tree
