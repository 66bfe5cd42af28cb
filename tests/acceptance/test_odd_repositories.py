"""Repositories that are odd and allowed: what nobody changed arrives exactly as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from helpers.house import House
from helpers.repos import commit_all, git, init, untouched

TARGET = "agentflow/odd"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Names, modes, links and line ends that trip careless tools, in a place whose name does too."""
    repo = init(tmp_path / "re po'\"$x ü")
    (repo / "a.txt").write_bytes(b"one\r\ntwo\n")
    (repo / "b.id").write_text("$Id$\n")
    (repo / ".gitattributes").write_text("* text=auto eol=crlf\n*.id ident\n")
    (repo / "link").symlink_to("a.txt")
    (repo / "dangling").symlink_to("../../outside")
    (repo / "x.sh").write_text("#!/bin/sh\n")
    (repo / "x.sh").chmod(0o755)
    (repo / "d" / "e").mkdir(parents=True)
    for name in ("d/e/ spaced name.txt", "-dash", "Case", "case", "new\nline", "empty"):
        (repo / name).write_text(name)
    Path(os.fsdecode(os.fsencode(repo) + b"/caf\xe9.txt")).write_text("not UTF-8\n")
    commit_all(repo, "first")
    git(repo, "tag", "--annotate", "v1", "--message", "a tag")
    return repo


def feature(place: Path, script: str) -> Path:
    file = place / "feature.yaml"
    task = {
        "id": "t", "role": "implementer", "prompt": "x", "retries": 0, "acceptance": ["test -x x.sh"],
        "runner": {"command": ["sh", "-c", script]},
    }  # fmt: skip
    file.write_text(yaml.safe_dump({"feature": "Odd", "target": TARGET, "base": "v1", "tasks": [task]}))
    return file


def test_only_what_the_agent_changed_is_changed(house: House, odd: Path, tmp_path: Path) -> None:
    touch = "find . -type f -not -path './.git/*' -exec touch -d 2001-01-01 {} +"
    file = feature(
        tmp_path, f"{touch}; echo new > new.txt; chmod +x empty; rm x.sh; printf x > x.sh; chmod +x x.sh"
    )
    house.cwd = odd
    before = untouched(odd, target=TARGET)
    result = house.finished("run", file)
    assert (result["state"], result["branch"]) == ("landed", TARGET)
    changed = git(odd, "diff-tree", "-r", "--no-commit-id", "--name-status", "main", TARGET).split("\n")
    assert changed == ["M\tempty", "A\tnew.txt", "M\tx.sh"]
    assert untouched(odd, target=TARGET) == before


@pytest.mark.parametrize("place", ["a worktree", "a subdirectory", "a bare repository"])
def test_it_runs_in_any_part_of_a_repository(house: House, odd: Path, tmp_path: Path, place: str) -> None:
    repo = odd
    if place == "a worktree":
        house.cwd = tmp_path / "beside"
        git(odd, "worktree", "add", "--quiet", "-b", "beside", str(house.cwd))
    elif place == "a subdirectory":
        house.cwd = odd / "d" / "e"
    else:
        repo = house.cwd = tmp_path / "bare.git"
        git(tmp_path, "clone", "--quiet", "--bare", str(odd), str(repo))
    result = house.finished("run", feature(tmp_path, "echo new > new.txt"))
    assert (result["state"], result["branch"]) == ("landed", TARGET)
    assert git(repo, "show", f"{TARGET}:new.txt") == "new"
