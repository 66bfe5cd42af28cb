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
    play(seed, "parts", size=SIZES["parts"], count=FAULTS).judge()


@pytest.mark.parametrize("seed", SEEDS["paid"])
def test_paid_work(seed: int) -> None:
    play(seed, "paid", size=SIZES["paid"], count=FAULTS).judge()


@pytest.mark.parametrize("seed", SEEDS["boltons"])
def test_boltons(seed: int) -> None:
    try:
        boltons.release()
    except boltons.NoReleaseError as error:
        if os.environ.get("AGENTFLOW_CI") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    play(seed, "boltons", size=SIZES["boltons"], count=FAULTS).judge()
