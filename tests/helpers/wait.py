"""Wait for something to become true; tests never sleep for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTimeError(AssertionError):
    """The patience of a test was over; nothing that it saw until then was wrong."""


def wait_until(probe: Callable[[], T], *, timeout: float = 10.0, every: float = 0.01, what: str = "") -> T:
    """Call `probe` until it returns something true, and return that.

    An `AssertionError` in the probe counts as "not yet" and is what the failure shows. `NotInTimeError` when
    the last answer was only "not yet".
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            name = what or getattr(probe, "__name__", repr(probe))
            kind = AssertionError if isinstance(last, AssertionError) else NotInTimeError
            raise kind(f"{name} did not come true within {timeout:g} s; last: {last!r}")
        time.sleep(every)
