"""Fixtures of all tests: a real Redis for each xdist worker, and what CI adds.

`AGENTFLOW_CI=1`: a missing service is a failure, a skip that tests/allowed_skips.txt does not list fails the
session, and a test of processes that fails is tried once more (docs/decisions/0012) unless a second try
could hide a promise that was broken: it is named in the summary, and more than `SECOND_TRIES_MAX` of them
fail the session.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers.ledgers import NotWholeError, validate_store
from helpers.redis_server import RedisServer, running_server
from helpers.wait import NotInTimeError

from agentflow.errors import InfraError

IN_CI = os.environ.get("AGENTFLOW_CI") == "1"
ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")
#: Folders whose tests start processes, which a machine under load may starve.
OF_PROCESSES = ("integration", "acceptance", "chaos", "guide")
SECOND_TRIES_MAX = 3
#: Files that have one try: what they find once in many times is what they are there for.
OF_PROOFS = re.compile(r"test_(\w+_machine|simulation|\w*promises|failpoints\w*)\.py")
#: How a test ends whose patience is over (the second is pytest-timeout's).
IMPATIENT = (NotInTimeError, r"^Failed: Timeout \(", subprocess.TimeoutExpired)

# A shell without job control starts what is in its background with Ctrl-C ignored, and children inherit that;
# the tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In CI a test of processes may be tried a second time."""
    here = Path(__file__).parent
    for item in items if IN_CI else ():
        terms = second_try(item.path.relative_to(here))
        if terms:
            item.add_marker(pytest.mark.flaky(**terms))


def second_try(path: Path) -> dict[str, Any]:
    """On which terms a test of this file (below tests/) may be tried once more; empty when it may not."""
    if path.parts[0] not in OF_PROCESSES or OF_PROOFS.fullmatch(path.name):
        return {}
    if path.parts[0] == "chaos":
        return {"reruns": 1, "only_rerun": list(IMPATIENT)}
    return {"reruns": 1, "rerun_except": [NotWholeError]}


def pytest_addoption(parser: pytest.Parser) -> None:
    """How the simulation is told what to play."""
    parser.addoption("--seed", type=int, default=None, help="play this schedule of the simulation")
    parser.addoption("--schedules", type=int, default=0, help="schedules of each block, or from --seed on")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One private server for each xdist worker. Use `redis_url` or `redis_client` in tests."""
    try:
        context = running_server()
        server = context.__enter__()
    except InfraError as error:
        if IN_CI:
            pytest.fail(error.explain())
        pytest.skip(str(error))
    try:
        yield server
    finally:
        context.__exit__(None, None, None)


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of an empty server."""
    with redis.Redis.from_url(redis_server.client_url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(redis_server: RedisServer, redis_client: redis.Redis) -> str:
    """The address, for redis-py, of an empty server."""
    assert redis_client.ping()
    return redis_server.client_url


@pytest.fixture
def broker_url(redis_server: RedisServer, redis_client: redis.Redis) -> str:
    """The address, for Celery, of an empty server."""
    assert redis_client.ping()
    return redis_server.broker_url


@pytest.fixture(autouse=True)
def _whole_store(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test leaves on its Redis is whole: see `agentflow.store.validation`.

    A test that breaks the store on purpose says so: `@pytest.mark.breaks_store("why")`.
    """
    yield
    has_store = "redis_server" in request.fixturenames
    if has_store and not request.node.get_closest_marker("breaks_store"):
        server = request.getfixturevalue("redis_server")
        with redis.Redis.from_url(server.client_url, decode_responses=True) as client:
            validate_store(client)


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the developer's own configuration, data directory or git settings."""
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    for name in [name for name in os.environ if name.startswith("AGENTFLOW_")]:
        if name != "AGENTFLOW_CI":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


# What follows runs where the reports arrive: in the only process, or in xdist's controller.

_skipped: list[tuple[str, str]] = []
_tried_again: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember each skipped test, and each that is tried a second time."""
    if str(report.outcome) == "rerun":
        _tried_again.append(report.nodeid)
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append((report.nodeid, _reason(report)))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remember each skipped module."""
    if report.skipped:
        _skipped.append((report.nodeid, _reason(report)))


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _unexpected_skips() -> list[str]:
    lines = ALLOWED_SKIPS.read_text().splitlines()
    allowed = tuple(line.split(" # ")[0].strip() for line in lines if line and not line.startswith("#"))
    return [f"{node}: {why}" for node, why in _skipped if not (allowed and node.startswith(allowed))]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip that nobody allowed is a failure, and so are many second tries."""
    is_xdist_worker = hasattr(session.config, "workerinput")
    wrong = _unexpected_skips() or len(_tried_again) > SECOND_TRIES_MAX
    if IN_CI and not is_xdist_worker and session.exitstatus == 0 and wrong:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the skips that failed the session, and the tests that were tried again."""
    if _tried_again:
        terminalreporter.section(f"tried a second time (at most {SECOND_TRIES_MAX} in a session)")
        for line in _tried_again:
            terminalreporter.write_line(line)
    if IN_CI and _unexpected_skips():
        terminalreporter.section("skips that tests/allowed_skips.txt does not list")
        for line in _unexpected_skips():
            terminalreporter.write_line(line)
