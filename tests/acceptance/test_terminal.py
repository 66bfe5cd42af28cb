"""A run watched in a real terminal: what fits, what stays, what an old or strange terminal gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import Cli, command_line, repository
from helpers.terminal import Terminal, terminal
from helpers.wait import wait_until

SIZES = [(80, 24), (120, 40)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with command_line(tmp_path_factory.mktemp("house")) as cli:
        yield cli


@pytest.fixture
def cli(house: Cli, tmp_path: Path) -> Cli:
    found = Cli(repository(tmp_path / "project", {"README.md": "hello\n"}), house.home, tmp_path)
    found.env = {name: value for name, value in house.env.items() if name != "COLUMNS"}
    return found


def feature(cli: Cli, *tasks: dict[str, Any], **fields: object) -> None:
    whole = [
        {"role": "backend", "prompt": "x", "artifacts": [f"{t['id']}.txt"], "retries": 0} | t for t in tasks
    ]
    content = yaml.safe_dump({"feature": "Wide", **fields, "tasks": whole})
    (cli.cwd / "feature.yaml").write_text(content)


def agent(script: str) -> dict[str, object]:
    return {"command": ["sh", "-c", script, "sh", "{task}"]}


def writes(gate: Path | None = None) -> dict[str, object]:
    """An agent that writes its file, once the gate is there."""
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done; " if gate else ""
    return agent(f'{wait}echo "by $1" > "$1.txt"')


def shown(
    cli: Cli, *words: object, columns: int = 80, rows: int = 24, **env: str
) -> AbstractContextManager[Terminal]:
    """`agentflow` typed in a terminal."""
    environ = {"LANG": "C.UTF-8", **cli.environ(), **env}
    for name in ("COLUMNS", "LINES", "LC_ALL", "NO_COLOR", "GITHUB_ACTIONS"):
        if name not in env:
            environ.pop(name, None)
    return terminal(cli.argv(*words), cwd=cli.cwd, env=environ, columns=columns, rows=rows)


def block(lines: list[str]) -> list[str]:
    """The block that is drawn again, from its head on."""
    heads = [i for i, line in enumerate(lines) if re.search(r"\d+/\d+ done", line)]
    assert len(heads) == 1, "\n".join(lines)
    return lines[heads[0] :]


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_forty_nodes_fit_the_terminal_and_each_that_ends_leaves_one_line(
    cli: Cli, tmp_path: Path, columns: int, rows: int
) -> None:
    gate = tmp_path / "gate"
    early = [{"id": f"early{i}", "runner": writes()} for i in range(6)]
    late = [{"id": f"late{i}", "runner": writes(gate)} for i in range(6)]
    after = [{"id": f"after{i}", "needs": [f"late{i % 6}"], "runner": writes()} for i in range(28)]
    feature(cli, {"id": "bad", "runner": agent("echo no; exit 3")}, *early, *late, *after)
    with shown(cli, "run", "-j", "20", columns=columns, rows=rows) as seen:
        seen.shows(lambda lines: "6 running" in block(lines)[0] and "7/41 done" in block(lines)[0])
        lines = block(seen.lines)
        assert len([line for line in lines if line]) < rows
        assert "1 failed" in lines[0]
        assert re.match(r"✗ bad +backend +failed after 1 attempt", lines[1])
        assert sum("running" in line for line in lines[2:]) == 6
        assert re.search(r"… and \d+ pending", "\n".join(lines))
        assert any("waits for late" in line for line in lines)
        seen.shows("workers 1 process (1 working), 6/")
        gate.touch()
        assert seen.ended() == 1
        told = seen.everything
    for name in ("bad", *(f"early{i}" for i in range(6)), *(f"late{i}" for i in range(6))):
        assert sum(bool(re.match(rf"[✓✗] {name} ", line)) for line in told) == 1, name
    assert sum(bool(re.match(r"✓ after\d+ ", line)) for line in told) == 28
    assert [line for line in told if re.search(r"\d+/41 done", line)] == [
        line for line in told if "41/41 done" in line
    ]
    assert "  failed: bad after 1 attempt: the command failed (exit code 3)" in "\n".join(told)


def test_another_size_in_the_middle_leaves_one_whole_block(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    tasks = [{"id": f"n{i}", "runner": writes(gate)} for i in range(12)]
    feature(cli, {"id": "first", "runner": writes()}, *tasks)
    with shown(cli, "run", "-j", "20", columns=120, rows=40) as seen:
        seen.shows("12 running")
        seen.shows("✓ first")
        for columns, rows in ((80, 24), (60, 12), (120, 40), (50, 50)):
            seen.resize(columns, rows)
            seen.shows(lambda lines: len(block(lines)) > 3)
            seen.shows(lambda lines: sum("running" in line for line in block(lines)[1:]) >= 3)
            assert all(len(line) <= columns for line in seen.lines)
            assert sum(line.startswith("✓ first") for line in seen.lines) == 1
        gate.touch()
        assert seen.ended() == 0
        assert "landed on agentflow/wide" in "\n".join(seen.everything)


def test_what_a_file_says_is_never_drawn(cli: Cli) -> None:
    evil = "[red]Big[/red] \x1b]0;title\x07\x1b[2Jthing\u202e"
    feature(
        cli, {"id": "a", "runner": agent("printf '\\033[2J\\033]0;owned\\007no' >&2; exit 2")}, feature=evil
    )
    with shown(cli, "run") as seen:
        assert seen.ended() == 1
        assert "[red]Big[/red] thing" in "\n".join(seen.everything)
        assert b"\x1b[2J" not in seen.raw
        assert b"\x1b]" not in seen.raw


@pytest.mark.parametrize(
    "env",
    [{"TERM": "linux"}, {"TERM": "xterm", "LC_ALL": "C"}, {"TERM": "xterm", "PYTHONIOENCODING": "latin-1"}],
)
def test_a_terminal_without_our_signs_gets_ascii(cli: Cli, env: dict[str, str]) -> None:
    feature(cli, {"id": "a", "runner": writes()}, {"id": "b", "needs": ["a"], "runner": writes()})
    with shown(cli, "run", **env) as seen:
        assert seen.ended() == 0
        assert bytes(seen.raw).isascii()
        told = seen.everything
        assert any(re.match(r"\+ a +backend +succeeded", line) for line in told)
        assert any("2/2 done" in line and "####" in line for line in told)


def test_without_colours_the_words_say_the_same(cli: Cli) -> None:
    feature(cli, {"id": "a", "runner": writes()})
    with shown(cli, "run", NO_COLOR="1") as seen:
        assert seen.ended() == 0
        assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", seen.raw)
        assert any(re.match(r"✓ a +backend +succeeded in", line) for line in seen.everything)


def test_the_cursor_comes_back_when_the_watcher_leaves(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    feature(cli, {"id": "a", "runner": writes(gate)})
    run_id = cli.run("run", "--detach").stdout.strip()
    with shown(cli, "watch", run_id) as seen:
        seen.shows("running")
        assert seen.raw.count(b"\x1b[?25l") == 1
        seen.interrupt()
        assert seen.ended() == 130
        assert seen.raw.rstrip().count(b"\x1b[?25h") == 1
        assert f"still running; agentflow watch {run_id}" in seen.text
    gate.touch()
    wait_until(lambda: cli.json("status", run_id, "--json")["state"] == "ready_to_land", timeout=40)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(cli: Cli) -> None:
    feature(cli, {"id": "a", "runner": writes()})
    with shown(cli, "run", TERM="dumb") as seen:
        assert seen.ended() == 0
        assert b"\x1b" not in seen.raw
        assert any(re.match(r" +\d+\.\ds  a  running", line) for line in seen.everything)
