"""Every key of the ledger in one table: type, fields, TTL, owner.

| key | type | holds | TTL | owner |
|---|---|---|---|---|
| `af:schema` | string | version of this layout | none | the installation |
| `af:server` | string | the start of the server whose log was written anew | none | the installation |
| `af:runs` | zset | run id -> opened (ms) | none, trimmed by gc | the installation |
| `af:events` | stream | every transition of every run, the last 10,000 | none, trimmed | the installation |
| `system_events` | list | transitions, deeds on the fleet: JSON | none, trimmed | the installation |
| `af:leases` | zset | `run|node|fence` -> end of lease (ms) | empties itself | running attempts |
| `af:delayed` | zset | `run|node` -> due (ms) | empties itself | delayed nodes |
| `af:open` | set | ids of runs that are not closed | empties itself | open runs |
| `af:leader` | string | name of the reconciling worker, a bar, the mark of its process | 1.5 s | the leader |
| `af:roles` | set | roles that an open or past run asked for | none | the installation |
| `af:queues` | set | queues that an open or past run asked for | none | the installation |
| `af:limits` | hash | `fleet`, `role:..`, `class:..` -> slots at once (0: any) | none | the installation |
| `af:suspect` | string | `run|node|fence` of the last suspect node that began | 1 h | that node |
| `af:paused` | hash | `fleet`, `role:<role>` -> since (ms), a blank, the reason | none | the installation |
| `af:breakers` | hash | their settings; `fails:`, `open:`, `trial:<role>` | none | the installation |
| `af:rates` | hash | window -> what it allows (JSON); `set:<window>`: set live | none | the installation |
| `af:rate:<window>` | hash | tokens, pauses, breaker: `windows.lua` | an hour, or until full | its calls |
| `af:rate:<window>:log` | zset | call -> when it was let in (ms), of the last minute | an hour | its calls |
| `af:rate:<window>:sizes` | hash | call -> its tokens | an hour | its calls |
| `af:rate:<window>:held` | zset | call under way -> when it counts no more (ms) | its bound | its calls |
| `af:rate:<window>:line` | hash | `run|node` that waits -> arrival, next look | an hour | its waiters |
| `af:bell:<run>|<node>` | list | rings when one that waits may look again | 5 s | the attempt |
| `af:capacity` | hash | queue -> slots of the workers that consume it | none, renewed | the leader |
| `af:flight` | hash | `fleet`, `role:..`, `queue:..` -> nodes in flight | empties itself | those nodes |
| `af:hungry:<queue>` | hash | run -> ready nodes whose message is under way | empties itself | ready nodes |
| `af:turn` | string | how many slots were given so far: who had one last | none | the installation |
| `af:waiting` | hash | class (`role|queue`) -> nodes that wait for room | empties itself | waiting nodes |
| `af:waiting:<class>` | zset | run -> rank: in flight, then last turn | empties itself | waiting nodes |
| `af:project:<name>:locks` | hash | a run's `locks`, of exclusive runs | empties itself | runs that hold |
| `af:project:<name>:wait` | zset | exclusive run -> arrival (us) | empties itself | runs that wait |
| `af:project:<name>:budget` | hash | limits of a day's budget, by unit | none | the project |
| `af:project:<name>:spent:<day>` | hash | spent and reserved on that UTC day | 40 days | the project |
| `af:project:<name>:features` | hash | what holds for a feature's runs (features.py) | none | the project |
| `af:org:budget` | hash | limits of a day's budget of all projects, by unit | none | the installation |
| `af:org:spent:<day>` | hash | what all projects spent, reserved that day | 40 days | the installation |
| `af:project:<name>:costs` | hash | `<role>:usd`, `:tokens`, `:nodes` so far | 90 days | the project |
| `af:short` | zset | run that a day's budget held back -> next day (ms) | empties itself | those runs |
| `af:holding` | zset | finished exclusive run -> when it gives back (ms) | empties itself | runs that hold |
| `af:workers` | zset | name -> last sign of life (ms) | none, trimmed | the leader |
| `af:worker:<name>` | hash | see `WorkerRecord` | 60 s | the worker |
| `af:fleet` | hash | orders: `state`, `reason`, `since_ms`, `kill`, `leave:..` | none | the installation |
| `af:near` | set | workers that have a queue of their own | empties itself | those workers |
| `af:name:<name>` | string | token of the process that has this name | 5 s | the worker |
| `af:confirm:<token>` | string | digest of the deed that a token confirms | 5 min | the token |
| `af:durations:<project>` | hash | `role|node` -> mean ms, a blank, how many | 90 days | the project |
| `af:verified:<project>:<digest>` | string | JSON, see `verified.Verified` | 14 days | the project |
| `af:run:<id>` | hash | see `RunRecord`; `in_flight` counts running and woken | when closed | the run |
| `af:run:<id>:plan` | string | the plan, JSON | when closed | the run |
| `af:run:<id>:node:<node>` | hash | see `NodeRecord` | when closed | the run |
| `af:run:<id>:open` | set | nodes that are not terminal | when closed | the run |
| `af:run:<id>:ready` | zset | node -> ready since (ms) | when closed | the run |
| `af:run:<id>:parked` | zset | node -> order of waking (user priority, upward rank) | when closed | the run |
| `af:run:<id>:waiting` | zset | the same, for those that wait for room in the fleet | when closed | the run |
| `af:run:<id>:waits` | hash | class -> nodes in `waiting` | when closed | the run |
| `af:run:<id>:lockwait` | zset | node -> arrival, for parked nodes that want locks | when closed | the run |
| `af:run:<id>:wanted` | hash | `locks` of those in `lockwait`, as if they held them | when closed | the run |
| `af:run:<id>:locks` | hash | `<mode>:<path>` -> holders, `i<mode>:..` -> how many | when closed | the run |
| `af:run:<id>:writers` | hash | path -> nodes that settled it last | when closed | the run |
| `af:run:<id>:roles` | hash | role -> nodes in flight | when closed | the run |
| `af:run:<id>:settled` | zset | node -> place in the settled sequence | when closed | the run |
| `af:run:<id>:texts` | hash | node -> hand-off or report, at most 128 Ki characters | when closed | the run |
| `af:run:<id>:budget` | hash | limits, spent, reserved by scope (budget.lua) | when closed | the run |
| `af:run:<id>:classes` | hash | complexity -> nodes in flight | when closed | the run |
| `af:run:<id>:events` | stream | transitions of the run | when closed | the run |

A cluster is not supported (kombu's transport is not either), so the scripts build the keys of a run
from its id.
"""

