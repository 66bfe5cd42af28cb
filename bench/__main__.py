"""`python -m bench [--json FILE] [names...]`: run the measurements, print a table, judge the targets.

Exit code 1 when a target was missed or a measurement broke, 0 otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import HEADER, Figure

#: In the order of the table; each is a module of this package with `measure() -> Iterator[Figure]`.
MEASUREMENTS = (
    "starting",
    "noop_nodes",
    "handover",
    "command_handover",
    "makespan",
    "optimal",
    "ledger",
    "locks",
    "recovery",
    "duplicates",
    "memory",
    "live_view",
    "workspaces",
    "bases",
    "distribution",
    "fairness",
    "governor",
    "scaling",
    "budget",
    "demo",
)


def main() -> int:
    """Measure what was asked for, all by default."""
    options = _parser().parse_args()
    facts = machine.describe()
    for name, value in facts.items():
        print(f"{name:<8} {value}")
    print(f"\n{HEADER}")
    figures: list[Figure] = []
    report: list[dict[str, Any]] = []
    broken = False
    started = datetime.now(UTC).isoformat(timespec="seconds")
    for name in options.names or MEASUREMENTS:
        before, began = machine.load(), time.monotonic()
        print(f"-- {name} (load {before})", flush=True)
        try:
            for figure in importlib.import_module(f"bench.{name}").measure():
                print(figure.line(), flush=True)
                figures.append(figure)
                report.append({"measurement": name, "load_before": before, **figure.as_dict()})
        except Exception:  # noqa: BLE001 - the others are still worth having; the exit code tells
            broken = True
            traceback.print_exc()
        print(f"   {time.monotonic() - began:.0f} s", flush=True)
    missed = [f.name for f in figures if f.verdict == "missed"]
    judged = sum(1 for f in figures if f.verdict)
    print(
        f"\n{judged - len(missed)} of {judged} targets met" + "".join(f"\nmissed: {name}" for name in missed)
    )
    if options.json:
        options.json.write_text(
            json.dumps({"machine": facts, "started": started, "figures": report}, indent=1)
        )
    return 1 if missed or broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="name", help="of: " + ", ".join(MEASUREMENTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure with its samples")
    return parser


if __name__ == "__main__":
    sys.exit(main())
