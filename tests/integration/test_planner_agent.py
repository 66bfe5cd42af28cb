"""The planner against the real scripted server over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.jobs import make_job

from agentflow.environment import Job, Outcome, PlainEnvironment
from agentflow.errors import AttemptCancelled, ConfigError, ProviderError
from agentflow.planner import PlanRefusedError
from agentflow.runners.registry import make_runner
from agentflow.runners.scripted import Script
from agentflow.runners.scripted_server import ScriptedServer

Serve = Callable[..., ScriptedServer]
WORDS = "Add a greeting with tests"


def plan(*needs: str, role: str = "backend", name: str = "greeting") -> str:
    task = {
        "id": name, "role": role, "prompt": "Write greet().", "needs": list(needs), "output": "change",
        "artifacts": ["greeting.py"], "acceptance": ["test -f greeting.py"],
    }  # fmt: skip
    return json.dumps({"feature": "Greeting", "goal": "", "validate": [], "tasks": [task]})


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Serve:
    """Start a server with these turns; it stops with the test."""

    def start(*turns: dict[str, Any]) -> ScriptedServer:
        rule = {"name": "plan", "when": [WORDS], "turns": list(turns)}
        server = ScriptedServer(Script.model_validate({"replies": [rule]}), record=True).start()
        request.addfinalizer(server.stop)
        return server

    return start


def job_for(server: ScriptedServer, tmp_path: Path, **runner: Any) -> Job:
    settings = {
        "type": "planner",
        "base_url": server.url,
        "model": "scripted",
        "backoff_s": 0.01,
        "words": WORDS,
    }
    return make_job(tmp_path, settings | runner, node="plan", role="planner", output="report")


def run(job: Job) -> Outcome:
    return make_runner(job.runner).run(job, PlainEnvironment(job.workspace))


def transcript(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.transcript.read_text().splitlines()]


def test_a_plan_is_the_report(serve: Serve, tmp_path: Path) -> None:
    server = serve({"text": plan()})
    outcome = run(job_for(server, tmp_path, prices={"input": 10.0, "output": 20.0}))
    assert outcome.handoff.startswith("# Planned by scripted, 1 answer,")
    assert "- id: greeting\n    role: backend\n" in outcome.handoff
    assert outcome.summary == "1 task planned in 1 answer"
    assert (outcome.usage.calls, outcome.usage.cost_usd > 0) == (1, True)
    (request,) = server.requests
    form = request["response_format"]["json_schema"]
    assert form["strict"] is True
    assert "greeting" not in json.dumps(form)
    assert "tools" not in request


def test_a_wrong_answer_is_repaired_when_the_model_is_told(serve: Serve, tmp_path: Path) -> None:
    job = job_for(
        serve(
            {"text": plan("greeting", role="backnd")},
            {"when": ["cycle: greeting -> greeting", "did you mean 'backend'?"], "text": plan()},
        ),
        tmp_path,
    )
    assert run(job).summary == "1 task planned in 2 answers"
    head, *messages = transcript(job)
    assert (head["ending"], head["answered_by"]) == ("planned", "scripted")
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert "cycle: greeting -> greeting" in job.log.read_text()


def test_what_was_refused_is_kept(serve: Serve, tmp_path: Path) -> None:
    job = job_for(serve(*({"text": plan("ghost", name=f"try{n}")} for n in range(3))), tmp_path)
    with pytest.raises(PlanRefusedError, match="3 answers") as caught:
        run(job)
    assert "there is no such task (got 'ghost')" in caught.value.why
    assert "PlanRefusedError" in transcript(job)[0]["ending"]
    assert all(f"try{n}" in job.log.read_text() for n in range(3))
    assert job.meter.usage.calls == 3


def test_the_roles_are_those_that_came_with_the_job(serve: Serve, tmp_path: Path) -> None:
    server = serve({"text": plan(role="app")})
    roles = {"mobile": {"aliases": ["app"], "instructions": "You build apps."}}
    assert "role: mobile\n" in run(job_for(server, tmp_path, roles=roles)).handoff
    assert server.requests[0]["response_format"]["json_schema"]["schema"]["properties"]["tasks"]["items"][
        "properties"
    ]["role"]["enum"] == ["mobile"]


def test_it_looks_at_the_repository_and_never_out_of_it(serve: Serve, tmp_path: Path) -> None:
    server = serve({"text": plan()})
    job = job_for(server, tmp_path, files=["src/a.py", "link.txt", "binary", "missing"])
    (tmp_path / "secret.txt").write_text("hidden")
    (job.workspace / ".git").mkdir()
    (job.workspace / ".git" / "config").write_text("x")
    (job.workspace / "src").mkdir()
    (job.workspace / "src" / "a.py").write_text("def old(): ...\n")
    (job.workspace / "link.txt").symlink_to(tmp_path / "secret.txt")
    (job.workspace / "binary").write_bytes(b"\0\1")
    (job.workspace / "Makefile").write_text("test:\n\tpytest\n")
    run(job)
    told = server.requests[0]["messages"][1]["content"]
    assert "Makefile\nbinary\nlink.txt\nsrc/a.py" in told
    assert "# src/a.py (its beginning)\n\ndef old(): ..." in told
    assert "# Makefile (its beginning)\n\ntest:\n\tpytest" in told
    for never in ("hidden", ".git", "# binary", "# missing", "# link.txt"):
        assert never not in told


def test_an_endpoint_without_structured_output_is_asked_in_words(serve: Serve, tmp_path: Path) -> None:
    refusal = {"status": 400, "message": "response_format json_schema is not supported", "times": 1}
    server = serve({"text": plan(role="backnd"), "fault": refusal}, {"text": plan()})
    job = job_for(server, tmp_path)
    assert run(job).summary == "1 task planned in 2 answers"
    assert ["response_format" in request for request in server.requests] == [True, False, False]
    assert "without structured output" in job.log.read_text()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cut", "answer was cut"),
        ("no_choices", "answered without choices"),
        ("garbage", "not part of an answer"),
        ({"status": 404}, "HTTP 404"),
        ({"status": 401}, "refused the key"),
        ({"status": 400}, "HTTP 400"),
    ],
)
def test_an_endpoint_that_does_not_answer_is_named(
    serve: Serve, tmp_path: Path, fault: str | dict[str, Any], said: str
) -> None:
    job = job_for(serve({"text": plan(), "fault": fault}), tmp_path, max_retries=1)
    with pytest.raises(ProviderError) as caught:
        run(job)
    assert said in caught.value.what
    assert said in transcript(job)[0]["ending"]


def test_an_answer_that_was_cut_at_the_output_limit_is_asked_for_again(serve: Serve, tmp_path: Path) -> None:
    job = job_for(
        serve({"text": plan(), "finish": "length"}, {"when": ["output limit"], "text": plan()}), tmp_path
    )
    assert run(job).summary == "1 task planned in 2 answers"


def test_a_stop_ends_it(serve: Serve, tmp_path: Path) -> None:
    job = job_for(serve({"text": plan(), "fault": "stall"}), tmp_path)
    job.stop.set("cancelled")
    with pytest.raises(AttemptCancelled):
        run(job)


def test_it_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve({"text": plan()})
    job = make_job(tmp_path, job_for(server, tmp_path).runner, node="plan", role="planner", output="change")
    with pytest.raises(ConfigError, match="changes no file"):
        run(job)
    job = job_for(server, tmp_path)
    run(job)
    assert not list(job.workspace.iterdir())