from __future__ import annotations

SCHEMA_VERSION = "4"
PREFIX = "af:"
SCHEMA = PREFIX + "schema"
SERVER = PREFIX + "server"
RUNS = PREFIX + "runs"
OPEN = PREFIX + "open"
EVENTS = PREFIX + "events"
#: Without the prefix: operators ask for it by this name (`redis-cli LRANGE system_events 0 -1`).
SYSTEM_EVENTS = "system_events"
#: Entries that it keeps (`emit` in lib.lua has the number too).
SYSTEM_EVENTS_MAX = 1000
LEASES = PREFIX + "leases"
DELAYED = PREFIX + "delayed"
LEADER = PREFIX + "leader"
ROLES = PREFIX + "roles"
QUEUES = PREFIX + "queues"
LIMITS = PREFIX + "limits"
PAUSED = PREFIX + "paused"
SUSPECT = PREFIX + "suspect"
RATES = PREFIX + "rates"
BREAKERS = PREFIX + "breakers"
CAPACITY = PREFIX + "capacity"
FLIGHT = PREFIX + "flight"
TURN = PREFIX + "turn"
WAITING = PREFIX + "waiting"
HOLDING = PREFIX + "holding"
SHORT = PREFIX + "short"
ORG_BUDGET = PREFIX + "org:budget"
WORKERS = PREFIX + "worker:"
WORKER_NAMES = PREFIX + "workers"
ORDERS = PREFIX + "fleet"
NEAR = PREFIX + "near"
DURATIONS = PREFIX + "durations:"
#: The queue of one worker is this and its name (broker.py); kombu keeps a set for each queue's exchange.
NEAR_QUEUE = "agentflow.worker."
KOMBU_BINDINGS = ("_kombu.binding.", "_kombu.binding_permanent.")

