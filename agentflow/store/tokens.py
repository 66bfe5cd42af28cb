"""Confirmation tokens: issued for one exact deed, good once and for minutes.

They live in Redis, so that the process that redeems a token need not be the one that issued it.
"""

from __future__ import annotations

import hashlib
import secrets

import redis

from agentflow.store import keys

#: Seconds that a token can be redeemed.
TOKEN_TTL_S = 300


class Tokens:
    """Issues and redeems tokens. `deed` says what a token is good for, arguments included."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def issue(self, deed: str) -> str:
        """A new token for this deed; forgotten after `TOKEN_TTL_S`."""
        token = secrets.token_hex(6)
        self._client.set(keys.confirmation(token), _digest(deed), ex=TOKEN_TTL_S)
        return token

    def redeem(self, token: str, deed: str) -> bool:
        """Whether the token was issued for this deed and is unused; used up by the question.

        Two calls with one token: GETDEL gives it to one of them.
        """
        known = self._client.getdel(keys.confirmation(token))
        return known is not None and secrets.compare_digest(str(known), _digest(deed))


def _digest(deed: str) -> str:
    return hashlib.sha256(deed.encode()).hexdigest()
