"""kombu's Redis transport with one client for each channel.

kombu makes a redis-py client for every command that it sends (three for a message: to send it, to note it
as unacknowledged, to acknowledge it) and throws it away. Each costs 55 us of Python and holds nothing:
connections come from the channel's pool. It is a tenth of what a no-op node costs a worker. Clients are
safe to share between threads.

And a message that nobody can read ends nobody: kombu and Celery let most of what such a message raises end
the worker, and the next worker that gets it too. Here it is logged and dropped, which loses nothing: what
a message was about stands in the ledger, and the reconciler sends what is ready and not carried.

`tests/integration/test_broker_contract.py` and `tests/chaos/test_poison.py` pin what is used here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as TooLate

log = logging.getLogger("agentflow.broker")

#: Characters of a dropped message that the log shows.
SHOWN_MAX = 200
#: Queues that begin so belong to one worker, which takes from them before it takes from any other (of the
#: same priority).
OWN_QUEUE = "agentflow.worker."


class QoS(redis.QoS):
    """Notes and acknowledges outside of transactions: a full Redis refuses whatever stands in one, be it what
    frees memory, and the refusal of an acknowledgement would end the worker.
    """

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """The pipeline that the caller has, else one of this channel's client."""
        if pipe is not None:
            yield pipe
            return
        channel: Any = self.channel
        with channel.conn_or_acquire(client) as found:
            yield found.pipeline(transaction=False)

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        """The message first: an entry of the index alone is cleared away when its time has come."""
        with self.pipe_or_acquire(pipe) as found:
            return found.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)


class Channel(redis.Channel):
    """Keeps its client as long as its pool lives (a lost connection brings a new pool)."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._kept: Any = None
        #: What asks for a message, as bytes on the wire, by what it is made from.
        self._packed: tuple[Any, list[bytes]] = (None, [])
        super().__init__(*args, **kwargs)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The client that the caller has, else the channel's own. Raises `ConnectionError` (of redis-py) when
        the connection is closed.
        """
        if self.connection is None or self.connection.client is None:
            # Celery closes a lost connection in two steps. Between them kombu gives unacknowledged messages
            # back and finds no address to connect to; its AttributeError would end the worker.
            raise ConnectionLost("the connection is closed")
        found = client or self._kept
        if found is None or (client is None and found.connection_pool is not self.pool):
            # Two threads may both make one; either serves.
            with super().conn_or_acquire() as made:
                found = self._kept = made
        yield found

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for a message from any queue, as kombu does, in bytes that are kept: with sixteen roles and ten
        priorities it names 160 lists, and putting that together is a twentieth of what a no-op node costs a
        worker.
        """
        own: Any = self
        queues = vars(self)["_queue_cycle"].consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        made_from = (queues, self.brpop_timeout if timeout is None else timeout)
        if self._packed[0] != made_from:
            names = [own._q_for_pri(queue, level) for level in own.priority_steps for queue in queues]  # noqa: SLF001
            self._packed = made_from, connection.pack_command("BRPOP", *names, made_from[1] or 0)
        self._in_poll, self._brpop_sent_at = connection, monotonic()
        connection.send_packed_command(self._packed[1])

    def _brpop_read(self, **options: Any) -> Any:
        """Take a message from a queue and deliver it. One that is not even JSON is gone when this raises."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (ValueError, RecursionError) as error:
            log.error("a message that nobody can read was dropped: %s", _told(error))  # noqa: TRY400
            return True

    def _update_queue_cycle(self) -> None:
        """Own queues first; kombu's order is that of a set."""
        cycle: Any = vars(self)["_queue_cycle"]
        cycle.update(sorted(self.active_queues, key=lambda name: not name.startswith(OWN_QUEUE)))


class Transport(redis.Transport):
    """What `redis://` and `redis+socket://` mean in this process."""

    Channel = Channel

    #: A server without memory may have some again, as one that is away may come back.
    connection_errors = (*redis.Transport.connection_errors, OutOfMemoryError)

    def _get_errors(self) -> Any:
        """The same for one transport."""
        return type(self).connection_errors, type(self).channel_errors

    def _deliver(self, message: Any, queue: str | None) -> None:
        """Hand a message to whoever consumes the queue; the boundary of what a bad one may break."""
        try:
            if message["headers"].get("eta"):
                raise ValueError("it is due later, which agentflow never asks for")  # noqa: TRY301
            super()._deliver(message, queue)
        except (OSError, ConnectionLost, TooLate):
            # Not the message's doing. (`connection_errors` holds KeyError too.)
            raise
        except Exception as error:  # noqa: BLE001
            shown = str(message)[:SHOWN_MAX]
            log.error("a message of %s was dropped: %s; %s", queue, _told(error), shown)  # noqa: TRY400
            self._drop(message)

    def _drop(self, message: Any) -> None:
        """Forget a message, which may have been noted as unacknowledged before it broke something."""
        properties = message.get("properties") if isinstance(message, dict) else None
        tag = properties.get("delivery_tag") if isinstance(properties, dict) else None
        if isinstance(tag, str):
            channels: Any = self.channels
            for channel in channels:
                if tag in channel.qos._delivered:  # noqa: SLF001
                    channel.qos.reject(tag)


def use() -> None:
    """Let Celery's Redis URLs go through this transport."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:SHOWN_MAX]}"
