"""Verified work that was made from the same things is used again, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import git, repository
from helpers.house import House

Task = dict[str, Any]


@pytest.fixture
def project(house: House) -> House:
    repository(house.cwd, {"README.md": "hello\n"})
    return house


def script(tmp_path: Path, name: str) -> dict[str, object]:
    """An agent that notes each of its attempts."""
    return {"command": ["sh", "-c", f'echo {name} >> {tmp_path}/attempts; echo "by {name}" > {name}.txt']}


def tasks(tmp_path: Path) -> list[Task]:
    """a, then b and a review of it; a and b are proved by a test."""
    return [
        {"id": "a", "acceptance": ["test -f a.txt"], "artifacts": ["a.txt"], "runner": script(tmp_path, "a")},
        {"id": "b", "needs": ["a"], "acceptance": ["test -f b.txt"], "runner": script(tmp_path, "b")},
        {"id": "r", "needs": ["b"], "output": "report", "runner": script(tmp_path, "r")},
    ]


def run(project: House, some: list[Task], *words: str, code: int = 0, **fields: object) -> dict[str, Any]:
    full = [{"role": "backend", "prompt": "x", **task} for task in some]
    spec = {"feature": "Letters", "target": "letters", **fields, "tasks": full}
    (project.cwd / "feature.yaml").write_text(yaml.safe_dump(spec))
    return project.finished("run", "--no-land", *words, code=code)


def done(tmp_path: Path) -> str:
    """The nodes that were worked at since the last call, in order."""
    log = tmp_path / "attempts"
    names = "".join(sorted(log.read_text().split())) if log.exists() else ""
    log.unlink(missing_ok=True)
    return names


def test_a_second_run_uses_verified_commits_again(project: House, tmp_path: Path) -> None:
    first = run(project, tasks(tmp_path))
    assert done(tmp_path) == "abr"
    second = run(project, tasks(tmp_path))
    # Nothing proves a report: it is made anew.
    assert done(tmp_path) == "r"
    assert second["commit"] == first["commit"]
    for name in "ab":
        node = second["nodes"][name]
        assert node["reused"] == f"{first['run']}/{name}"
        assert (node["attempts"], node["usage"].get("calls", 0)) == (1, 0)
        assert node["commit"] == first["nodes"][name]["commit"]
    assert {e.node for e in project.events(second["run"]) if e.kind == "node.reused"} == {"a", "b"}
    assert (
        f"the verified commit of {first['run']}/a is used again"
        in project.run("status", second["run"]).stdout
    )
    assert git(project.cwd, "show", f"{second['nodes']['b']['checkpoint']}:b.txt") == "by b\n"
    run(project, tasks(tmp_path), "--no-cache")
    assert done(tmp_path) == "abr"


def test_what_has_changed_is_done_again_with_what_follows(project: House, tmp_path: Path) -> None:
    some = tasks(tmp_path)[:2]
    run(project, some)
    done(tmp_path)
    some[1]["prompt"] = "y"
    run(project, some)
    assert done(tmp_path) == "b"
    some[0]["acceptance"] = ["test -s a.txt"]
    run(project, some)
    # Its commit is another one (it names its run), so what is built on it has another base.
    assert done(tmp_path) == "ab"


def test_red_and_unproved_work_is_never_used_again(project: House, tmp_path: Path) -> None:
    agent = {name: script(tmp_path, name) for name in "rfb"}
    some = [
        {"id": "r", "acceptance": ["false"], "retries": 0, "runner": agent["r"]},
        {"id": "f", "acceptance": ["true"], "expect": "none", "runner": agent["f"]},
        {"id": "b", "runner": agent["b"]},
    ]
    for _ in range(2):
        run(project, some, code=1)
        assert done(tmp_path) == "bfr"


def test_work_that_others_say_is_good_is_judged_here(project: House, tmp_path: Path) -> None:
    """Whoever can write to Redis can name any commit; it is believed after its tests have passed here."""
    mark = tmp_path / "judged"
    judge = ["sh", "-c", f"echo >> {mark}; test -f a.txt"]
    one = [{"id": "a", "acceptance": [judge], "runner": script(tmp_path, "a")}]
    first = run(project, one)
    second = run(project, one)
    assert (done(tmp_path), mark.read_text()) == ("a", "\n")
    (project.home / "verified.key").unlink()
    again = run(project, one)
    assert again["nodes"]["a"]["reused"] == f"{second['run']}/a"
    assert (done(tmp_path), mark.read_text()) == ("", "\n\n")
    # Now it does not pass any more: it is done again.
    (project.home / "verified.key").unlink()
    client = project.ledger().client
    key = next(client.scan_iter("af:verified:*"))
    forged = client.get(key).replace(first["nodes"]["a"]["commit"], first["base"])
    client.set(key, forged, ex=1000)
    run(project, one)
    assert done(tmp_path) == "a"


def test_what_a_second_attempt_has_made_is_used_again(project: House, tmp_path: Path) -> None:
    """What the first attempt came to is told to the second one; the task is the same all the same."""
    tried = tmp_path / "tried"
    work = f"echo a >> {tmp_path}/attempts; test -e {tried} && echo ok > a.txt; touch {tried}"
    slow = {
        "id": "a",
        "acceptance": ["test -f a.txt"],
        "artifacts": ["a.txt", "b.txt"],
        "runner": {"command": ["sh", "-c", f"echo once > b.txt; {work}"]},
    }
    run(project, [slow])
    assert done(tmp_path) == "aa"
    again = run(project, [slow])
    assert (done(tmp_path), again["nodes"]["a"]["attempts"]) == ("", 1)
