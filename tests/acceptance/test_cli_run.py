"""Runs from the command line: real repositories, a real worker, agents that are shell commands."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyte
import pytest
import yaml
from helpers.cli import Cli, command_line, git, repository
from helpers.wait import wait_until


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """One data directory, server and worker for all tests of this file: that is how they are used."""
    with command_line(tmp_path_factory.mktemp("house")) as cli:
        yield cli


@pytest.fixture
def cli(house: Cli, tmp_path: Path) -> Cli:
    """The command line in a fresh repository."""
    found = Cli(repository(tmp_path / "project", {"README.md": "hello\n"}), house.home, tmp_path)
    found.env = dict(house.env)
    return found


def agent(script: str) -> dict[str, object]:
    """An agent that is a shell script; `$1` is the task's id."""
    return {"command": ["sh", "-c", script, "sh", "{task}"]}


WRITES = agent('echo "by $1" > "$1.txt"')


def feature(cli: Cli, *tasks: dict[str, object], name: str = "feature.yaml", **fields: object) -> None:
    """Write a feature file; every task is a backend's that declares `ID.txt`, unless it says otherwise."""
    full = [
        {"role": "backend", "prompt": "x", "artifacts": [f"{t['id']}.txt"], "runner": WRITES} | t
        for t in tasks
    ]
    (cli.cwd / name).write_text(yaml.safe_dump({"feature": "Two files", **fields, "tasks": full}))


def held(gate: Path) -> dict[str, object]:
    """An agent that waits until a file is there."""
    return agent(f'while [ ! -e {gate} ]; do sleep 0.05; done; echo "by $1" > "$1.txt"')


def newest(cli: Cli) -> str:
    return str(cli.json("runs", "--json")[0]["run"])


def node_state(cli: Cli, run_id: str, node: str) -> str:
    nodes = {n["id"]: n for n in cli.json("status", run_id, "--json")["nodes"]}
    return str(nodes[node]["state"])


class Started:
    """`agentflow` running in the background, its two streams in files."""

    def __init__(self, cli: Cli, place: Path, *words: object) -> None:
        self.out, self.err = place / "out", place / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = cli.start(*words, stdout=out, stderr=err)

    def close(self) -> None:
        """Leave nothing behind, also when the test failed."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def saw(self, text: str) -> None:
        wait_until(lambda: text in self.err.read_text(), timeout=40, what=f"{text!r} on stderr")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        return self.process.wait(60)


@pytest.fixture
def start(cli: Cli, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts commands that are ended with the test."""
    started: list[Started] = []

    def begin(*words: object) -> Started:
        started.append(Started(cli, tmp_path, *words))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def test_a_run_lands_on_a_branch_and_can_be_looked_at(cli: Cli) -> None:
    feature(cli, {"id": "a"}, {"id": "b", "needs": ["a"]})
    before = git(cli.cwd, "status", "--porcelain", "--branch")
    done = cli.run("run")
    assert re.match(r"landed on agentflow/two-files as [0-9a-f]{12}: Two files\n", done.stdout)
    assert "2 files changed" in done.stdout
    assert re.search(r"2/2 nodes in .* of work", done.stdout)
    assert "sandbox: off (not built yet)" in done.stderr
    for node in ("a", "b"):
        assert re.search(rf"^ +\d+\.\ds  {node}  running  ", done.stderr, re.MULTILINE)
        assert re.search(rf"^ +\d+\.\ds  {node}  succeeded", done.stderr, re.MULTILINE)
    assert git(cli.cwd, "show", "agentflow/two-files:b.txt") == "by b\n"
    assert git(cli.cwd, "status", "--porcelain", "--branch") == before
    run_id = newest(cli)
    assert f"{run_id}  landed" in cli.run("runs").stdout
    assert cli.run("why", "a").stdout.startswith("a succeeded in attempt 1")
    assert "+by a" in cli.run("diff", run_id, "a").stdout
    assert "+by b" in cli.run("diff").stdout
    assert {Path(path).suffix for path in cli.run("logs", "a", "--paths").stdout.split()} >= {".log"}
    kinds = [json.loads(line)["kind"] for line in cli.run("events", run_id).stdout.splitlines()]
    assert kinds.count("node.settled") == 3
    assert "agentflow resume" not in done.stdout


