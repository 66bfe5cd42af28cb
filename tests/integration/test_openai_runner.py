"""The openai runner against the real scripted server over HTTP, with everything that goes wrong there."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.jobs import finish, make_job, one_rule
from helpers.wait import wait_until

from agentflow.environment import Job, Outcome, PlainEnvironment
from agentflow.errors import (
    AttemptCancelled,
    AttemptError,
    AttemptTimeout,
    ConfigError,
    LimitReached,
    ProviderError,
)
from agentflow.runners.registry import make_runner
from agentflow.runners.scripted_server import ScriptedServer

Turns = dict[str, Any]
Serve = Callable[..., ScriptedServer]


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Serve:
    """Start a server with these turns; it stops with the test."""

    def start(*turns: Turns, repeat: bool = False) -> ScriptedServer:
        server = ScriptedServer(one_rule(*turns, repeat=repeat), record=True).start()
        request.addfinalizer(server.stop)
        return server

    return start


def job_for(server: ScriptedServer, tmp_path: Path, **changes: Any) -> Job:
    runner = {"type": "openai", "base_url": server.url, "model": "scripted", "backoff_s": 0.01}
    runner |= changes.pop("runner", {})
    return make_job(tmp_path, runner, **changes)


def run(job: Job) -> Outcome:
    return make_runner(job.runner).run(job, PlainEnvironment(job.workspace))


def transcript(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.transcript.read_text().splitlines()]


# -- the loop ----------------------------------------------------------------------------------------


def test_works_with_tools_until_it_finishes(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        {"calls": [{"read": {"path": "a.py"}}, {"search": {"pattern": "x = [0-9]"}}]},
        {"text": "Now I know.", "calls": [{"edit": {"path": "a.py", "old": "x = 1", "new": "x = 2"}}]},
        finish(handoff="x is 2"),
    )
    job = job_for(server, tmp_path, runner={"prices": {"input": 10.0, "output": 20.0}})
    (job.workspace / "a.py").write_text("x = 1\n")
    outcome = run(job)
    assert (job.workspace / "a.py").read_text() == "x = 2\n"
    assert (outcome.summary, outcome.handoff) == ("done", "x is 2")
    assert outcome.usage.calls == 3
    assert outcome.usage == job.meter.usage
    tokens = outcome.usage.input_tokens * 10 + outcome.usage.output_tokens * 20
    assert outcome.usage.cost_usd == pytest.approx(tokens / 1e6)
    assert not outcome.usage.estimated
    results = [m["content"] for m in server.requests[-1]["messages"] if m["role"] == "tool"]
    assert results == [
        "x = 1\n",
        "./a.py:1:x = 1\n" if results[1].startswith("./") else "a.py:1:x = 1\n",
        "edited a.py",
    ]


def test_everything_is_in_the_transcript_and_the_log(serve: Serve, tmp_path: Path) -> None:
    job = job_for(serve({"calls": [{"list": {}}]}, finish()), tmp_path)
    run(job)
    head, *messages = transcript(job)
    assert head["answered_by"] == "scripted"
    assert (head["node"], head["ending"], head["usage"]["calls"]) == ("n1", "finished", 2)
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert "turn 1: list {}" in job.log.read_text()


def test_streams_and_asks_for_usage(serve: Serve, tmp_path: Path) -> None:
    server = serve(finish())
    run(job_for(server, tmp_path, runner={"max_output_tokens": 77, "temperature": 0.5}))
    (request,) = server.requests
    assert request["stream"] is True
    assert request["stream_options"] == {"include_usage": True}
    assert (request["max_tokens"], request["temperature"]) == (77, 0.5)


def test_a_reply_without_a_tool_call_is_nudged_then_given_up(serve: Serve, tmp_path: Path) -> None:
    job = job_for(serve({"text": "I would rather talk."}, repeat=True), tmp_path)
    with pytest.raises(ProviderError, match="did not call a tool"):
        run(job)
    assert transcript(job)[0]["turns"] == 3


def test_one_nudge_is_enough(serve: Serve, tmp_path: Path) -> None:
    assert run(job_for(serve({"text": "Done!"}, finish()), tmp_path)).summary == "done"


def test_a_reply_cut_by_the_output_limit_is_not_half_done(serve: Serve, tmp_path: Path) -> None:
    cut = {"calls": [{"write": '{"path": "a.py", "content": "hal'}], "finish": "length"}
    server = serve(cut, finish())
    job = job_for(server, tmp_path)
    run(job)
    assert not (job.workspace / "a.py").exists()
    assert "cut at the output limit" in server.requests[-1]["messages"][-1]["content"]


def test_runs_commands_when_that_is_allowed(serve: Serve, tmp_path: Path) -> None:
    server = serve({"calls": [{"run": {"command": "sh -c 'echo out; exit 3'"}}]}, finish())
    run(job_for(server, tmp_path, runner={"allow_run": True}))
    assert server.requests[-1]["messages"][-1]["content"] == "exit code 3\nout\n"


def test_a_command_that_hangs_ends_at_its_timeout(serve: Serve, tmp_path: Path) -> None:
    server = serve({"calls": [{"run": {"command": "sleep 60", "timeout": 0.2}}]}, finish())
    run(job_for(server, tmp_path, runner={"allow_run": True}))
    assert server.requests[-1]["messages"][-1]["content"].startswith("timed out")


def test_a_report_comes_back_whole(serve: Serve, tmp_path: Path) -> None:
    found = {"severity": "low", "message": "hm", "file": "a.py", "line": 1}
    server = serve(finish(handoff="All good.", verdict="approve", findings=[found]))
    outcome = run(job_for(server, tmp_path, output="report"))
    assert (outcome.handoff, outcome.verdict, outcome.findings[0].message) == ("All good.", "approve", "hm")


# -- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ({"max_turns": 4}, "used its 4 turns"),
        ({"max_total_tokens": 2000}, "of 2,000 tokens"),
        ({"max_calls": 5}, "more than 5 tool calls"),
    ],
)
def test_an_endless_tool_loop_ends_at_a_limit(
    serve: Serve, tmp_path: Path, limit: dict[str, int], told: str
) -> None:
    job = job_for(serve({"calls": [{"list": {}}]}, repeat=True), tmp_path, runner=limit)
    with pytest.raises(LimitReached, match=told) as ended:
        run(job)
    assert ended.value.retryable
    assert next(iter(limit)) in ended.value.fix
    assert job.meter.usage.calls >= 3
    assert transcript(job)[0]["ending"].startswith("LimitReached")


def test_huge_tool_arguments_are_told_and_not_kept(serve: Serve, tmp_path: Path) -> None:
    server = serve({"calls": [{"write": {"path": "a", "content": "x" * 1_000_000}}]}, finish())
    job = job_for(server, tmp_path)
    run(job)
    assert "smaller parts" in server.requests[-1]["messages"][-1]["content"]
    assert len(json.dumps(server.requests[-1])) < 50_000
    assert not (job.workspace / "a").exists()


def test_an_endless_answer_is_cut(serve: Serve, tmp_path: Path) -> None:
    job = job_for(serve({"text": "x" * 4_100_000}), tmp_path, runner={"max_retries": 0})
    with pytest.raises(ProviderError, match="not part of an answer") as ended:
        run(job)
    assert "4,000,000 characters" in ended.value.why


# -- what the endpoint does wrong --------------------------------------------------------------------

STREAM_FAULTS = {
    "no_choices": "without choices",
    "cut": "was cut",
    "drop": "connection to the model",
    "garbage": "not part of an answer",
    "error": "broke off",
}


@pytest.mark.parametrize(("fault", "told"), STREAM_FAULTS.items())
def test_a_fault_that_stays_fails_the_attempt(serve: Serve, tmp_path: Path, fault: str, told: str) -> None:
    server = serve({**finish(), "fault": fault})
    job = job_for(server, tmp_path, runner={"max_retries": 2})
    with pytest.raises(ProviderError, match=told) as ended:
        run(job)
    assert ended.value.retryable
    assert ended.value.why
    assert len(server.requests) == job.meter.usage.calls == 3
    assert transcript(job)[0]["ending"].startswith("ProviderError")


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_a_fault_that_passes_is_got_over(serve: Serve, tmp_path: Path, fault: str) -> None:
    write = {"calls": [{"write": {"path": "a", "content": "once"}}], "fault": {"kind": fault, "times": 2}}
    server = serve(write, finish())
    job = job_for(server, tmp_path)
    run(job)
    assert (job.workspace / "a").read_text() == "once"
    assert len(server.requests) == 4
    assert "asking again" in job.log.read_text()


def test_a_broken_stream_is_paid_for_by_estimate(serve: Serve, tmp_path: Path) -> None:
    job = job_for(serve({**finish(), "fault": {"kind": "cut", "times": 1}}), tmp_path)
    usage = run(job).usage
    assert usage.estimated
    assert usage.calls == 2


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_status_that_passes_is_got_over(serve: Serve, tmp_path: Path, status: int) -> None:
    server = serve({**finish(), "fault": {"status": status, "times": 1}})
    assert run(job_for(server, tmp_path)).usage.calls == 2


def test_retry_after_is_obeyed(serve: Serve, tmp_path: Path) -> None:
    server = serve({**finish(), "fault": {"status": 429, "retry_after": 0.3, "times": 1}})
    started = time.monotonic()
    job = job_for(server, tmp_path)
    run(job)
    assert time.monotonic() - started >= 0.3
    assert "asking again in 0.3 s" in job.log.read_text()


def test_a_wait_beyond_the_deadline_is_not_begun(serve: Serve, tmp_path: Path) -> None:
    server = serve({**finish(), "fault": {"status": 429, "retry_after": 3600}})
    with pytest.raises(ProviderError, match="limits our requests") as ended:
        run(job_for(server, tmp_path))
    assert "asks to wait 3600 s" in ended.value.why
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"status": 401}, "refused the key"),
        ({"status": 403}, "refused the key"),
        ({"status": 404}, "refused the request"),
        ({"status": 307}, "refused the request"),
        ({"status": 429, "code": "insufficient_quota"}, "no quota left"),
    ],
)
def test_what_another_attempt_would_meet_again_is_final(
    serve: Serve, tmp_path: Path, fault: dict[str, Any], told: str
) -> None:
    server = serve({**finish(), "fault": {**fault, "message": "computer says no"}})
    with pytest.raises(ProviderError, match=told) as ended:
        run(job_for(server, tmp_path))
    assert not ended.value.retryable
    assert "computer says no" in ended.value.why
    assert ended.value.fix
    assert len(server.requests) == 1


def test_an_unscripted_request_says_what_is_missing(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ProviderError) as ended:
        run(job_for(serve(finish()), tmp_path, prompt="# Your task (other)"))
    assert "'only': missing text '# Your task (n1'" in ended.value.why


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    server = ScriptedServer(one_rule(finish())).start()
    server.stop()
    with pytest.raises(ProviderError, match=server.url) as ended:
        run(job_for(server, tmp_path, runner={"max_retries": 1}))
    assert ended.value.retryable


def test_missing_usage_is_estimated(serve: Serve, tmp_path: Path) -> None:
    usage = run(job_for(serve({**finish(), "usage": "missing"}), tmp_path)).usage
    assert usage.estimated
    assert usage.input_tokens > 100
    assert usage.output_tokens > 0


@pytest.mark.parametrize("told", [(-5000, -1), (0, 0), (1, 0), (0, 5)])
def test_usage_that_cannot_be_true_is_estimated(serve: Serve, tmp_path: Path, told: tuple[int, int]) -> None:
    wrong = {"prompt_tokens": told[0], "completion_tokens": told[1], "total_tokens": sum(told)}
    job = job_for(serve({**finish(), "usage": wrong}), tmp_path, runner={"prices": {"input": 1.0}})
    usage = run(job).usage
    assert usage.estimated
    assert usage.input_tokens > 100
    assert usage.output_tokens > 0
    assert usage.cost_usd == usage.input_tokens / 1e6


# -- stop and deadline -------------------------------------------------------------------------------


def test_a_stop_ends_a_silent_stream_and_hangs_up(serve: Serve, tmp_path: Path) -> None:
    server = serve({**finish(), "fault": "stall"})
    job = job_for(server, tmp_path)
    ended: list[AttemptError] = []

    def attempt() -> None:
        try:
            run(job)
        except AttemptError as error:
            ended.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: server.requests)
    job.stop.set("cancelled")
    thread.join(5)
    assert isinstance(ended[0], AttemptCancelled)
    wait_until(lambda: server.hung_up == 1)
    assert transcript(job)[0]["ending"].startswith("AttemptCancelled")


def test_the_deadline_ends_a_silent_stream(serve: Serve, tmp_path: Path) -> None:
    server = serve({**finish(), "fault": "stall"})
    job = job_for(server, tmp_path, deadline=time.monotonic() + 0.5)
    with pytest.raises(AttemptTimeout):
        run(job)
    wait_until(lambda: server.hung_up == 1)


def test_a_call_that_is_cut_off_before_its_answer_began_is_paid_for(serve: Serve, tmp_path: Path) -> None:
    """It may have been answered: it costs what was reserved for it."""
    job = job_for(
        serve({**finish(), "delay": 1.0}),
        tmp_path,
        deadline=time.monotonic() + 0.3,
        runner={"max_output_tokens": 77},
    )
    with pytest.raises(AttemptTimeout):
        run(job)
    assert (job.meter.usage.calls, job.meter.usage.output_tokens) == (1, 77)
    assert job.meter.usage.estimated


def test_a_stop_ends_the_wait_for_a_retry(serve: Serve, tmp_path: Path) -> None:
    server = serve({**finish(), "fault": {"status": 429, "retry_after": 50}})
    job = job_for(server, tmp_path)
    timer = threading.Timer(0.2, job.stop.set, ("cancelled",))
    timer.start()
    with pytest.raises(AttemptCancelled):
        run(job)
    timer.join()


def test_a_stop_between_turns_does_no_further_call(serve: Serve, tmp_path: Path) -> None:
    job = job_for(serve(finish()), tmp_path)
    job.stop.set("cancelled")
    with pytest.raises(AttemptCancelled):
        run(job)


# -- keys --------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_named_variable(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(serve(finish()), tmp_path, runner={"api_key_env": "SHOP_KEY"})
    with pytest.raises(ProviderError, match=r"\$SHOP_KEY is not set") as ended:
        run(job)
    assert not ended.value.retryable
    monkeypatch.setenv("SHOP_KEY", "k")
    assert run(job).summary == "done"
    assert "SHOP_KEY" not in job.transcript.read_text()


def test_openai_itself_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ProviderError, match=r"\$OPENAI_API_KEY is not set"):
        run(make_job(tmp_path, {"type": "openai", "model": "m", "api_key_env": "OPENAI_API_KEY"}))


def test_a_runner_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model"):
        run(make_job(tmp_path, {"type": "openai"}))


# -- the server itself -------------------------------------------------------------------------------


def test_the_server_says_that_it_is_scripted(serve: Serve) -> None:
    with urllib.request.urlopen(f"{serve(finish()).url}/models") as answer:  # noqa: S310 - our own address
        assert answer.headers["x-agentflow-scripted"] == "true"
        (model,) = json.load(answer)["data"]
    assert model["id"] == "scripted"
    assert "no model" in model["owned_by"]


def test_the_server_answers_without_streaming_too(serve: Serve) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "# Your task (n1"}]}
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{serve(finish()).url}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
        whole = json.load(answer)
    assert whole["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "finish"
    assert whole["usage"]["total_tokens"] > 0
