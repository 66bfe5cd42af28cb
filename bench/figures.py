"""A figure with its target, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. Gross: nothing is subtracted. `most` (or `least`) is the target, None for a figure
    that is only reported; `samples` are the single measurements that `value` is the median (or maximum) of.
    """

    name: str
    value: float
    unit: str
    most: float | None = None
    note: str = ""
    samples: Sequence[float] = field(default_factory=tuple)
    least: float | None = None

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing when there is no target."""
        if self.most is None and self.least is None:
            return ""
        above = self.most is not None and self.value > self.most
        below = self.least is not None and self.value < self.least
        return "missed" if above or below else "met"

    def line(self) -> str:
        """The figure as a row of the table."""
        target = "" if self.most is None else f"<= {self.most:g}"
        target = target if self.least is None else f">= {self.least:g}"
        row = f"{self.name:<58} {_short(self.value):>9} {self.unit:<6} {target:>8}  {self.verdict:<6}"
        return f"{row}  {self.note}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "samples": list(self.samples), "verdict": self.verdict}


HEADER = f"{'figure':<58} {'value':>9} {'unit':<6} {'target':>8}  {'':<6}"


def median(samples: Sequence[float]) -> float:
    """The middle one; a figure says how many there were."""
    return statistics.median(samples)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0-1) of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]


def spread(samples: Sequence[float]) -> str:
    """Smallest to largest, and how many, for a note."""
    return f"{_short(min(samples))}-{_short(max(samples))} in {len(samples)}"


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
