"""How a worker process is started: its name, slots, queues, command line and environment."""

from __future__ import annotations

import math
import os
import re
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agentflow.canvas.routing import decide_queue, feature_queue, queue_of
from agentflow.config import Config
from agentflow.config.keys import exported
from agentflow.errors import UsageError
from agentflow.explain import did_you_mean

#: `--slots auto`: agents wait for models more than they compute, but each is a program with its memory.
SLOTS_PER_CORE = 8
MEMORY_PER_SLOT_MB = 512
AUTO_SLOTS_MAX = 64
#: Slots of one worker process at the most (threads).
SLOTS_MAX = 500


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker to be started. Without `queues` it serves every role and queue that a run asks for."""

    name: str
    slots: int
    queues: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """The command line; the program's path comes first."""
        chosen = ["-Q", ",".join(self.queues)] if self.queues else []
        return [
            sys.executable, "-m", "celery", "-A", "agentflow", "worker", "--pool", "threads",
            "-c", str(self.slots), "--hostname", self.name, *chosen,
        ]  # fmt: skip


def new_name(kind: str) -> str:
    """A name that no worker has had: the attempts of a dead one are told from its successor's."""
    word = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")[:30].strip("-") or "worker"
    return f"{word}-{uuid.uuid4().hex[:8]}@{socket.gethostname()}"


def full_name(name: str) -> str:
    """`NAME@HOST`, as a worker is registered. Raises `UsageError` for what Celery cannot take."""
    if not re.fullmatch(r"[\w.%@-]+", name) or name.count("@") > 1:
        raise UsageError(
            f"{name!r} is no name for a worker", fix="letters, digits, '.', '_' and '-'", code="AF-FLEET-001"
        )
    return name if "@" in name else f"{name}@{socket.gethostname()}"


def auto_slots() -> int:
    """Slots that this machine's processors and memory carry."""
    memory_mb = psutil.virtual_memory().total >> 20
    return max(
        1, min((os.cpu_count() or 1) * SLOTS_PER_CORE, memory_mb // MEMORY_PER_SLOT_MB, AUTO_SLOTS_MAX)
    )


def slots_of(word: str | None, config: Config) -> int:
    """What `--slots` means; without it `worker.slots` holds, else auto."""
    if word is None:
        return config.worker.slots or auto_slots()
    if word == "auto":
        return auto_slots()
    if not word.isdecimal() or not 1 <= int(word) <= SLOTS_MAX:
        raise UsageError(
            f"{word!r} slots make no sense", fix=f"1 to {SLOTS_MAX}, or auto", code="AF-FLEET-002"
        )
    return int(word)


def queues_for(
    config: Config, *, roles: Sequence[str] = (), queues: Sequence[str] = (), feature: str = ""
) -> tuple[str, ...]:
    """The queues that a worker is to serve; none means all. Raises `UsageError` for an unknown role.

    Nothing chosen: those of `worker.queues`. A feature has a queue only where routing goes by feature.
    """
    found = [role_queue(role, config) for role in roles] + [resolve(queue, config) for queue in queues]
    if feature and config.routing.by == "feature":
        found.append(feature_queue(feature))
    if not found and not feature:
        found = [resolve(queue, config) for queue in config.worker.queues]
    return tuple(dict.fromkeys(found))


def role_queue(word: str, config: Config) -> str:
    """The queue of a role by its name or alias. Raises `UsageError`."""
    role = config.role_name(word)
    if role is None:
        raise UsageError(
            f"there is no role {word!r}",
            fix=did_you_mean(word, config.roles) or f"roles are: {', '.join(sorted(config.roles))}",
            code="AF-FLEET-003",
        )
    return queue_of(role, decide_queue(role, asked=None, roles=config.routing.roles))


def resolve(queue: str, config: Config) -> str:
    """A queue as it is given to `-Q`: an alias of a role stands for the role's queue."""
    if queue in config.roles or queue in config.routing.roles.values():
        return queue
    return queue if config.role_name(queue) is None else role_queue(queue, config)


def workers_needed(slots: int, per_worker: int) -> int:
    """How many processes have so many slots together."""
    return math.ceil(slots / max(1, per_worker))


def environment_for(config: Config, caller: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, bound to this configuration's Redis and data directory and to this copy
    of agentflow.
    """
    home = str(Path(__file__).resolve().parents[2])
    path = [home, *(part for part in caller.get("PYTHONPATH", "").split(os.pathsep) if part)]
    kept = {name: value for name, value in caller.items() if name != "AGENTFLOW_REDIS_URL"}
    flags = {"data_dir": str(config.data_dir), "redis.url": config.redis_url}
    told = exported({key: value for key, value in flags.items() if value is not None})
    return kept | told | {"PYTHONPATH": os.pathsep.join(path)}
