"""Holds what the ledger says was spent and let in against the provider's own books (I5, I6).

Its own reading, as history.py: it shares no code with the scripts that it judges. Each function returns
sentences, none when all is well. Where the harness itself made a call late, or took the ledger's memory away,
no more is asked than can be promised; each function says what that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from helpers.metered import Allowed, Call

from agentflow.store.budgets import Purse
from agentflow.store.records import Event

TOLERANCE_USD = 1e-6
#: Seconds after a disturbance until which a call may have been let in before or during it.
TAIL_S = 3.0
#: Seconds that a call may need from the ledger's word to the provider's door on a busy machine.
LATE_S = 1.0
#: What an attempt says that failed because of a 429.
PAUSES = ("HTTP 429", "limits our requests")
#: Events that tell of a pause; it is nobody's failure there.
TOLD = ("node.throttled", "node.delayed")


@dataclass(slots=True)
class Trouble:
    """Somebody was disturbed: a machine by its name, or the server ('')."""

    who: str
    since: float
    until: float = float("inf")

    def covers(self, call: Call) -> bool:
        """Whether the call may be late because of it."""
        return self.who in ("", call.who) and self.since <= call.came <= self.until + TAIL_S


@dataclass(slots=True)
class Ceilings:
    """I5 while it happens: at no look are spent and reserved together above a limit. No slack at all."""

    wrong: dict[str, str] = field(default_factory=dict)
    looks: int = 0

    def look(self, purses: Iterable[Purse]) -> None:
        """Judge what one read of all budgets of a run says."""
        self.looks += 1
        for purse in purses:
            usd, tokens = purse.spent.usd + purse.held.usd, purse.spent.tokens + purse.held.tokens
            over_usd = purse.limit_usd is not None and usd > purse.limit_usd + TOLERANCE_USD
            if over_usd or (purse.limit_tokens is not None and tokens > purse.limit_tokens):
                self.wrong.setdefault(purse.scope, f"I5: above its ceiling: {purse}")


def check_bills(
    spent_usd: float, estimated_usd: float, answered_usd: float, *, lossy: bool, rebuilt: bool = False
) -> Iterator[str]:
    """I5 afterwards: each answer is paid for at least once (as `estimated_usd`, when its bill never came) and
    at most once. `lossy`: the ledger has forgotten some of what it was told, so that too little may be there;
    `rebuilt`: it was written anew from a journal, which does not tell estimates from bills.
    """
    billed = spent_usd - estimated_usd
    if not rebuilt and billed > answered_usd + TOLERANCE_USD:
        yield f"I5: charged twice: {billed} USD were billed, the provider answered for {answered_usd}"
    if not lossy and spent_usd < answered_usd - TOLERANCE_USD:
        yield f"I5: not charged: {spent_usd} USD are spent, the provider answered for {answered_usd}"


def check_windows(calls: Sequence[Call], allowed: Allowed, troubles: Sequence[Trouble]) -> Iterator[str]:
    """I6: no more calls in a window or at once than allowed.

    Judged are calls of machines that were not disturbed and not just before: any other may have been let in
    long before it came. A window is taken shorter by `LATE_S`, the way from the ledger to the provider.
    """
    prompt = sorted(
        (call for call in calls if not any(trouble.covers(call) for trouble in troubles)),
        key=lambda call: call.came,
    )
    for number, call in enumerate(prompt):
        window = [c for c in prompt[number:] if c.came < call.came + allowed.window_s - LATE_S]
        if len(window) > allowed.calls:
            yield f"I6: {len(window)} calls in {allowed.window_s} s from {call.came:.2f}, {allowed.calls} may"
            break
        if sum(c.tokens_in + c.tokens_out for c in window) > allowed.tokens:
            yield f"I6: more than {allowed.tokens} tokens in {allowed.window_s} s from {call.came:.2f}"
            break
    for call in prompt:
        # One that was refused was let in by the ledger all the same.
        at_once = [c for c in prompt if c is call or c.came <= call.came < c.ended]
        if len(at_once) > allowed.at_once:
            yield f"I6: {len(at_once)} calls were under way at {call.came:.2f}, {allowed.at_once} may"
            break


def check_pauses(events: Iterable[Event], last_words: Mapping[str, str]) -> Iterator[str]:
    """I6: a 429 is a pause. `last_words`: what each node's last failed attempt was told."""
    for event in events:
        if event.kind not in TOLD and any(word in event.reason for word in PAUSES):
            yield f"{event.node} ({event.id}): I6: a 429 became a failure: {event.reason[:120]}"
    for node, text in last_words.items():
        if any(word in text for word in PAUSES):
            yield f"{node}: I6: a 429 became a failed attempt: {text[:120]}"
