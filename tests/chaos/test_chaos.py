"""Seeded chaos, short: what `make chaos` does for an hour, with few nodes and few faults (docs/chaos.md)."""

from __future__ import annotations

import pytest
from chaos import faults
from chaos.play import Report, bag, is_durable, play
from chaos.programme import WORLDS
from chaos.short import FAULTS, SEEDS, SIZES

pytestmark = pytest.mark.timeout(1500)


def test_the_seeds_bring_every_fault() -> None:
    coming = {
        fault.__name__
        for world, seeds in SEEDS.items()
        for seed in seeds
        for fault in bag(
            Report(world, seed, SIZES[world], count=FAULTS),
            WORLDS[world].takes,
            durable=is_durable(seed, world),
            small=True,
        )
    }
    assert coming == {fault.__name__ for fault in faults.EVERY}
    assert not is_durable(SEEDS["parts"][0], "parts")


@pytest.mark.parametrize("seed", SEEDS["noops"])
def test_no_ops(seed: int) -> None:
    play(seed, "noops", size=SIZES["noops"], count=FAULTS).judge()