#: Seconds after which a project's measured durations are forgotten, and how many it keeps (settle.lua has
#: the numbers too).
DURATIONS_TTL_S = 90 * 24 * 3600
DURATIONS_MAX = 1000
#: Seconds that the keys of a closed run are kept.
CLOSED_TTL_S = 14 * 24 * 3600
#: Seconds that a verified commit is offered for reuse after it was used last.
VERIFIED_TTL_S = 14 * 24 * 3600
#: Milliseconds that an exclusive run keeps what it holds after it is ready to land.
HOLD_MS = 3600 * 1000
#: Seconds without a sign of life after which a worker's record is gone (it is shown as dead until then).
WORKER_TTL_S = 60
#: Milliseconds without a sign of life after which another process may have a worker's name.
NAME_TTL_MS = 5000
#: Keys that live as long as the installation does.
PERMANENT = frozenset(
    {
        SCHEMA, SERVER, RUNS, EVENTS, SYSTEM_EVENTS, ROLES, QUEUES, LIMITS, PAUSED, RATES, BREAKERS, CAPACITY,
        TURN, WORKER_NAMES, ORDERS, ORG_BUDGET,
    }
)  # fmt: skip
#: Keys that are empty (hence absent) when nothing is open.
TRANSIENT = frozenset({OPEN, LEASES, DELAYED, LEADER, FLIGHT, WAITING, HOLDING, SHORT, NEAR})

_PARTS = (
    "plan",
    "open",
    "ready",
    "parked",
    "waiting",
    "waits",
    "lockwait",
    "wanted",
    "locks",
    "writers",
    "roles",
    "settled",
    "texts",
    "events",
    "budget",
    "classes",
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


def hungry(queue: str) -> str:
    """Key of the ready nodes of a queue, by run."""
    return f"{PREFIX}hungry:{queue}"


def project_locks(project: str) -> str:
    """Key of what the exclusive runs of a project hold."""
    return f"{PREFIX}project:{project}:locks"


def rate(window: str) -> str:
    """Key of a provider's window; `:log`, `:sizes`, `:held` and `:line` stand beside it."""
    return f"{PREFIX}rate:{window}"


def bell(run_id: str, node_id: str) -> str:
    """Key of what wakes an attempt that waits for a provider."""
    return f"{PREFIX}bell:{run_id}|{node_id}"


def project_line(project: str) -> str:
    """Key of the exclusive runs of a project that wait, in order of arrival."""
    return f"{PREFIX}project:{project}:wait"


def project_budget(project: str) -> str:
    """Key of what a project may spend in a day."""
    return f"{PREFIX}project:{project}:budget"


def project_spent(project: str, day: int) -> str:
    """Key of what a project has spent and reserved on a day (days since 1970, UTC)."""
    return f"{PREFIX}project:{project}:spent:{day}"


def project_features(project: str) -> str:
    """Key of what is set for the further runs of a project's features."""
    return f"{PREFIX}project:{project}:features"


def org_spent(day: int) -> str:
    """Key of what all projects have spent and reserved on a day (days since 1970, UTC)."""
    return f"{PREFIX}org:spent:{day}"


def project_costs(project: str) -> str:
    """Key of what nodes of each role have cost so far."""
    return f"{PREFIX}project:{project}:costs"


def verified(project: str, digest: str) -> str:
    """Key of a commit of a project that was accepted."""
    return f"{PREFIX}verified:{project}:{digest}"


def name_of(worker_name: str) -> str:
    """Key that holds a worker's name for one process."""
    return f"{PREFIX}name:{worker_name}"


def durations(project: str) -> str:
    """Key of how long the nodes of a project took."""
    return DURATIONS + project


def confirmation(token: str) -> str:
    """Key of a confirmation token."""
    return f"{PREFIX}confirm:{token}"
