"""What a run leaves: events, proposal, files, cost, the CI's summary; and status of all that goes on."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import Cli, command_line, git, repository, write
from helpers.wait import wait_until

from agentflow.runners.scripted import Rule, Script, Turn
from agentflow.runners.scripted_server import ScriptedServer


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with command_line(tmp_path_factory.mktemp("house")) as cli:
        yield cli


@pytest.fixture
def cli(house: Cli, tmp_path: Path) -> Cli:
    found = Cli(repository(tmp_path / "project", {"README.md": "hello\n"}), house.home, tmp_path)
    found.env = dict(house.env)
    return found


def agent(script: str) -> dict[str, object]:
    return {"command": ["sh", "-c", script, "sh", "{task}"]}


PYTEST = "{python} -m pytest -q -p no:cacheprovider test_t.py"
WRITES = agent('echo "by $1" > "$1.txt"')


def feature(cli: Cli, *tasks: dict[str, Any], **fields: object) -> None:
    usual = {"role": "backend", "prompt": "x", "runner": WRITES}
    whole = [
        usual | ({} if t.get("output") == "report" else {"artifacts": [f"{t['id']}.txt"]}) | t for t in tasks
    ]
    (cli.cwd / "feature.yaml").write_text(yaml.safe_dump({"feature": "Much", **fields, "tasks": whole}))


def newest(cli: Cli) -> str:
    return str(cli.json("runs", "--json")[0]["run"])


def lines_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def another_than(server: int, cli: Cli) -> bool:
    """Whether a server answers that is not that process."""
    done = cli.run("status", "--json", code=None)
    return done.returncode == 0 and json.loads(done.stdout)["local"]["server"] != server


def finished(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The one end of a stream, which is its last line."""
    assert [e["kind"] for e in events].count("run.finished") == 1
    assert events[-1]["kind"] == "run.finished"
    assert {e["v"] for e in events} == {1}
    return events[-1]


