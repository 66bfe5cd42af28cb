"""The streams of transitions: one per run, one for all runs."""

from __future__ import annotations

import json
from typing import Any, cast

import redis

from agentflow.store import keys
from agentflow.store.records import Event


class EventLog:
    """Reads transitions; the ledger's scripts write them."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def read(
        self, run_id: str = "", *, after: str = "0", block_ms: int = 0, count: int = 1000
    ) -> list[Event]:
        """Transitions after position `after` (`run_id` empty: of every run).

        With `block_ms` it waits that long for the first one; an empty list means that none came.
        """
        stream = keys.part(run_id, "events") if run_id else keys.EVENTS
        raw = cast("Any", self._client.xread({stream: after}, count=count, block=block_ms or None))
        if not raw:
            return []
        entries = raw[stream] if isinstance(raw, dict) else raw[0][1]
        if (
            entries
            and isinstance(entries[0], list)
            and entries[0]
            and isinstance(entries[0][0], list | tuple)
        ):
            entries = entries[0]  # RESP3 wraps the entries once more
        return [_event(position, fields, run_id) for position, fields in entries]

    def last(self, run_id: str = "") -> str:
        """The position of the newest transition, `0` when there is none."""
        stream = keys.part(run_id, "events") if run_id else keys.EVENTS
        newest = cast("list[Any]", self._client.xrevrange(stream, count=1))
        return str(newest[0][0]) if newest else "0"


def _event(position: str, fields: dict[str, str], run_id: str) -> Event:
    detail = fields.get("detail", "")
    return Event(
        id=position,
        run=fields.get("run", run_id),
        kind=fields["kind"],
        at_ms=int(fields["at"]),
        node=fields.get("node", ""),
        state=fields.get("state", ""),
        attempt=int(fields.get("attempt") or 0),
        reason=fields.get("reason", ""),
        detail=json.loads(detail) if detail.startswith("{") else ({"value": detail} if detail else {}),
    )
