"""`make chaos SEED=1 MINUTES=60`: seeds, one after the other, in every world, until the time is over."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from chaos.play import Report, play, summary
from chaos.programme import WORLDS


def main() -> int:
    """Play; exit code 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with further seeds for so long")
    parser.add_argument("--world", choices=[*WORLDS, ""], default="", help="this world only")
    parser.add_argument("--size", type=int, default=0, help="nodes of a synthetic world (200)")
    parser.add_argument("--faults", type=int, default=12, help="faults in each play")
    parser.add_argument("--only", default="", help="names of faults, between commas: no others come")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="afch-home-") as home:
        own_surroundings(Path(home))
        reports = run(asked)
    sys.stdout.write(f"\n{summary(reports)}\n")
    return 1 if any(report.wrong for report in reports) else 0


def own_surroundings(home: Path) -> None:
    """Neither the configuration nor the git settings of whoever types this have a say."""
    for name in [name for name in os.environ if name.startswith("AGENTFLOW_")]:
        del os.environ[name]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    os.environ |= {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": cache, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
    }  # fmt: skip


def run(asked: argparse.Namespace) -> list[Report]:
    """Every world with each seed."""
    until = time.monotonic() + asked.minutes * 60
    reports: list[Report] = []
    seed = asked.seed
    while not reports or time.monotonic() < until:
        for world in [asked.world] if asked.world else WORLDS:
            report = play(seed, world, size=asked.size, count=asked.faults, only=asked.only)
            reports.append(report)
            verdict = "FAILED" if report.wrong else "ok"
            sys.stdout.write(
                f"{verdict:<6} {report.seconds:6.1f} s  {report}\n" if report.wrong else _line(report)
            )
            sys.stdout.flush()
            if reports and asked.minutes and time.monotonic() > until:
                break
        seed += 1
    return reports


def _line(report: Report) -> str:
    told = "; ".join(report.conditions) or "nobody is odd"
    did = ", ".join(report.faults)
    return f"ok     {report.seconds:6.1f} s  {report.world}, seed {report.seed}: {did} ({told})\n"


if __name__ == "__main__":
    sys.exit(main())
