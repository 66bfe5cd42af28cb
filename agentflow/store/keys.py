"""Every key of the ledger in one table: type, fields, TTL, owner.

| key | type | holds | TTL | owner |
|---|---|---|---|---|
| `af:schema` | string | version of this layout | none | the installation |
| `af:runs` | zset | run id -> opened (ms) | none, trimmed by gc | the installation |
| `af:events` | stream | every transition of every run, the last 10,000 | none, trimmed | the installation |
| `af:leases` | zset | `run|node|fence` -> end of lease (ms) | empties itself | running attempts |
| `af:delayed` | zset | `run|node` -> due (ms) | empties itself | delayed nodes |
| `af:open` | set | ids of runs that are not closed | empties itself | open runs |
| `af:leader` | string | name of the reconciling worker | 1.5 s | the leader |
| `af:roles` | set | roles that an open or past run asked for | none | the installation |
| `af:worker:<name>` | hash | pid, host, slots, roles, schema, seen_ms, busy | 15 s | the worker |
| `af:run:<id>` | hash | see `RunRecord`; `in_flight` counts running and woken nodes | when closed | the run |
| `af:run:<id>:plan` | string | the plan, JSON | when closed | the run |
| `af:run:<id>:node:<node>` | hash | see `NodeRecord` | when closed | the run |
| `af:run:<id>:open` | set | nodes that are not terminal | when closed | the run |
| `af:run:<id>:ready` | zset | node -> ready since (ms) | when closed | the run |
| `af:run:<id>:parked` | zset | node -> order of waking (user priority, upward rank) | when closed | the run |
| `af:run:<id>:lockwait` | zset | node -> arrival, for parked nodes that want locks | when closed | the run |
| `af:run:<id>:locks` | hash | `w:<path>` -> holder, `i:<path>` -> holders below | when closed | the run |
| `af:run:<id>:writers` | hash | path -> node that settled it last | when closed | the run |
| `af:run:<id>:roles` | hash | role -> nodes in flight | when closed | the run |
| `af:run:<id>:settled` | zset | node -> place in the settled sequence | when closed | the run |
| `af:run:<id>:texts` | hash | node -> hand-off or report, at most 16 KB | when closed | the run |
| `af:run:<id>:events` | stream | transitions of the run | when closed | the run |

A cluster is not supported (kombu's transport is not either), so the scripts build the keys of a run
from its id.
"""

from __future__ import annotations

SCHEMA_VERSION = "1"
PREFIX = "af:"
SCHEMA = PREFIX + "schema"
RUNS = PREFIX + "runs"
OPEN = PREFIX + "open"
EVENTS = PREFIX + "events"
LEASES = PREFIX + "leases"
DELAYED = PREFIX + "delayed"
LEADER = PREFIX + "leader"
ROLES = PREFIX + "roles"
WORKERS = PREFIX + "worker:"

#: Seconds that the keys of a closed run are kept.
CLOSED_TTL_S = 14 * 24 * 3600
#: Seconds without a sign of life after which a worker's record is gone.
WORKER_TTL_S = 15
#: Keys that live as long as the installation does.
PERMANENT = frozenset({SCHEMA, RUNS, EVENTS, ROLES})
#: Keys that are empty (hence absent) when nothing is open.
TRANSIENT = frozenset({OPEN, LEASES, DELAYED, LEADER})

_PARTS = (
    "plan",
    "open",
    "ready",
    "parked",
    "lockwait",
    "locks",
    "writers",
    "roles",
    "settled",
    "texts",
    "events",
)


def run(run_id: str) -> str:
    """Key of a run's hash."""
    return f"{PREFIX}run:{run_id}"


def part(run_id: str, name: str) -> str:
    """Key of one of the run's own collections (`_PARTS`)."""
    if name not in _PARTS:
        raise ValueError(name)
    return f"{PREFIX}run:{run_id}:{name}"


def parts(run_id: str) -> list[str]:
    """Every key of a run apart from its nodes."""
    return [run(run_id), *(part(run_id, name) for name in _PARTS)]


def node(run_id: str, node_id: str) -> str:
    """Key of a node's hash."""
    return f"{PREFIX}run:{run_id}:node:{node_id}"


def worker(name: str) -> str:
    """Key of a worker's record."""
    return WORKERS + name
