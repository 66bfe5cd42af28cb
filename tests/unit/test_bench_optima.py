"""The committed task graphs and their optima: read as they are, proved as they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Makes one change to the first optimum that was proved in this way, and prints what the checker says.
SPOIL = """
from dataclasses import replace
from bench import optima, stg
graphs = {{graph.name: graph for graph in stg.read_all()}}
found = next(o for o in optima.read_all() if o.proof == "bound")
print(*optima.check({change}, graphs[found.graph]), sep="\\n")
"""


def python(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_every_optimum_has_a_schedule_and_a_proof():
    said = python("-m", "bench.optima")
    assert said.startswith("127 optima of 64 graphs")
    assert said.endswith("all hold\n")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("found", ""),
        ("replace(found, length=found.length - 1)", "another length"),
        ("replace(found, starts=dict.fromkeys(found.starts, 0))", "tasks run at 0"),
        ("replace(found, starts={k: v for k, v in found.starts.items() if k > 1})", "not every task"),
        (
            "replace(found, starts={k: v + 9 for k, v in found.starts.items()}, length=found.length + 9)",
            "bound",
        ),
    ],
)
def test_a_wrong_optimum_is_seen(change, fault):
    said = python("-c", SPOIL.format(change=change)).strip()
    assert fault in said
    assert bool(said) == bool(fault)


def test_a_graph_that_was_made_is_read_as_it_was():
    said = python(
        "-c",
        "from bench import stg\nread = {g.name: g for g in stg.read_all()}\n"
        "print(all(read[made.name] == made for made, _ in map(stg.make, range(64))))",
    )
    assert said == "True\n"
