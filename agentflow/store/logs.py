"""Ends of logs of attempts on other machines, so that whoever looks at a run can read them.

| key | type | holds | TTL | owner |
|---|---|---|---|---|
| `af:logs:<run>` | hash | file name -> the end of the log, deflated | `TTL_S` after the last one | the run |
"""

from __future__ import annotations

import zlib
from typing import cast

from agentflow.store import keys
from agentflow.store.client import connect_binary
from agentflow.store.packs import check_room

#: Bytes of one log that travel: its end.
LOG_CAP_BYTES = 64 * 1024
TTL_S = keys.CLOSED_TTL_S
_PREFIX = "af:logs:"


class Logs:
    """The logs of one run on one Redis."""

    def __init__(self, url: str, run_id: str) -> None:
        self._client = connect_binary(url)
        self._key = _PREFIX + run_id

    def put(self, name: str, text: bytes) -> None:
        """Keep the end of a log under its file name. Raises `FullError` when Redis is nearly full."""
        check_room(self._client)
        pipe = self._client.pipeline(transaction=True)
        pipe.hset(self._key, name, zlib.compress(text[-LOG_CAP_BYTES:]))
        pipe.expire(self._key, TTL_S)
        pipe.execute()

    def all(self) -> dict[str, bytes]:
        """Every log by its file name, at most `LOG_CAP_BYTES` of each, whatever was put there."""
        raw = cast("dict[bytes, bytes]", self._client.hgetall(self._key))
        return {
            name.decode("utf-8", "replace"): zlib.decompressobj().decompress(text, LOG_CAP_BYTES)
            for name, text in raw.items()
        }

    def forget(self) -> None:
        """Remove them."""
        self._client.delete(self._key)
