"""Which tests CI tries a second time (docs/decisions/0012), seen with pytest itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
#: A test that fails the first time, as `how` says, and is right the second time.
SOURCE = """
import subprocess
from pathlib import Path
import pytest
from chaos.play import BrokenPromiseError, Report
from helpers.ledgers import NotWholeError
from helpers.wait import NotInTimeError, wait_until

def late():
    Report("noops", 1, 1, wrong=["late"], is_late=True).judge()

def broken():
    Report("noops", 1, 1, wrong=["I1: twice"]).judge()

def starved():
    wait_until(lambda: False, timeout=0, what="a process")

def seen_wrong():
    def probe():
        assert False, "it is wrong"
    wait_until(probe, timeout=0)

def not_whole():
    raise NotWholeError("a lock is held by nobody")

def not_answered():
    subprocess.run(["sleep", "60"], timeout=0.01)

def out_of_time():
    pytest.fail("Timeout (>300.0s) from pytest-timeout.")

def plain():
    assert False

def test_it():
    first = Path(__file__ + ".first")
    if not first.exists():
        first.touch()
        HOW()
"""


#: File, how its first try ends, and whether there is a second one.
CASES = (
    ("integration", "test_ports.py", "plain", True),
    ("integration", "test_ports.py", "not_whole", False),
    ("unit", "test_ports.py", "plain", False),
    ("integration", "test_lock_machine.py", "starved", False),
    ("integration", "test_simulation.py", "plain", False),
    ("integration", "test_promises.py", "plain", False),
    ("integration", "test_failpoints.py", "starved", False),
    ("chaos", "test_chaos.py", "late", True),
    ("chaos", "test_chaos.py", "broken", False),
    ("chaos", "test_chaos.py", "seen_wrong", False),
    ("chaos", "test_poison.py", "starved", True),
    ("chaos", "test_poison.py", "not_answered", True),
    ("chaos", "test_poison.py", "out_of_time", True),
    ("chaos", "test_poison.py", "plain", False),
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of all cases, below the real conftest.py."""
    tests = tmp_path_factory.mktemp("second") / "tests"
    tests.mkdir()
    for name in ("conftest.py", "allowed_skips.txt"):
        shutil.copy(TESTS / name, tests)
    for folder, file, how, _ in CASES:
        place = tests / folder / how
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(SOURCE.replace("HOW", how))
    env = {**os.environ, "AGENTFLOW_CI": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "--rootdir", str(tests.parent), str(tests)],
        cwd=tests.parent, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(("folder", "file", "how", "again"), CASES)
def test_a_second_try_hides_no_broken_promise(
    outcomes: str,
    folder: str,
    file: str,
    how: str,
    again: bool,  # noqa: FBT001
) -> None:
    said = "PASSED" if again else "FAILED"
    assert re.search(rf"^{said} \S*{folder}/{how}/{file}::test_it", outcomes, re.MULTILINE), outcomes
