"""What `agentflow/broker.py` relies on in kombu's Redis transport, and what it promises."""

from __future__ import annotations

import pytest
from kombu import Connection

from agentflow import broker
from agentflow.app import make_app
from agentflow.config import load_config


@pytest.fixture
def channel(redis_url, tmp_path):
    config = load_config(tmp_path, environ={"AGENTFLOW_REDIS_URL": redis_url, "HOME": str(tmp_path)})
    with make_app(config).connection_for_write() as connection:
        yield connection.default_channel


def test_the_application_goes_through_it_by_socket_and_by_address(channel):
    assert isinstance(channel, broker.Channel)
    for url in ("redis://localhost:1/0", "redis+socket:///nowhere.sock?virtual_host=0"):
        assert isinstance(Connection(url).transport, broker.Transport)


def test_commands_share_one_client_until_the_pool_is_a_new_one(channel):
    with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
        assert first is second
        assert first.ping()
    channel._disconnect_pools()
    with channel.conn_or_acquire() as third:
        assert third is not first
        assert third.ping()


def test_a_client_that_the_caller_has_is_used(channel):
    mine = object()
    with channel.conn_or_acquire(mine) as used:
        assert used is mine


def test_it_asks_for_messages_in_the_very_words_of_kombu(channel, monkeypatch):
    """The command is put together once, and again when what it is made from changes."""
    asked: list[bytes] = []
    client = channel.client
    client.connection = client.connection or client.connection_pool.get_connection()
    monkeypatch.setattr(
        client.connection, "send_packed_command", lambda words, **_: asked.append(b"".join(words))
    )

    def both() -> tuple[bytes, bytes, bytes]:
        asked.clear()
        channel._brpop_start()
        channel._brpop_start()
        super(broker.Channel, channel)._brpop_start()
        channel._in_poll = None
        first, second, kombus = asked
        return first, second, kombus

    for queues in (["docs"], ["docs", "backend", broker.OWN_QUEUE + "one"]):
        channel._active_queues = queues
        channel._update_queue_cycle()
        first, second, kombus = both()
        assert first == second == kombus
        assert first.count(b"\r\ndocs") == 10
