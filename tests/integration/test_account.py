"""The account of one attempt: bills outlive an absence of Redis, and calls wait a little for one another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis
from helpers.ledgers import RUN, open_run
from helpers.proxy import Proxy, proxied
from helpers.redis_server import RedisServer
from helpers.wait import wait_until
from kombu.exceptions import OperationalError

from agentflow.environment import Meter, Stop, Usage
from agentflow.errors import AttemptCancelled, BudgetReached
from agentflow.store.budgets import Amount, Change, nano
from agentflow.store.ledger import Ledger
from agentflow.store.scripts import Answer
from agentflow.tasks import account
from agentflow.tasks.account import LedgerAccount


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with proxied(redis_server.socket) as found:
        yield found


def account_of(
    ledger: Ledger,
    node: str = "a",
    *,
    stop: Stop | None = None,
    whole: tuple[float | None, int | None] = (None, None),
) -> LedgerAccount:
    """The account of a node that is claimed for it."""
    claim = ledger.claim(RUN, node, worker="w", ttl_ms=60_000)
    return LedgerAccount(
        ledger,
        (RUN, node, claim.fence),
        whole=whole,
        stop=stop or Stop(),
        deadline=float("inf"),
        send=lambda _answer: None,
    )


def allow(ledger: Ledger, scope: str, usd: float) -> None:
    ledger.grant(RUN, "p", [Change(f"{scope}:usd", "set", nano(usd))])


def spent(ledger: Ledger) -> tuple[Amount, Amount]:
    purse = ledger.purses(RUN)["run"]
    return purse.spent, purse.held


@pytest.mark.parametrize("answers_alone", [True, False], ids=["the answer is lost", "all is lost"])
def test_a_bill_that_cannot_be_brought_is_brought_later_and_counts_once(
    ledger: Ledger, proxy: Proxy, *, answers_alone: bool
) -> None:
    """Without the answer nobody knows whether it was written down; asking again is harmless."""
    open_run(ledger, {"a": []})
    ledger.charge(RUN, "a", 0, "none", Amount())  # the server has the script from here on
    client = redis.Redis.from_url(proxy.url, decode_responses=True, socket_timeout=0.3, retry=None)
    with client:
        mine = account_of(Ledger(client))
        mine.reserve(1.0, 100)
        proxy.hold(commands=not answers_alone)
        mine.pay(0.5, 50)
        proxy.heal(reset=True)
        if answers_alone:
            wait_until(lambda: spent(ledger) == (Amount(0.5, 50), Amount()))
        else:
            assert spent(ledger) == (Amount(), Amount(1.0, 100))
        mine.close()
        assert spent(ledger) == (Amount(0.5, 50), Amount())


def test_a_call_waits_for_others_that_may_leave_it_room(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "HELD_LOOK_S", 0.01)
    open_run(ledger, {"a": [], "b": []})
    allow(ledger, "run", 1)
    first, second = account_of(ledger, "a"), account_of(ledger, "b")
    first.reserve(0.8, 0)
    waiting = threading.Thread(target=second.reserve, args=(0.5, 0))
    waiting.start()
    wait_until(lambda: ledger.fields(RUN, "b", "need") != ("",))
    first.pay(0.3, 0)
    waiting.join(30)
    assert spent(ledger) == (Amount(0.3), Amount(0.5))


def test_a_stop_ends_the_wait(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "HELD_LOOK_S", 3600.0)
    open_run(ledger, {"a": [], "b": []})
    allow(ledger, "run", 1)
    stop = Stop()
    first, second = account_of(ledger, "a"), account_of(ledger, "b", stop=stop)
    first.reserve(0.8, 0)
    threading.Timer(0.1, stop.set, args=("cancelled",)).start()
    with pytest.raises(AttemptCancelled):
        second.reserve(0.5, 0)


def test_an_attempt_takes_what_is_left_of_its_nodes_budget(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    allow(ledger, "node:a", 2)
    mine = account_of(ledger, whole=(2.0, None))
    meter = Meter(mine)
    meter.reserve(Usage(cost_usd=0.5))
    meter.charge(Usage(calls=1, cost_usd=0.5))
    meter.reserve_attempt()
    assert spent(ledger) == (Amount(0.5), Amount(1.5))
    meter.charge(Usage(cpu_s=3.0))
    assert spent(ledger)[1] == Amount(1.5), "what its commands take of the machine is no bill"
    meter.charge_reserved()
    assert spent(ledger) == (Amount(2.0), Amount())
    with pytest.raises(BudgetReached) as ended:
        meter.reserve(Usage(cost_usd=0.01))
    assert ended.value.scope == "node"
    assert "node:a.usd=+N" in ended.value.fix


def test_what_nobody_asked_for_is_charged_all_the_same(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    mine = account_of(ledger)
    allow(ledger, "run", 0.1)
    mine.pay(0.2, 7)
    mine.pay(0.2, 7)
    assert spent(ledger) == (Amount(0.4, 14), Amount())


def test_what_nobody_asked_for_is_brought_later_when_redis_is_away(ledger: Ledger, proxy: Proxy) -> None:
    """An agent has done its work: its bill must neither fail the attempt nor be forgotten."""
    open_run(ledger, {"a": []})
    ledger.charge(RUN, "a", 0, "none", Amount())
    ledger.reserve(RUN, "a", 0, "none", Amount())
    client = redis.Redis.from_url(proxy.url, decode_responses=True, socket_timeout=0.3, retry=None)
    with client:
        mine = account_of(Ledger(client))
        proxy.hold(commands=True)
        mine.pay(0.2, 7)
        proxy.heal(reset=True)
        mine.close()
        assert spent(ledger) == (Amount(0.2, 7), Amount())


def test_what_nobody_asked_for_does_not_fail_an_attempt_that_has_lost_its_node(ledger: Ledger) -> None:
    open_run(ledger, {"a": []})
    mine = account_of(ledger)
    fence = int(ledger.fields(RUN, "a", "fence")[0])
    ledger.requeue(RUN, "a", fence, reason="its worker is gone", counter="losses")
    mine.pay(0.2, 7)
    assert spent(ledger) == (Amount(), Amount())


def test_a_bill_that_wakes_somebody_who_cannot_be_told_is_written_down_and_so_are_those_behind_it(
    ledger: Ledger, proxy: Proxy
) -> None:
    """What was woken and not sent is found by the reconciler; nobody else would find the bills."""
    open_run(ledger, {"a": [], "b": []})
    for one in ("charge", "reserve"):
        getattr(ledger, one)(RUN, "a", 0, "none", Amount())

    def unsent(_answer: Answer) -> None:
        raise OperationalError("the broker is away")

    client = redis.Redis.from_url(proxy.url, decode_responses=True, socket_timeout=0.3, retry=None)
    with client:
        mine = account_of(Ledger(client))
        mine._send = unsent
        mine.reserve(0.5, 5)
        proxy.hold(commands=True)
        mine.pay(0.5, 5)
        mine.pay(0.2, 2)
        proxy.heal(reset=True)
        mine.close()
        assert spent(ledger) == (Amount(0.7, 7), Amount())
