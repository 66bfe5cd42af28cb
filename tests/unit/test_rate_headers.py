"""What an endpoint's headers say of its limits."""

from __future__ import annotations

import time
from email.utils import format_datetime, localtime

import pytest

from agentflow.llm.headers import LONGEST_S, pause_of, used_up

SOON = "x-ratelimit-reset-requests"
LEFT = "x-ratelimit-remaining-requests"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({LEFT: "0", SOON: "6m0s"}, 360),
        ({LEFT: "0", SOON: "1m30.5s"}, 90.5),
        ({LEFT: "0", SOON: "120ms"}, 0.12),
        ({LEFT: "0", SOON: "12.5"}, 12.5),
        ({LEFT: "0", SOON: "whenever"}, None),
        ({LEFT: "0"}, None),
        ({LEFT: "3", SOON: "6m0s"}, None),
        ({LEFT: "0", SOON: "1s", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "4s"}, 4),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9"}, 9),
        ({LEFT: "0", SOON: "400d"}, LONGEST_S),
        ({"retry-after": "2", LEFT: "0", SOON: "1h"}, 2),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert pause_of(headers) == seconds


@pytest.mark.parametrize("unit", [1, 1000])
def test_a_time_since_1970(unit: int) -> None:
    found = used_up({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str((time.time() + 50) * unit)})
    assert found == pytest.approx(50, abs=5)


def test_a_date() -> None:
    date = format_datetime(localtime().fromtimestamp(time.time() + 50).astimezone())
    assert pause_of({"retry-after": date}) == pytest.approx(50, abs=5)
