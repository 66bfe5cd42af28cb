"""What this machine and this process use: memory, processors; which machine (or container) it is."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_MB = 1 << 20


def place() -> str:
    """A name for the machine or container in which this process' id means something."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8])
            # Process ids count in their namespace: two containers of one machine are two places.
            parts.append(Path("/proc/self/ns/pid").readlink().name.strip("pid:[]"))
    return "/".join(parts)


def memory_percent() -> float:
    """Used memory of the machine, or of the container if that is the tighter one, in percent."""
    return max(psutil.virtual_memory().percent, _cgroup_percent())


def _cgroup_percent() -> float:
    """Used share of the container's memory without the page cache; 0 where there is no limit."""
    try:
        limit = int((_CGROUP / "memory.max").read_text("ascii"))
        used = int((_CGROUP / "memory.current").read_text("ascii"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):  # no cgroup of version 2, or no limit ("max")
        return 0.0
    return max(0.0, 100.0 * (used - int(stat.get("inactive_file", 0))) / limit) if limit else 0.0


def cpu_percent() -> float:
    """How busy the processors have been since the last call, in percent; 0 at the first."""
    return psutil.cpu_percent(interval=None)


def load() -> float:
    """Load of the last minute as a share of all processors (1.0: all are busy)."""
    with contextlib.suppress(OSError):
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    return 0.0


def own_memory_mb() -> int:
    """Resident memory of this process and of all its children, in MB."""
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total // _MB


def born(pid: int) -> str:
    """When a process was started, as its kernel counts (no clock that is set changes it); '' when there is
    none of this id.
    """
    started = ""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, IndexError):
            # The name in brackets may hold anything; the start is field 22.
            told = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
            started = told.rpartition(")")[2].split()[19]
    else:
        with contextlib.suppress(psutil.Error):
            started = repr(psutil.Process(pid).create_time())
    return started


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists here and is not a zombie."""
    with contextlib.suppress(psutil.Error):
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
