"""The seeds of the two minutes that belong to every test run: together they bring every fault."""

from __future__ import annotations

from collections.abc import Mapping

#: World -> its seeds. That of `parts` has a server without an append-only file.
SEEDS: Mapping[str, tuple[int, ...]] = {"noops": (4, 7, 14), "parts": (1,), "boltons": (1,), "paid": (7,)}
#: Nodes of each world.
SIZES: Mapping[str, int] = {"noops": 30, "parts": 14, "boltons": 15, "paid": 5}
#: Faults in each play.
FAULTS = 6
