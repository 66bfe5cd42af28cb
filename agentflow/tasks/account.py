"""Who pays for an attempt: every paid call asks the ledger before, and is written down after.

What could interleave: an attempt that lost its node (its worker stood still past the lease) still has a
call under way. Its reservation went back when the attempt was ended; it can reserve nothing more, but
brings the bill of that call, which the ledger takes once (store/budgets.py). While Redis is away a bill
is kept and brought with the next one, or when the attempt has ended. A bill that nobody asked about before
is given a reservation of nothing first, which is what the ledger charges it to; only the attempt that still
has its node can get one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kombu.exceptions import OperationalError

from agentflow.canvas.plan import Plan
from agentflow.canvas.spending import Limit
from agentflow.environment import Stop
from agentflow.errors import AttemptCancelled, BudgetReached
from agentflow.raising import begins_anew, change_of, raise_hint
from agentflow.store.budgets import Amount, Budgets
from agentflow.store.client import Unreachable
from agentflow.store.scripts import Answer
from agentflow.tasks.attempts import Held
from agentflow.tasks.context import Context

log = logging.getLogger("agentflow.account")

#: Seconds that a call waits for other calls' reservations that may come back, before the node is given back.
HELD_PATIENCE_S = 60.0
HELD_LOOK_S = 0.5


class LedgerAccount:
    """The account of one attempt: (run, node, fence). `send` gets what a charge has woken."""

    def __init__(
        self,
        ledger: Budgets,
        key: tuple[str, str, int],
        *,
        whole: Limit,
        stop: Stop,
        deadline: float,
        send: Callable[[Answer], None],
    ) -> None:
        self._ledger = ledger
        self._run, self._node, self._fence = key
        self._whole = whole
        self._stop = stop
        self._deadline = deadline
        self._send = send
        self._lock = threading.Lock()
        self._count = 0
        #: The reservation that waits for its bill: its name and amount.
        self._open: tuple[str, Amount] | None = None
        #: Bills by name and amount, and whether they have a reservation.
        self._unsent: list[tuple[str, Amount, bool]] = []

    def reserve(self, usd: float, tokens: int) -> None:
        """Set aside what the next call may cost; waits a little for other calls' reservations."""
        self._take(Amount(usd, tokens), counts=True)

    def reserve_attempt(self) -> None:
        """Set aside what is configured for a whole attempt, else what the node's own budget has left."""
        usd, tokens = self._whole
        spent = self._ledger.purses(self._run).get(f"node:{self._node}")
        if spent and spent.limit_usd is not None and usd is not None:
            usd = min(usd, max(0.0, spent.limit_usd - spent.spent.usd))
        if spent and spent.limit_tokens is not None and tokens is not None:
            tokens = min(tokens, max(0, spent.limit_tokens - spent.spent.tokens))
        self._take(Amount(usd or 0.0, tokens or 0), counts=False)

    def pay(self, usd: float, tokens: int) -> None:
        """Write down what the call has cost; never raises for a Redis or a broker that is away, nor for an
        attempt that has lost its node.
        """
        with self._lock:
            reserved, self._open = self._open, None
            # Where nobody asked before it is spent all the same.
            name = reserved[0] if reserved else self._next_name()
            self._unsent.append((name, Amount(usd, tokens), reserved is not None))
        self._bring_unsent()

    def pay_reserved(self) -> None:
        """What was set aside is taken for what was spent."""
        if self._open:
            self.pay(self._open[1].usd, self._open[1].tokens)

    def close(self) -> None:
        """The attempt is over: bring what could not be brought before."""
        self._bring_unsent()
        if self._unsent:
            log.warning("%s of run %s: its last bills could not be written down", self._node, self._run)

    def _take(self, amount: Amount, *, counts: bool) -> None:
        self._bring_unsent()
        reserved = self._ask(amount, counts=counts)
        with self._lock:
            self._open = reserved

    def _ask(self, amount: Amount, *, counts: bool) -> tuple[str, Amount]:
        with self._lock:
            name = self._next_name()
        until = min(time.monotonic() + HELD_PATIENCE_S, self._deadline)
        while True:
            answer = self._ledger.reserve(self._run, self._node, self._fence, name, amount, counts=counts)
            if answer.verdict == "reserved":
                return name, amount
            if answer.verdict == "superseded":
                raise AttemptCancelled("the attempt was stopped: the node is another attempt's by now")
            if not answer.held or time.monotonic() >= until:
                change = change_of(answer.reason, self._node)
                later = "; it begins anew at midnight UTC" if begins_anew(change) else ""
                fix = f"`{raise_hint(self._run, [change])}`{later}"
                raise BudgetReached(answer.scope, answer.reason, fix=fix)
            self._stop.wait(HELD_LOOK_S)
            self._stop.check()

    def _next_name(self) -> str:
        self._count += 1
        return str(self._count)

    def _bring_unsent(self) -> None:
        with self._lock:
            bills, self._unsent = self._unsent, []
        while bills:
            try:
                answer = self._charge(*bills[0])
            except Unreachable as error:
                log.warning("a bill of %s in run %s waits: Redis is away (%s)", self._node, self._run, error)
                break
            bills.pop(0)
            try:
                self._send(answer)
            except (OperationalError, *Unreachable) as error:
                # The reconciler sends what is ready and silent.
                log.warning("what a bill of run %s has woken could not be sent: %s", self._run, error)
        with self._lock:
            self._unsent = [*bills, *self._unsent]

    def _charge(self, name: str, amount: Amount, asked: bool) -> Answer:  # noqa: FBT001 (a field of a bill)
        if not asked:
            given = self._ledger.reserve(self._run, self._node, self._fence, name, Amount(), counts=False)
            if given.verdict == "superseded":
                what = f"${amount.usd:.4f}, {amount.tokens} tokens"
                log.warning("%s of run %s is another's: nobody pays %s", self._node, self._run, what)
        return self._ledger.charge(self._run, self._node, self._fence, name, amount)


def account_of(context: Context, plan: Plan, held: Held) -> LedgerAccount:
    """The account of a claimed node, from the budgets of its run."""
    return LedgerAccount(
        context.ledger,
        held.key,
        whole=plan.spending.attempt(held.node),
        stop=held.stop,
        deadline=held.deadline,
        send=lambda answer: context.send_woken(held.run, answer),
    )
