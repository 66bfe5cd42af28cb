"""Which machine, and which versions, the figures are of."""

from __future__ import annotations

import os
import platform
import subprocess
import timeit
from importlib.metadata import version
from pathlib import Path

import psutil

from agentflow.local import server


def describe() -> dict[str, str]:
    """Facts by name, in the order in which they are printed."""
    return {
        "cpu": _cpu(),
        "cores": f"{len(os.sched_getaffinity(0))} usable of {psutil.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "celery": f"{version('celery')} (kombu {version('kombu')}, redis-py {version('redis')})",
        "redis": _output(str(server.find_binary().path), "--version"),
        "git": _output("git", "--version"),
        "speed": f"{_seconds():.2f} s for ten million additions in Python",
    }


def load() -> str:
    """How busy the machine is (one, five and fifteen minutes): a loaded one gives no figures."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def _seconds() -> float:
    """The same loop on any machine, best of three: what a core of it is worth at this moment."""
    return min(timeit.repeat("for i in range(10_000_000): n += i", "n = 0", number=1, repeat=3))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip().split(" malloc=")[0]