def test_an_event_stream_has_one_end_whatever_happens_to_the_run(cli: Cli, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    feature(
        cli,
        {"id": "a"},
        {"id": "b", "runner": agent(f'test -e {mark} || exit 3; echo > "$1.txt"'), "retries": 0},
    )
    failed = finished(lines_of(cli.run("run", "--events", "ndjson", code=1).stdout))
    assert (failed["state"], failed["exit_code"]) == ("failed", 1)
    run_id = newest(cli)
    mark.touch()
    again = lines_of(cli.run("resume", run_id, "--no-land", "--events=ndjson").stdout)
    assert (finished(again)["state"], finished(again)["exit_code"]) == ("ready_to_land", 0)
    assert [e["state"] for e in again if e["kind"] == "run.closed"] == ["failed", "ready_to_land"]
    cli.run("land", run_id)
    for words in (("events", run_id), ("events", run_id, "--follow")):
        told = lines_of(cli.run(*words).stdout)
        end = finished(told)
        assert (end["state"], end["branch"]) == ("landed", "agentflow/much")
        assert end["commit"] == git(cli.cwd, "rev-parse", "agentflow/much").strip()
        ends = [(e["kind"], e["state"]) for e in told if e["kind"] in ("run.closed", "run.landed")]
        assert ends == [
            ("run.closed", "failed"),
            ("run.closed", "ready_to_land"),
            ("run.landed", "landed"),
        ]


def test_a_follower_sees_the_run_end_once_and_system_events_hold_it(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    feature(cli, {"id": "a", "runner": agent(f'while [ ! -e {gate} ]; do sleep 0.05; done; echo > "$1.txt"')})
    run_id = cli.run("run", "--detach").stdout.strip()
    wait_until(
        lambda: any(n["state"] == "running" for n in cli.json("status", run_id, "--json")["nodes"]),
        timeout=40,
    )
    unfinished = lines_of(cli.run("events", run_id).stdout)
    assert "run.finished" not in {e["kind"] for e in unfinished}
    follower = cli.start("events", run_id, "--follow")
    gate.touch()
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == 0, err
    assert finished(lines_of(out))["state"] == "ready_to_land"
    system = lines_of(cli.run("events", "--system").stdout)
    ours = [e for e in system if e.get("run") == run_id]
    assert [e["kind"] for e in ours if e.get("node") == "a"][-1] == "node.settled"
    assert [e["at"] for e in system] == sorted(e["at"] for e in system)


def test_a_stream_ends_once_though_redis_was_killed_and_the_run_drained(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    holds = agent(f'while [ ! -e {gate} ]; do sleep 0.05; done; echo > "$1.txt"')
    feature(cli, {"id": "a", "runner": holds}, {"id": "b", "needs": ["a"]})
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = cli.start("run", "--events", stdout=stdout, stderr=stderr)
    try:
        wait_until(lambda: "node.started" in out.read_text(), timeout=40, what="a runs")
        server = cli.json("status", "--json")["local"]["server"]
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: another_than(server, cli), timeout=40, what="another Redis serves")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "run.draining" in out.read_text(), timeout=40, what="the run drains")
    finally:
        gate.touch()
        assert process.wait(60) == 130, err.read_text()
    events = lines_of(out.read_text())
    assert finished(events)["state"] == "draining"
    ids = [e["id"] for e in events[:-1]]
    assert len(ids) == len(set(ids))


def test_status_of_everything_says_what_can_be_landed_and_how(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    feature(cli, {"id": "a", "runner": agent(f'while [ ! -e {gate} ]; do sleep 0.05; done; echo > "$1.txt"')})
    run_id = cli.run("run", "--detach").stdout.strip()
    wait_until(
        lambda: any(n["state"] == "running" for n in cli.json("status", run_id, "--json")["nodes"]),
        timeout=40,
    )
    told = cli.run("status").stdout
    assert re.search(r"workers  1 process \(1 \w+\), \d+/\d+ slots taken", told)
    assert cli.json("status", "--json")["workers"][0]["state"] in {"idle", "working"}
    gate.touch()
    wait_until(lambda: cli.json("status", run_id, "--json")["state"] == "ready_to_land", timeout=40)
    assert f"next: agentflow land {run_id}" in cli.run("status").stdout
    overview = cli.json("status", "--json")
    assert {"run": run_id, "command": f"agentflow land {run_id}"} in overview["ready_to_land"]
    assert {"fleet", "queues", "tasks", "runs", "redis", "local"} <= overview.keys()
    assert f"next: agentflow land {run_id}" in cli.run("status", run_id).stdout
    cli.run("land", run_id)
    assert f"agentflow land {run_id}" not in cli.run("status").stdout


def test_the_proposal_of_a_run_with_findings_proof_a_conflict_and_a_failure(cli: Cli, tmp_path: Path) -> None:
    write(
        cli.cwd, {"test_t.py": "import pathlib\ndef test_t():\n    assert pathlib.Path('t.txt').exists()\n"}
    )
    git(cli.cwd, "add", "--all")
    git(cli.cwd, "commit", "--quiet", "--message=test")
    finding = {"severity": "high", "message": "a `hole`", "file": "a.txt", "line": 1}
    finish = {"finish": {"summary": "no", "handoff": "It leaks.", "verdict": "block", "findings": [finding]}}
    rule = Rule(name="review", when=("Much",), turns=(Turn(calls=(finish,)),))
    summary = tmp_path / "summary.md"
    out = tmp_path / "results"
    cli.env |= {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"}
    with ScriptedServer(Script(replies=(rule,))) as server:
        reviewer = {"type": "openai", "base_url": server.url, "model": "tiny"}
        feature(
            cli,
            {"id": "t", "acceptance": [PYTEST], "expect": "red_then_green"},
            {"id": "a", "runner": agent('sleep 1; echo > "$1.txt"')},
            {"id": "b", "artifacts": ["a.txt"], "runner": agent("sleep 1; echo more >> a.txt")},
            {"id": "review", "role": "reviewer", "prompt": "Review", "output": "report", "needs": ["a"],
             "runner": reviewer},
            {"id": "bad", "runner": agent("exit 3"), "retries": 0},
            validate=[PYTEST],
        )  # fmt: skip
        done = cli.run("run", "--out", tmp_path / "early", code=1)
    run_id = newest(cli)
    assert json.loads((tmp_path / "early" / ".status").read_text())["failed_nodes"] == ["bad"]
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        del cli.env[name]
    assert f"::group::agentflow {run_id}: Much\n" in done.stderr
    assert "\n::endgroup::\n" in done.stderr
    assert "::error title=agentflow%3A node bad failed::the command failed (exit code 3)" in done.stderr
    assert "# Much" in summary.read_text()
    assert "```diff" not in summary.read_text()

    found = cli.json("proposal", run_id, "--json")
    assert (found["v"], found["state"], found["failed_nodes"]) == (1, "failed", ["bad"]), done.stderr
    nodes = {n["node"]: n for n in found["nodes"]}
    first = nodes["t"]["judgement"]
    assert (first["verdict"], first["expect"], first["tests"]) == ("passed", "red_then_green", {"passed": 1})
    assert first["commands"][0].endswith("test_t.py")
    assert nodes["t"]["commit"] == git(cli.cwd, "rev-parse", nodes["t"]["checkpoint"]).strip()
    assert "+by t" in nodes["t"]["patch"]["text"]
    assert (nodes["bad"]["state"], nodes["bad"]["judgement"]["verdict"]) == ("failed", "not reached")
    assert [(c["kind"], c["others"]) for c in found["conflicts"]] in ([("edge", ["a"])], [("edge", ["b"])])
    assert [w["reason"] for w in found["waits"] if w["reason"].startswith("lock: a.txt is held for")]
    assert found["costs"]["total"]["attempts"] >= 4

    told = cli.run("proposal", run_id, "--markdown").stdout
    assert "## review (reviewer): block" in told
    assert "| high | a.txt:1 | a \\`hole\\` |" in told
    assert "- **bad** (backend): the command failed (exit code 3)" in told

    written = cli.json("out", run_id, out, "--json")["files"]
    assert sorted(Path(name).name for name in written) == sorted(p.name for p in out.iterdir())
    assert (out / "backend_bad.status").read_text() == "failed\n"
    assert json.loads((out / "reviewer_review_result.json").read_text())["findings"][0]["severity"] == "high"
    stamps = [p.name for p in out.glob("proposal_*.json")]
    assert len(stamps) == 1
    assert re.fullmatch(r"proposal_\d{8}T\d{6}Z\.json", stamps[0])
    cli.run("proposal", run_id, "--out", tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["run"] == run_id
    assert "cannot be written" in cli.run("out", run_id, cli.cwd / "README.md", code=2).stderr


def test_cost_names_the_models_that_were_asked(cli: Cli) -> None:
    turns = (
        Turn(calls=({"write": {"path": "a.txt", "content": "x"}},)),
        Turn(calls=({"finish": {"summary": "done"}},)),
    )
    rule = Rule(name="writer", when=("Much",), turns=turns)
    with ScriptedServer(Script(replies=(rule,))) as server:
        prices = {"input": 1.0, "output": 2.0}
        runner = {"type": "openai", "base_url": server.url, "model": "tiny", "prices": prices}
        feature(cli, {"id": "a", "runner": runner}, {"id": "c"})
        done = cli.json("run", "--json")
    spent = done["nodes"]["a"]["usage"]["models"]["tiny"]
    assert (spent["calls"], done["calls"]) == (2, 2)
    assert spent["cost_usd"] == pytest.approx(done["cost_usd"])
    report = cli.json("cost", done["run"], "--json")
    assert [m["name"] for m in report["models"]] == ["tiny", "(not metered)"]
    assert report["total"]["cost_usd"] == pytest.approx(done["cost_usd"])
    assert re.search(r"^tiny +1 ", cli.run("cost", done["run"]).stdout, re.MULTILINE)


def test_a_log_is_told_what_runs_and_waits_while_nothing_moves(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    holds = agent(f'while [ ! -e {gate} ]; do sleep 0.05; done; echo > "$1.txt"')
    feature(
        cli,
        {"id": "a", "priority": "critical", "runner": holds},
        {"id": "b", "artifacts": ["a.txt"], "runner": agent("echo b >> a.txt")},
    )
    cli.env["AGENTFLOW_HEARTBEAT_S"] = "0.3"
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = cli.start("run", stdout=stream, stderr=stream)
    beat = r"^ +\d+\.\ds  run  0/2 done · 1 running · 1 waiting; "
    beat += r"running: a \(.* s\); waiting: b \(waits for the lock: a.txt"
    try:
        wait_until(lambda: re.search(beat, log.read_text(), re.MULTILINE), timeout=40, what="a heartbeat")
    finally:
        gate.touch()
        assert process.wait(60) == 0, log.read_text()


def test_a_reader_that_goes_away_is_no_traceback(cli: Cli) -> None:
    feature(cli, {"id": "a"})
    cli.run("run")
    process = cli.start("events", newest(cli))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.wait(30)
    process.stderr.close()
