"""A server that lost power in the middle of a write, and then dies once more."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import redis
from helpers.wait import wait_until
from helpers.weak_redis import WeakServer, weak_server

from agentflow.local import server
from agentflow.local.control import Paths
from agentflow.local.keeper import Keeper
from agentflow.store import keys
from agentflow.store.restarts import renew_log

#: Two writes of one transaction.
SCRIPT = "redis.call('HINCRBY', KEYS[1], 'first', 1) redis.call('HINCRBY', KEYS[1], 'second', 1)"


def lose_power(server: WeakServer) -> None:
    """The last transaction is on the disk by half: its end and a part of its second write are missing."""
    with server.client() as client:
        client.config_set("appendfsync", "always")
        client.eval(SCRIPT, 1, "doomed")
    server.kill()
    _, size = server.log_size()
    assert server.cut_tail(size - len(b"*1\r\n$4\r\nEXEC\r\n") - 3) > 0
    server.start()


def die_again(server: WeakServer) -> None:
    with server.client() as client:
        client.config_set("appendfsync", "always")
        client.eval(SCRIPT, 1, "later")
    server.kill()
    server.start()


def is_written(client: redis.Redis) -> bool:
    told = client.info("persistence")
    return not told["aof_rewrite_in_progress"] and not told["aof_rewrite_scheduled"]


def test_a_transaction_that_was_left_out_does_not_happen_by_half_later():
    with weak_server() as server:
        lose_power(server)
        with server.client() as client:
            assert not client.exists("doomed")
            assert renew_log(client)
            assert not renew_log(client)
            wait_until(lambda: is_written(client), timeout=60)
        die_again(server)
        with server.client() as client:
            assert client.hgetall("later") == {"first": "1", "second": "1"}
            assert not client.exists("doomed")
            assert renew_log(client)


def test_it_is_this_server_that_needs_it():
    """Redis 7.0 does it; when no server that we support does any more, `restarts.py` can go."""
    with weak_server() as server:
        lose_power(server)
        die_again(server)
        with server.client() as client:
            version = client.info("server")["redis_version"]
            found = client.hgetall("doomed")
            assert found == {"first": "1"} or (not found and not version.startswith("7.0.")), version


def test_who_keeps_no_log_is_not_asked(redis_client):
    redis_client.config_set("appendonly", "no")
    assert not renew_log(redis_client)
    assert redis_client.get(keys.SERVER) == redis_client.info("server")["run_id"]


def test_a_private_server_has_it_at_each_start(tmp_path: Path):
    directory = Path(tempfile.mkdtemp(prefix="aft-"))
    socket = directory / "redis.sock"
    (tmp_path / "logs").mkdir()
    kept = Keeper(Paths(tmp_path, socket))
    try:
        kept.start()
        for _ in range(2):
            with server.client(socket) as client:
                assert client.get(keys.SERVER) == client.info("server")["run_id"]
            os.kill(kept.pid, signal.SIGKILL)
            wait_until(kept.tend, timeout=60, what="it is started again")
    finally:
        kept.close()
        shutil.rmtree(directory)
