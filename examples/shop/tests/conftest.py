"""Every test needs what the set-up prepares, once."""

from pathlib import Path

import pytest

COUNTER = Path(__file__).resolve().parent.parent / ".prepared" / "count"


@pytest.fixture(autouse=True)
def prepared() -> None:
    assert COUNTER.exists(), "the set-up did not run here: python scripts/prepare.py"
    assert COUNTER.read_text(encoding="utf-8") == "1", "the set-up ran more than once"
