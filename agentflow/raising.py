"""What to type when a budget is spent: from the reason that the ledger gives to a command."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: `budget: role docs: $0.10 of $0.10 spent`, as the ledger writes it (`budget.lua`).
_REASON = re.compile(r"budget: (?P<kind>run|role|day|org|node)(?: (?P<role>[^:]+))?: (?P<rest>.*)")
_TOKENS = re.compile(r"tokens of \d+ tokens spent")
#: Changes that a command names; of a thousand nodes nobody types more.
MOST = 10
#: Budgets that belong to no run, and begin anew by themselves.
_DAILY = ("day.", "org.")


def change_of(reason: str, node: str = "") -> str:
    """The change of a budget that `reason` asks for, such as `docs.usd=+N`; '' when it speaks of none.

    `node`: whose reason it is, for its own budget.
    """
    found = _REASON.match(reason)
    if found is None:
        return ""
    unit = "tokens" if _TOKENS.search(found["rest"]) else "usd"
    if found["kind"] == "run":
        return "+N" if unit == "usd" else "tokens=+N"
    where = {"role": found["role"] or "", "node": f"node:{node}"}.get(found["kind"], found["kind"])
    return f"{where}.{unit}=+N"


def raise_hint(run: str, changes: Iterable[str] = ()) -> str:
    """The command, or the two, after which the run goes on that waits for these changes ('' is none).

    N stands for an amount.
    """
    wanted = [change for change in dict.fromkeys(changes) if change][:MOST]
    daily = [change for change in wanted if change.startswith(_DAILY)]
    own = "".join(f" --budget {change}" for change in wanted if change not in daily)
    first = f"agentflow budget set {' '.join(daily)}; " if daily else ""
    return f"{first}agentflow resume {run}{own}"


def begins_anew(change: str) -> bool:
    """Whether that budget is a day's, which nobody has to raise who can wait for midnight."""
    return change.startswith(_DAILY)
