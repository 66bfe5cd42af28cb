"""`agentflow demo`: the packaged example, seen to do what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.cli import Cli, command_line, git


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with command_line(tmp_path) as found:
        yield found


def test_the_demo_makes_a_repository_and_lands_the_feature_in_it(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "made"
    done = cli.run("demo", "--keep", place, timeout=120)
    assert f"repository: {place}" in done.stderr
    assert "scripted" in done.stderr
    assert f"look: cd {place}" in done.stderr
    assert "landed on agentflow/finish-the-shop" in done.stdout
    assert re.search(r"7/7 nodes in", done.stdout)
    assert git(place, "log", "--format=%s", "main").splitlines() == ["A small shop, not finished"]
    assert "checkout" in git(place, "show", "--stat", "--format=", "main", "agentflow/finish-the-shop")
    # What the example is there to show.
    assert re.search(r"money  retries  .*failed", done.stderr)
    assert re.search(r"(taxes|discounts)  waits  .*shop/pricing\.py", done.stderr)
    assert re.search(r"(cart|receipt)  retries  .*shop/__init__\.py", done.stderr)
    left = [p for p in psutil.process_iter(["cmdline"]) if str(place) in " ".join(p.info["cmdline"] or [])]
    assert not left, "the scripted model ends with the demo"


def test_the_demo_does_not_write_into_a_directory_that_is_in_use(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    assert "is there already" in cli.run("demo", "--keep", tmp_path, code=2).stderr
    assert not cli.home.exists()
