"""What it costs to carry a run over Redis: boltons with two workers of four slots against one of eight.

The world of `tests/acceptance/test_boltons.py`: fifteen nodes, their tests, the validation of the whole.
Both sides have warm workers and are run in turns; the figure is the ratio of the medians of the commands'
whole time, from `agentflow run` to the landed branch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from agentflow.local import server
from bench.figures import Figure, median, spread
from bench.stage import CELERY, ROOT, Stage, stage

MOST = 1.15
ROUNDS = 3
AGENTFLOW = (sys.executable, "-c", "from agentflow.cli.main import main; main()")


def measure() -> Iterator[Figure]:
    """The ratio, and both sides."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import boltons

    with tempfile.TemporaryDirectory(prefix="afb-") as name, stage() as found:
        world = boltons.build(boltons.release(), Path(name))
        local = {**found.env, "AGENTFLOW_HOME": f"{name}/home"}
        local.pop("AGENTFLOW_REDIS_URL")
        team = {**found.env, "AGENTFLOW_HOME": f"{name}/submitter"}
        try:
            for number in (1, 2):
                _worker(found, f"w{number}", f"{name}/machine{number}")
            sides: dict[str, list[float]] = {"local": [], "team": []}
            for _ in range(ROUNDS + 1):
                sides["local"].append(_run(world.repo, world.feature, local))
                sides["team"].append(_run(world.repo, world.feature, team, "--distributed"))
        finally:
            subprocess.run([*AGENTFLOW, "down"], cwd=name, env=local, capture_output=True, check=False)
    # The first round of each warms: the local worker is started, the base goes to cold machines.
    one, other = sides["local"][1:], sides["team"][1:]
    ratio = median(other) / median(one)
    yield Figure("boltons, 2 x 4 slots over Redis / 8 local slots", ratio, "", MOST)
    yield Figure("  over Redis", median(other), "s", note=spread(other), samples=other)
    yield Figure("  local", median(one), "s", note=spread(one), samples=one)


def _worker(found: Stage, name: str, home: str) -> None:
    """One machine of the team: a worker with a data directory of its own."""
    kept = dict(found.env)
    found.env["AGENTFLOW_HOME"] = home
    try:
        found.start(name, slots=4, program=CELERY)
    finally:
        found.env.update(kept)


def _run(repo: Path, feature: Path, env: Mapping[str, str], *options: str) -> float:
    """Seconds of one command; raises when the feature did not land."""
    os.sync()
    began = time.perf_counter()
    done = subprocess.run(
        [*AGENTFLOW, "run", str(feature), "-j", "8", "--json", *options],
        cwd=repo, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode or json.loads(done.stdout)["state"] != "landed":
        home = Path(env["AGENTFLOW_HOME"])
        logs = [server.last_lines(log) for log in home.glob("logs/*.log")]
        raise RuntimeError(f"run ended with {done.returncode}: {done.stderr[-1500:]}\n{logs}")
    return seconds
