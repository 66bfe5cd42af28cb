"""The command runner with real processes."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.jobs import make_job
from helpers.wait import wait_until

from agentflow.environment import Job, Outcome, PlainEnvironment
from agentflow.errors import AttemptCancelled, AttemptError, AttemptTimeout, ConfigError
from agentflow.runners.registry import make_runner


def job_for(tmp_path: Path, *argv: str, **changes: Any) -> Job:
    runner = {"type": "command", "command": list(argv), **changes.pop("runner", {})}
    return make_job(tmp_path, runner, **changes)


def shell(tmp_path: Path, script: str, **changes: Any) -> Job:
    return job_for(tmp_path, "sh", "-c", script, **changes)


def run(job: Job) -> Outcome:
    return make_runner(job.runner).run(job, PlainEnvironment(job.workspace))


def test_works_in_the_workspace_and_logs(tmp_path: Path) -> None:
    job = shell(tmp_path, "echo x > made; echo working; echo done")
    outcome = run(job)
    assert (job.workspace / "made").read_text() == "x\n"
    assert job.log.read_text() == "working\ndone\n"
    assert (outcome.summary, outcome.handoff) == ("done", "")


def test_placeholders_are_filled_in_and_other_braces_stay(tmp_path: Path) -> None:
    words = ["{prompt_file}", "in {workspace}", "{task}", "{python}", '{"a": {}}', "{other}"]
    job = job_for(tmp_path, "printf", "%s\\n", *words)
    run(job)
    assert job.log.read_text().splitlines() == [
        str(job.prompt_file), f"in {job.workspace}", "n1", sys.executable, '{"a": {}}', "{other}"
    ]  # fmt: skip


def test_the_prompt_file_holds_instructions_and_task(tmp_path: Path) -> None:
    job = job_for(tmp_path, "cat", "{prompt_file}")
    run(job)
    assert job.log.read_text() == "You are careful.\n\n# Your task (n1, role backend)\n\nDo it."
    assert not job.prompt_file.is_relative_to(job.workspace)


def test_stdin_is_closed(tmp_path: Path) -> None:
    job = job_for(tmp_path, "cat")
    run(job)
    assert job.log.read_text() == ""


def test_sees_only_the_environment_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_A", "a")
    monkeypatch.setenv("SECRET_B", "b")
    runner = {"env": {"OWN": "1"}, "pass_env": ["SECRET_B", "ABSENT"]}
    job = job_for(tmp_path, "env", runner=runner, env={"PATH": "/usr/bin:/bin"})
    run(job)
    seen = dict(line.split("=", 1) for line in job.log.read_text().splitlines())
    seen.pop("PWD", None)
    assert set(seen) == {
        "PATH",
        "OWN",
        "SECRET_B",
        "AGENTFLOW_HANDOFF",
        "AGENTFLOW_REPORT",
        "AGENTFLOW_USAGE",
    }


def test_handoff_and_report_come_from_their_files(tmp_path: Path) -> None:
    assert run(shell(tmp_path, 'echo noise; echo text > "$AGENTFLOW_HANDOFF"')).handoff == "text"
    report = shell(tmp_path, 'echo noise; echo bad > "$AGENTFLOW_REPORT"', output="report")
    assert run(report).handoff == "bad"


def test_a_report_without_a_file_is_what_was_printed(tmp_path: Path) -> None:
    assert run(shell(tmp_path, "echo all; echo good", output="report")).handoff == "all\ngood"


def test_answers_are_capped_and_never_followed_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    assert run(shell(tmp_path, f'ln -s {secret} "$AGENTFLOW_HANDOFF"')).handoff == ""
    assert run(shell(tmp_path, 'mkfifo "$AGENTFLOW_HANDOFF"')).handoff == ""
    assert run(shell(tmp_path, "yes | head -c 50000", output="report")).handoff.startswith("y")
    long = run(shell(tmp_path, 'yes | head -c 50000 > "$AGENTFLOW_HANDOFF"')).handoff
    assert 15_000 < len(long) <= 16_000


def test_an_answer_of_an_earlier_attempt_is_not_taken(tmp_path: Path) -> None:
    run(shell(tmp_path, 'echo old > "$AGENTFLOW_HANDOFF"'))
    assert run(shell(tmp_path, "true")).handoff == ""


def test_a_failure_tells_the_next_attempt_why(tmp_path: Path) -> None:
    with pytest.raises(AttemptError, match="exit code 3") as ended:
        run(shell(tmp_path, "seq 5000; echo it broke; exit 3"))
    assert ended.value.why == "it broke"
    assert ended.value.feedback.endswith("it broke\n")
    assert len(ended.value.feedback) <= 4_000
    assert ended.value.retryable


def test_a_signal_is_named(tmp_path: Path) -> None:
    with pytest.raises(AttemptError, match="signal 9"):
        run(shell(tmp_path, "kill -9 $$"))


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AttemptError, match=r"'no-such-agent' could not be started"):
        run(job_for(tmp_path, "no-such-agent"))


def test_no_command_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no command"):
        run(job_for(tmp_path))


@pytest.mark.parametrize("owner", ["job", "runner"])
def test_the_earlier_deadline_ends_it(tmp_path: Path, owner: str) -> None:
    late = {"deadline": time.monotonic() + 0.3} if owner == "job" else {"runner": {"timeout": 0.3}}
    with pytest.raises(AttemptTimeout) as ended:
        run(shell(tmp_path, "echo started; sleep 60", **late))
    assert ended.value.feedback == "started\n"


def test_a_stop_ends_it(tmp_path: Path) -> None:
    job = shell(tmp_path, "echo started; sleep 60")
    ended: list[AttemptError] = []

    def attempt() -> None:
        try:
            run(job)
        except AttemptError as error:
            ended.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: job.log.exists() and job.log.read_text())
    job.stop.set("cancelled")
    thread.join(10)
    assert isinstance(ended[0], AttemptCancelled)
