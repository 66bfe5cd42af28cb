"""What is played: the worlds by name, and how many nodes each has when there is time."""

from __future__ import annotations

from collections.abc import Mapping

from chaos.paid import Paid
from chaos.worlds import Boltons, Noops, Parts, World

WORLDS: Mapping[str, type[World]] = {"noops": Noops, "boltons": Boltons, "parts": Parts, "paid": Paid}
#: Nodes of a synthetic run; boltons has its own number.
SIZES = {"noops": 200, "boltons": 15, "parts": 200, "paid": 40}
