"""A repository, a way to run a feature in it, and what must be true after anything that went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.bad_input import Project
from helpers.house import House, open_house


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One data directory and worker for a file's tests; at its end nothing may be left of any."""
    with open_house(tmp_path_factory.mktemp("house")) as found:
        yield found


@pytest.fixture
def project(shared: House, tmp_path: Path) -> Project:
    """A fresh repository, whose only task is to let `check.py` pass."""
    return Project(shared, tmp_path)
