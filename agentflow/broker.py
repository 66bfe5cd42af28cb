"""kombu's Redis transport with one client for each channel.

kombu makes a redis-py client for every command that it sends (three for a message: to send it, to note it
as unacknowledged, to acknowledge it) and throws it away. Each costs 55 us of Python and holds nothing:
connections come from the channel's pool. It is a tenth of what a no-op node costs a worker. Clients are
safe to share between threads.

`tests/integration/test_broker_contract.py` pins what is used here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as ConnectionLost

#: Queues that begin so belong to one worker, which takes from them before it takes from any other (of the
#: same priority).
OWN_QUEUE = "agentflow.worker."


class Channel(redis.Channel):
    """Keeps its client as long as its pool lives (a lost connection brings a new pool)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._kept: Any = None
        super().__init__(*args, **kwargs)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The client that the caller has, else the channel's own. Raises `ConnectionError` (of redis-py) when
        the connection is closed.
        """
        if self.connection.client is None:
            # Celery closes a lost connection in two steps. Between them kombu gives unacknowledged messages
            # back and finds no address to connect to; its AttributeError would end the worker.
            raise ConnectionLost("the connection is closed")
        found = client or self._kept
        if found is None or (client is None and found.connection_pool is not self.pool):
            # Two threads may both make one; either serves.
            with super().conn_or_acquire() as made:
                found = self._kept = made
        yield found

    def _update_queue_cycle(self) -> None:
        """Own queues first; kombu's order is that of a set."""
        cycle: Any = vars(self)["_queue_cycle"]
        cycle.update(sorted(self.active_queues, key=lambda name: not name.startswith(OWN_QUEUE)))


class Transport(redis.Transport):
    """What `redis://` and `redis+socket://` mean in this process."""

    Channel = Channel


def use() -> None:
    """Let Celery's Redis URLs go through this transport."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
