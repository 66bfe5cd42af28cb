"""After a start of the server: its append-only file is written anew.

A server that died in the middle of a write finds half a transaction at the end of that file. It leaves it
out, but it also leaves it standing, and appends behind it what comes next; at the *next* start the half that
was left out is carried out together with the transaction behind it (Redis 7.0: in aof.c `valid_up_to` moves
on with every command, also within MULTI). A script would then have happened by half, long after it was left
out. A file that is written anew from memory has no such end.
"""

from __future__ import annotations

import logging

import redis

from agentflow.store import keys

log = logging.getLogger(__name__)


def renew_log(client: redis.Redis) -> bool:
    """Have the server write its append-only file anew when it has started since this was last asked for.

    Whether it was asked for now. A server that refuses (no right to, out of disk) is asked once a start.
    """
    try:
        life = str(client.info("server")["run_id"])
        if client.get(keys.SERVER) == life:
            return False
        is_kept = bool(client.info("persistence").get("aof_enabled"))
        client.set(keys.SERVER, life)
        if is_kept:
            client.bgrewriteaof()
    except redis.ResponseError as error:
        log.warning("whether Redis has started anew, or a new log after it, cannot be had: %s", error)
        return False
    return is_kept