def test_json_is_all_that_stands_on_stdout(cli: Cli) -> None:
    feature(cli, {"id": "a"})
    result = cli.json("run", "--json", "-j", "1")
    assert (result["state"], result["exit_code"], result["completed"]) == ("landed", 0, 1)
    assert result["nodes"]["a"]["state"] == "succeeded"


def test_events_are_ndjson_on_stdout_and_the_rest_is_on_stderr(cli: Cli) -> None:
    feature(cli, {"id": "a"})
    done = cli.run("run", "--events")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["kind"] for e in events if e.get("node") == "a"][-1] == "node.settled"
    assert [e["kind"] for e in events].count("run.finished") == 1
    assert (events[-1]["kind"], events[-1]["state"]) == ("run.finished", "landed")
    assert {e["v"] for e in events} == {1}
    assert "landed on" in done.stderr
    assert "a  running" not in done.stderr


def test_only_leaves_the_other_nodes_out(cli: Cli) -> None:
    feature(cli, {"id": "a"}, {"id": "b"})
    assert cli.json("run", "--only", "a", "--json", "--progress", "quiet")["total"] == 1
    assert "b" in cli.run("run", "--only", "bb", code=2).stderr


def test_a_failed_node_is_named_and_resume_goes_on_where_it_was(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "repaired"
    broken = agent(f'echo "no such thing" >&2; test -e {gate} && echo ok > "$1.txt"')
    feature(
        cli,
        {"id": "a"},
        {"id": "b", "needs": ["a"], "runner": broken, "retries": 0},
        {"id": "c", "needs": ["b"]},
    )
    done = cli.run("run", code=1)
    run_id = newest(cli)
    assert re.search(r"^  failed: b after 1 attempt: .+", done.stdout, re.MULTILINE)
    assert f"look: agentflow why {run_id} b; agentflow logs {run_id} b" in done.stdout
    assert f"next: agentflow resume {run_id}" in done.stdout
    assert "no such thing" in cli.run("logs", run_id, "b").stdout
    assert "no such thing" in cli.run("why", run_id, "b").stdout
    assert "agentflow/two-files" not in git(cli.cwd, "branch", "--list", "agentflow/*")
    gate.touch()
    assert cli.run("resume", run_id).stdout.startswith("landed on agentflow/two-files")
    events = [json.loads(line) for line in cli.run("events", run_id).stdout.splitlines()]
    assert [e["kind"] for e in events if e.get("node") == "a"].count("node.started") == 1


def test_a_detached_run_can_be_watched_and_lands_then(
    cli: Cli, tmp_path: Path, start: Callable[..., Started]
) -> None:
    gate = tmp_path / "go"
    feature(cli, {"id": "a", "runner": held(gate)})
    run_id = cli.run("run", "--detach").stdout.strip()
    wait_until(lambda: node_state(cli, run_id, "a") == "running", timeout=30, every=0.3)
    watching = start("watch", run_id)
    watching.saw("running")  # it began before or after
    watching.interrupt()
    assert watching.ended() == 130
    assert f"agentflow watch {run_id}" in watching.err.read_text()
    gate.touch()
    assert cli.run("watch", run_id).stdout.startswith("landed on ")


def test_no_land_leaves_the_branch_to_the_land_command(cli: Cli) -> None:
    feature(cli, {"id": "a"})
    assert cli.run("run", "--no-land").stdout.startswith("ready to land on agentflow/two-files")
    assert not git(cli.cwd, "branch", "--list", "agentflow/*")
    assert cli.run("land").stdout.startswith("landed on agentflow/two-files")
    assert git(cli.cwd, "show", "agentflow/two-files:a.txt") == "by a\n"


def test_the_first_interrupt_drains_and_resume_goes_on(
    cli: Cli, tmp_path: Path, start: Callable[..., Started]
) -> None:
    gate = tmp_path / "go"
    feature(cli, {"id": "a", "runner": held(gate)}, {"id": "b", "needs": ["a"]})
    running = start("run")
    running.saw("a  running")
    running.interrupt()
    running.saw("draining")
    gate.touch()
    assert running.ended() == 130
    run_id = newest(cli)
    assert node_state(cli, run_id, "a") == "succeeded"
    assert node_state(cli, run_id, "b") != "succeeded"
    assert f"agentflow resume {run_id}" in running.out.read_text()
    assert cli.run("resume", run_id).stdout.startswith("landed on ")


def test_the_second_interrupt_cancels_and_ends_the_agents(
    cli: Cli, tmp_path: Path, start: Callable[..., Started]
) -> None:
    gate = tmp_path / "never"
    feature(cli, {"id": "a", "runner": held(gate)}, {"id": "b", "needs": ["a"]})
    running = start("run")
    running.saw("a  running")
    running.interrupt()
    running.saw("draining")
    running.interrupt()
    assert running.ended() == 130
    assert node_state(cli, newest(cli), "b") == "cancelled"
    wait_until(lambda: not [p for p in psutil.process_iter() if str(gate) in " ".join(_words(p))])


def test_cancel_from_another_terminal_ends_the_run(
    cli: Cli, tmp_path: Path, start: Callable[..., Started]
) -> None:
    feature(cli, {"id": "a", "runner": held(tmp_path / "never")})
    running = start("run")
    running.saw("a  running")
    cli.run("cancel")
    assert running.ended() == 130
    assert cli.json("status", newest(cli), "--json")["state"] == "cancelled"


def test_a_killed_supervisor_does_not_end_an_attached_run(
    cli: Cli, tmp_path: Path, start: Callable[..., Started]
) -> None:
    gate = tmp_path / "go"
    feature(cli, {"id": "a", "runner": held(gate)}, {"id": "b", "needs": ["a"]})
    running = start("run")
    running.saw("a  running")
    local = cli.json("status", "--json")["local"]
    os.kill(local["supervisor"], signal.SIGKILL)
    gate.touch()
    assert running.ended() == 0, running.err.read_text()
    assert running.out.read_text().startswith("landed on ")


def test_the_live_view_fits_a_small_terminal_and_stays_at_the_end(cli: Cli) -> None:
    feature(cli, *({"id": f"n{i:02}"} for i in range(12)))
    seen = on_terminal(cli, "run", rows=8, columns=60)
    assert "Two files" in seen
    assert "12/12 done" in seen
    assert "more" in seen or "… and" in seen
    assert "landed on agentflow/two-files" in seen
    # In a terminal of eight rows nothing was torn: each node that ended has left one whole line.
    screen = pyte.HistoryScreen(60, 8, history=500, ratio=1)
    pyte.Stream(screen).feed(seen)
    above = ["".join(row[i].data for i in range(60)) for row in screen.history.top]
    for number in range(12):
        told = [line for line in [*above, *screen.display] if line.startswith(f"✓ n{number:02} ")]
        assert len(told) == 1
        assert "succeeded in" in told[0]


def test_no_color_is_obeyed_on_a_terminal(cli: Cli) -> None:
    feature(cli, {"id": "a"})
    cli.env["NO_COLOR"] = "1"
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", on_terminal(cli, "run"))


def on_terminal(cli: Cli, *words: object, rows: int = 24, columns: int = 80) -> str:
    """Everything that a command writes to a terminal of that size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environ = {name: value for name, value in cli.environ().items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        cli.argv(*words), cwd=cli.cwd, env=environ, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = bytearray()
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(ours)
        assert process.wait(30) == 0, seen.decode(errors="replace")
    return seen.decode()


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
