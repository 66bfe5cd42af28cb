"""`python -m agentflow.local`: becomes the supervisor of a data directory, in a session of its own.

The caller waits for this process, which ends with 0 when the supervisor serves (or another one
does), else with 4 and the reason on stderr. The supervisor itself is its detached child.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from agentflow.config import load_config
from agentflow.errors import AgentflowError, Exit
from agentflow.local import control
from agentflow.local.control import Paths
from agentflow.local.supervisor import Supervisor

log = logging.getLogger("agentflow.supervisor")


def main() -> int:
    """Fork the supervisor and report its start."""
    parser = argparse.ArgumentParser(prog="python -m agentflow.local", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--team", default="", help="keep workers of the configured Redis, no server")
    parser.add_argument("--idle-minutes", type=float, default=10.0)
    options = parser.parse_args()
    paths = Paths(options.data_dir, options.socket, options.team)
    paths.make()
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as stream:
            told = stream.read()
        if told != "ok":
            sys.stderr.write(told or "the supervisor died before it served")
        return Exit.OK if told == "ok" else Exit.INFRA
    os.close(reading)
    os.setsid()
    # Whatever happens, this process must not return into the caller's code.
    try:
        supervise(paths, options.idle_minutes * 60, writing)
    finally:
        os._exit(0)


def supervise(paths: Paths, idle_s: float, ready: int) -> None:
    """Serve under the lock; `ready` is told `ok`, or why not, and closed."""
    _to_log(paths.log("supervisor"))
    with control.locked(paths.lock, timeout=0) as mine:
        if not mine:
            _tell(ready, "ok")
            return
        # The address may hold a password: it comes by the environment, not by the command line.
        url = load_config().client_url() if paths.team else ""
        supervisor = Supervisor(paths, idle_s=idle_s, url=url)
        try:
            listener = supervisor.start()
        except (AgentflowError, OSError) as error:
            log.exception("could not start")
            _tell(ready, error.explain() if isinstance(error, AgentflowError) else str(error))
            return
        _tell(ready, "ok")
        try:
            supervisor.serve(listener)
        except Exception:
            log.exception("gives up")
        finally:
            supervisor.close(listener)


def _tell(ready: int, word: str) -> None:
    os.write(ready, word.encode())
    os.close(ready)


def _to_log(path: Path) -> None:
    """Stdin from nowhere, stdout and stderr and the log into the file: no terminal is held."""
    with path.open("ab") as stream, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
