"""The small parent of every command: it ends the whole tree. Run as a script, never imported.

    python -I -S launcher.py STATUS_FD WORKER_PID GRACE_MS LC_CTYPE ARGV...

It becomes a *subreaper*: whatever the command starts, `setsid` and double forks included, comes back
to it when its own parent dies, so that nothing escapes. Everything below it is killed when the command
ends, when it gets SIGTERM (deadline, cancel), and when the worker dies (PDEATHSIG sends that SIGTERM).
It writes lines to STATUS_FD: `pid N`, `error ERRNO TEXT`, `exit CODE CPU_SECONDS PEAK_KB`.

Standard library only, and few imports: its start is part of every command's time. On systems without
prctl (macOS) it ends the command's process group only.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would cost start-up time
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
#: Seconds between two rounds of SIGKILL over a tree that keeps forking.
ROUND_S = 0.005
#: Seconds after which a process that even SIGKILL does not end (disk sleep, other uid) is left behind.
GIVE_UP_S = 5.0


def main() -> None:
    """Start the command, wait for it, and leave only when nothing of it is left."""
    status_fd, worker, grace_ms = map(int, sys.argv[1:4])
    os.set_inheritable(status_fd, False)
    prctl = _load_prctl()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != worker:  # it died before PDEATHSIG was set
        sys.exit(1)
    os.environ.pop("LC_CTYPE", None)  # Python may have put it there when it started (PEP 538)
    if sys.argv[4] != "-":
        os.environ["LC_CTYPE"] = sys.argv[4]
    wakeup = _listen()
    tree = Tree(_start(sys.argv[5:], status_fd, prctl))
    os.write(status_fd, f"pid {tree.command}\n".encode())
    # The worker must see the end of the output when the command's last process ends, not when we do.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    grace = 0.0
    while tree.reap() and tree.code is None:
        select.select([wakeup], [], [])
        if signal.SIGTERM in os.read(wakeup, 512):
            grace = grace_ms / 1000
            break
    tree.end(grace, wakeup)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = -signal.SIGKILL if tree.code is None else tree.code
    os.write(status_fd, f"exit {code} {used.ru_utime + used.ru_stime:.3f} {used.ru_maxrss}\n".encode())


def _load_prctl() -> Callable[[int, int], int]:
    """The system call as a function of two numbers; one that does nothing where there is none."""
    if sys.platform != "linux":
        return lambda _option, _value: 0
    import ctypes

    prctl: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    return prctl


def _listen() -> int:
    """SIGTERM and SIGCHLD become bytes in a pipe, so that none is missed between two calls."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


def _start(argv: list[str], status_fd: int, prctl: Callable[[int, int], int]) -> int:
    """Fork the command into a session of its own; it dies with us."""
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the command must not
            signal.signal(number, signal.SIG_DFL)
        os.execvp(argv[0], argv)  # noqa: S606  # starting what it is told to start is this script's task
    except (OSError, ValueError) as error:
        errno = getattr(error, "errno", None) or 0
        os.write(status_fd, f"error {errno} {os.strerror(errno) if errno else error}\n".encode())
    os._exit(127)


class Tree:
    """The command and everything below it. `code` is the command's status once it has ended."""

    def __init__(self, command: int) -> None:
        self.command = command
        self.code: int | None = None

    def reap(self) -> bool:
        """Collect what has ended; whether anything is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == self.command:
                self.code = os.waitstatus_to_exitcode(status)
            if pid == 0:
                return True

    def end(self, grace: float, wakeup: int) -> None:
        """SIGTERM and `grace` seconds (if any), then SIGKILL until nothing is left."""
        if grace and self.reap():
            self.signal(signal.SIGTERM)
            until = time.monotonic() + grace
            while self.reap() and (left := until - time.monotonic()) > 0:
                if select.select([wakeup], [], [], left)[0]:
                    os.read(wakeup, 512)
        give_up = time.monotonic() + GIVE_UP_S
        while self.reap() and time.monotonic() < give_up:
            self.signal(signal.SIGKILL)
            time.sleep(ROUND_S)

    def signal(self, number: int) -> None:
        """Signal every descendant (elsewhere than on Linux: the command's process group)."""
        targets = _descendants(os.getpid())
        if targets is None:
            targets = [-self.command]
        for pid in targets:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue


def _descendants(root: int) -> list[int] | None:
    """Every process below `root`, from the parent ids in /proc; None where there is no /proc."""
    children: dict[int, list[int]] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # no pathlib here
    except OSError:
        return None
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123  # as above
                parent = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


if __name__ == "__main__":
    main()
