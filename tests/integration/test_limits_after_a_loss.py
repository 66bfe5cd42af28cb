"""A Redis that has lost its data gets the fleet's limits back from the workers that still live."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.wait import wait_until
from helpers.workers import stage

from agentflow.store import keys
from agentflow.store.governor import Governor

LIMITS = {
    "AGENTFLOW_RATE_LIMITS_PROVIDERS": json.dumps({"api.example.com": {"rpm": 7}}),
    "AGENTFLOW_LIMITS_ROLES": json.dumps({"backend": 3}),
}


@pytest.mark.breaks_store("the server forgets everything while a worker lives")
def test_living_workers_say_again_what_is_limited(redis_url: str, tmp_path: Path) -> None:
    with stage(redis_url, tmp_path, LIMITS) as found:
        found.start()
        client = found.ledger.client
        limits = client.hgetall(keys.LIMITS)
        rates = Governor(client).rates()
        assert rates["host:api.example.com"]["rpm"] == 7
        assert limits
        client.flushall()
        wait_until(lambda: Governor(client).rates() == rates, timeout=60, what="the rates are back")
        assert client.hgetall(keys.LIMITS) == limits
        wait_until(lambda: client.exists(keys.BREAKERS), timeout=60, what="the breakers are back")
