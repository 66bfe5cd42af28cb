"""Process trees: B08, B09, B12, B13, B14 and the contract of `run_tree`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from helpers.wait import wait_until

from agentflow.environment import Stop
from agentflow.errors import InfraError
from agentflow.process import Completed, run_tree

ENV = {"PATH": os.environ["PATH"]}
# Leaves its parent's session and group, ignores what can be ignored, and stays.
ESCAPEE = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
"""
STAY = "\ntime.sleep(600)\n"


def run(*argv: str, cwd: Path, seconds: float = 20.0, **options) -> Completed:
    return run_tree(
        argv, cwd=cwd, env=options.pop("env", ENV), deadline=time.monotonic() + seconds, **options
    )


def written_pid(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text(), what="the escaped child"))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_environment_directory_stdin_and_session_are_exactly_as_given(tmp_path):
    done = run("env", cwd=tmp_path, env={**ENV, "ONLY": "this"})
    assert sorted(done.output.split("\n")) == sorted(["", f"PATH={ENV['PATH']}", "ONLY=this"])
    place, session, own = run("sh", "-c", "pwd; cat; ps -o sid= -p $$; echo $$", cwd=tmp_path).output.split()
    assert (place, session) == (str(tmp_path), own)
    assert run("env", cwd=tmp_path, env={**ENV, "LC_CTYPE": "C"}).output.count("LC_CTYPE=C\n") == 1


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -9 $$"], -9),
        (["no-such-program-here"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_how_a_command_ended(tmp_path, argv, code):
    done = run(*argv, cwd=tmp_path)
    assert done.returncode == code
    assert not done.ok
    assert not done.timed_out
    if code > 100:
        assert "cannot start" in done.output


def test_a_directory_that_is_missing_is_our_error(tmp_path):
    with pytest.raises(InfraError):
        run("true", cwd=tmp_path / "nowhere")


def test_sigpipe_is_as_in_a_shell(tmp_path):
    assert run("sh", "-c", "yes | head -1", cwd=tmp_path).output == "y\n"


def test_b08_an_escaped_child_ends_with_its_command(tmp_path):
    script = ESCAPEE + "\nos.wait()\nwhile not os.path.exists(sys.argv[1]): time.sleep(.01)\n"
    done = run(sys.executable, "-c", script, str(tmp_path / "pid"), cwd=tmp_path)
    assert done.returncode == 0
    assert gone(written_pid(tmp_path / "pid"))
    assert done.seconds < 10


def test_b12_at_the_deadline_the_whole_tree_ends_whatever_it_ignores(tmp_path):
    done = run(sys.executable, "-c", ESCAPEE + STAY, str(tmp_path / "pid"), cwd=tmp_path, seconds=1.0)
    assert (done.timed_out, done.stopped, done.returncode) == (True, False, -signal.SIGKILL)
    assert gone(written_pid(tmp_path / "pid"))


def test_a_stop_ends_it_at_once_and_says_so(tmp_path):
    stop = Stop()
    threading.Timer(0.2, stop.set, ["cancelled"]).start()
    done = run("sleep", "600", cwd=tmp_path, seconds=60, stop=stop)
    assert (done.stopped, done.timed_out, done.returncode) == (True, False, -signal.SIGTERM)
    assert done.seconds < 30
    assert run("touch", "never", cwd=tmp_path, stop=stop).stopped, "set before the start"
    assert not (tmp_path / "never").exists()


def test_a_command_may_use_its_grace_to_leave_in_order(tmp_path):
    script = "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    done = run("sh", "-c", script, cwd=tmp_path, seconds=0.5)
    words = done.output.split()
    assert (words[0], words[-1]) == ("up", "saved")
    assert done.timed_out
    assert not done.ok


def test_b09_kill_9_of_the_worker_leaves_nothing(tmp_path):
    worker = f"""
import sys, time
from pathlib import Path
from agentflow.process import run_tree
run_tree([sys.executable, "-c", {ESCAPEE + STAY!r}, {str(tmp_path / "pid")!r}],
         cwd=Path({str(tmp_path)!r}), env={{}}, deadline=time.monotonic() + 600)
"""
    process = subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
    try:
        escaped = written_pid(tmp_path / "pid")
        tree = psutil.Process(process.pid).children(recursive=True)
        assert len(tree) >= 2
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: gone(escaped) and all(gone(p.pid) for p in tree), what="the end of the tree")


def test_killing_the_launcher_kills_the_command_too(tmp_path):
    script = "import os, time; print(os.getppid(), os.getpid(), flush=True); time.sleep(600)"
    log = tmp_path / "log"

    def kill() -> None:
        launcher, _ = wait_until(lambda: log.exists() and log.read_text().split())
        os.kill(int(launcher), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = run(sys.executable, "-c", script, cwd=tmp_path, log=log)
    killer.join()
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: gone(int(done.output.split()[1])))


def test_what_outlives_a_killed_launcher_does_not_hold_up_the_worker(tmp_path):
    script = ESCAPEE + "\nprint(os.getppid(), flush=True)" + STAY
    pid, log = tmp_path / "pid", tmp_path / "log"

    def kill() -> None:
        written_pid(pid)
        os.kill(int(wait_until(lambda: log.exists() and log.read_text())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = run(sys.executable, "-c", script, str(pid), cwd=tmp_path, seconds=120, log=log)
    finally:
        killer.join()
        os.kill(written_pid(pid), signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL
    assert not done.timed_out
    assert done.seconds < 30


def test_b13_endless_output_is_capped_head_and_tail_kept(tmp_path):
    script = "import sys\nprint('first')\nfor i in range(40000): print('x' * 100)\nprint('last')"
    done = run(sys.executable, "-c", script, cwd=tmp_path, output_cap_bytes=20_000, log=tmp_path / "log")
    assert done.truncated
    assert done.output.startswith("first\n")
    assert done.output.endswith("last\n")
    assert len(done.output) < 20_100
    assert "bytes left out" in done.output
    assert (tmp_path / "log").read_text() == done.output


def test_b13_one_endless_line_of_odd_bytes_does_not_block(tmp_path):
    script = "import os\nfor _ in range(300): os.write(1, bytes(range(256)) * 400)"
    done = run(sys.executable, "-c", script, cwd=tmp_path, output_cap_bytes=1000)
    assert done.returncode == 0
    assert done.truncated
    assert "\ufffd" in done.output


def test_the_log_is_written_while_the_command_runs(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    stop = Stop()

    def stop_when_seen() -> None:
        wait_until(lambda: "hello" in log.read_text())
        stop.set("seen")

    seen = threading.Thread(target=stop_when_seen)
    seen.start()
    done = run("sh", "-c", "echo hello; sleep 600", cwd=tmp_path, seconds=60, stop=stop, log=log)
    seen.join()
    assert done.stopped
    assert log.read_text() == "before\nhello\n"


def test_b14_the_end_is_the_commands_not_that_of_its_output(tmp_path):
    closed = run(
        *(sys.executable, "-c", "import os, time; os.close(1); os.close(2); time.sleep(.3); os._exit(7)"),
        cwd=tmp_path,
    )
    assert closed.returncode == 7
    held = run("sh", "-c", "sleep 600 & echo done", cwd=tmp_path)
    assert (held.returncode, held.output) == (0, "done\n")
    assert held.seconds < 10


def test_many_at_once_in_threads(tmp_path):
    results: list[Completed] = []
    threads = [
        threading.Thread(
            target=lambda n=n: results.append(run("sh", "-c", f"echo {n}; exit {n}", cwd=tmp_path))
        )
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((r.returncode, r.output) for r in results) == sorted((n, f"{n}\n") for n in range(12))


def test_cpu_and_memory_are_reported(tmp_path):
    script = "x = bytearray(80_000_000); sum(range(3_000_000))"
    done = run(sys.executable, "-c", script, cwd=tmp_path)
    assert done.cpu_seconds > 0
    assert done.peak_memory_kb > 70_000


def test_nothing_is_left_open(tmp_path):
    run("true", cwd=tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        run("true", cwd=tmp_path, log=tmp_path / "log", stop=Stop())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
