"""What an endpoint's headers say of its limits: how long to wait, and whether something is used up.

`Retry-After` is HTTP's own; the others are OpenAI's (`x-ratelimit-remaining-requests: 0`,
`x-ratelimit-reset-requests: 6m0s`) and what compatible services made of them (without `-requests`; a number
of seconds, or a time since 1970).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

#: What is counted, as the headers' names end.
_KINDS = ("-requests", "-tokens", "")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
#: Numbers above these are times since 1970, in milliseconds and seconds.
_EPOCH_MS, _EPOCH_S = 1e11, 1e8
#: A pause is never longer than this, whatever a header says.
LONGEST_S = 86_400.0


def pause_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait: by `Retry-After`, else until what is used up is there again."""
    waits = retry_after(headers)
    return waits if waits is not None else used_up(headers)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of `retry-after-ms`, or of `Retry-After` as seconds or date; None when neither is there."""
    text = headers.get("retry-after-ms", "")
    if text:
        seconds = _number(text)
        return None if seconds is None else max(0.0, seconds / 1000)
    text = headers.get("retry-after", "")
    seconds = _number(text)
    return max(0.0, seconds) if seconds is not None else _until_date(text)


def used_up(headers: Mapping[str, str]) -> float | None:
    """Seconds until that of which nothing remains is there again; None when there is something of all."""
    waits = [
        _reset(headers.get(f"x-ratelimit-reset{kind}", ""))
        for kind in _KINDS
        if _number(headers.get(f"x-ratelimit-remaining{kind}", "")) == 0
    ]
    known = [wait for wait in waits if wait is not None]
    return min(LONGEST_S, max(known)) if known else None


def _reset(text: str) -> float | None:
    """`1m30.5s`, `120ms`, a number of seconds, or a time since 1970."""
    number = _number(text)
    if number is None:
        parts = _PART.findall(text)
        if not parts or "".join(f"{n}{unit}" for n, unit in parts) != text.strip():
            return None
        return sum(float(n) * _SECONDS[unit] for n, unit in parts)
    if number > _EPOCH_MS:
        return max(0.0, number / 1000 - time.time())
    return max(0.0, number - time.time() if number > _EPOCH_S else number)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _until_date(text: str) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
