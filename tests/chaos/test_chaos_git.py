"""Seeded chaos upon real git work, short: a synthetic feature, and the modules of boltons (docs/chaos.md)."""

from __future__ import annotations

import os

import pytest
from chaos.play import play
from chaos.short import FAULTS, SEEDS, SIZES
from helpers import boltons

pytestmark = pytest.mark.timeout(1500)


@pytest.mark.parametrize("seed", SEEDS["parts"])
def test_pieces_that_are_built_on_one_another(seed: int) -> None:
    report = play(seed, "parts", size=SIZES["parts"], count=FAULTS)
    assert not report.wrong, str(report)


@pytest.mark.parametrize("seed", SEEDS["boltons"])
def test_boltons(seed: int) -> None:
    try:
        boltons.release()
    except boltons.NoReleaseError as error:
        if os.environ.get("AGENTFLOW_CI") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    report = play(seed, "boltons", size=SIZES["boltons"], count=FAULTS)
    assert not report.wrong, str(report)
