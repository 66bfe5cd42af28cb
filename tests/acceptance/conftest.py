"""Fixtures of the tests that type commands: the whole program, from the outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.house import House, open_house


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A data directory of its own; afterwards nothing may run, listen or lie about for it."""
    with open_house(tmp_path / "house") as found:
        yield found
