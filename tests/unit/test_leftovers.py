"""What killed workers leave on a machine, and who may remove it."""

from __future__ import annotations

from pathlib import Path

from agentflow.workspace import leftovers

OURS, THEIRS = "redis://ours:6379/0", "redis://theirs:6379/0"


def leave(data_dir: Path, run: str, url: str) -> Path:
    """A workspace as a killed attempt leaves it."""
    folder = data_dir / "runs" / run
    tree = folder / "work" / "node.1" / "tree"
    tree.mkdir(parents=True)
    (tree / "file").write_text("x")
    (tree / "file").chmod(0o400)
    tree.chmod(0o500)
    leftovers.sign(folder, url)
    return folder


def test_workspaces_of_runs_that_have_ended_go(tmp_path: Path) -> None:
    ended, going, foreign = (
        leave(tmp_path, run, url) for run, url in (("ended", OURS), ("going", OURS), ("foreign", THEIRS))
    )
    assert leftovers.sweep(tmp_path, OURS, lambda: ["going"]) == ["ended"]
    assert not (ended / "work").exists()
    assert (going / "work" / "node.1" / "tree" / "file").read_text() == "x"
    assert (foreign / "work").exists()


def test_nobody_is_asked_where_nothing_is_left(tmp_path: Path) -> None:
    def never() -> list[str]:
        raise AssertionError

    assert leftovers.sweep(tmp_path, OURS, never) == []
