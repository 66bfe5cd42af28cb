"""What can go wrong, one function each: it begins, says for how many seconds, and ends.

A fault is a generator: what stands before `yield` begins it, the number is how long it lasts (others may
begin meanwhile), what follows ends it. None of them checks anything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import psutil
import redis
from chaos import poison
from chaos.theatre import Machine, Theatre

from agentflow.canvas import chords
from agentflow.store import keys

if TYPE_CHECKING:
    from chaos.worlds import World

Fault = Callable[[Theatre, "World"], Iterator[float]]
#: Every message ten times.
TIMES = 10


def kill_worker(it: Theatre, world: World) -> Iterator[float]:
    """kill -9; another one comes."""
    del world
    machine = it.one()
    it.kill(machine)
    yield it.rng.uniform(0.0, 1.5)
    if machine.worker is None:
        it.employ(machine)


def terminate_worker(it: Theatre, world: World) -> Iterator[float]:
    """SIGTERM: it drains, and another one comes."""
    del world
    machine = it.one()
    worker, machine.worker = machine.worker, None
    if worker:
        worker.process.send_signal(signal.SIGTERM)
    yield it.rng.uniform(0.5, 2.0)
    if machine.worker is None:
        it.employ(machine)


def stop_worker(it: Theatre, world: World) -> Iterator[float]:
    """A worker that stands still, perhaps past its leases, and then goes on as if nothing were."""
    del world
    worker = it.one().worker
    if worker:
        worker.process.send_signal(signal.SIGSTOP)
    yield it.rng.choice((0.3, 3.5))
    if worker and worker.process.poll() is None:
        worker.process.send_signal(signal.SIGCONT)


def kill_agents(it: Theatre, world: World) -> Iterator[float]:
    """kill -9 to what a worker has started: agents, tests, git."""
    del world
    busy = [agents for machine in it.machines if (agents := machine.agents())]
    if busy:
        with contextlib.suppress(psutil.Error):
            it.rng.choice(sorted(it.rng.choice(busy), key=lambda p: p.pid)).kill()
    yield 0.0


def kill_submitter(it: Theatre, world: World) -> Iterator[float]:
    """kill -9 to the command that waits; another one is typed, here or after a moment."""
    world.kill_submitter()
    yield it.rng.uniform(0.0, 2.0)
    world.submit_again()


def kill_redis(it: Theatre, world: World) -> Iterator[float]:
    """The server is killed; its append-only file has all that it had answered."""
    del world
    it.server.kill()
    yield it.rng.uniform(0.0, 2.0)
    it.server.start()


def cut_tail(it: Theatre, world: World) -> Iterator[float]:
    """The server's machine loses power: the last writes are not on the disk, though they were answered."""
    del world
    it.server.kill()
    name, size = it.server.log_size()
    # Of the file that the play began with, what was there then stays.
    least = it.keep[1] if it.keep[0] == name else 0
    if it.server.cut_tail(max(least, size - it.rng.randrange(1, 60_000))):
        it.lost_writes()
    yield it.rng.uniform(0.0, 1.0)
    it.server.start()
    yield from _written_anew(it)


def _written_anew(it: Theatre) -> Iterator[float]:
    """Until the leader has had the log written anew. A server that dies before that may carry out half a
    transaction at its next start, which is a defect of Redis (agentflow/store/restarts.py).
    """
    for _ in range(100):
        with it.server.client() as client, contextlib.suppress(redis.RedisError):
            told = client.info("persistence")
            under_way = told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"]
            if client.get(keys.SERVER) == client.info("server")["run_id"] and not under_way:
                return
        yield 0.1


def lose_redis(it: Theatre, world: World) -> Iterator[float]:
    """The server is killed and its data is gone; the run is resumed from the journal."""
    it.server.kill()
    it.server.wipe()
    it.lost_writes()
    it.wipes += 1
    yield it.rng.uniform(0.0, 1.0)
    it.server.start()
    world.restore()


def partition(it: Theatre, world: World) -> Iterator[float]:
    """Nothing passes between one worker and Redis, either way; then again."""
    del world
    yield from _held(it, commands=True, answers=True)


def deaf(it: Theatre, world: World) -> Iterator[float]:
    """What one worker asks is done, and it never hears so."""
    del world
    yield from _held(it, commands=False, answers=True)


def mute(it: Theatre, world: World) -> Iterator[float]:
    """What one worker asks does not arrive, for a while."""
    del world
    yield from _held(it, commands=True, answers=False)


def _held(it: Theatre, *, commands: bool, answers: bool) -> Iterator[float]:
    proxy = it.one(up=False).proxy
    proxy.hold(commands=commands, answers=answers)
    yield it.rng.choice((0.5, 2.0, 4.0))
    proxy.heal(reset=it.rng.random() < 0.7)


def cut(it: Theatre, world: World) -> Iterator[float]:
    """Every connection of one worker breaks, and no new one can be made."""
    del world
    proxy = it.one(up=False).proxy
    proxy.cut()
    yield it.rng.uniform(0.1, 3.0)
    proxy.heal(reset=True)


def shuffle(it: Theatre, world: World) -> Iterator[float]:
    """Every message that waits, ten times and in any order; what is no text becomes other poison."""
    # Bytes: what somebody else has put there may be no text.
    with it.server.raw_client() as client, contextlib.suppress(redis.ConnectionError):
        for queue in world.queues:
            for priority in range(10):
                _shuffled(it, client, queue if priority == 0 else f"{queue}\x06\x16{priority}")
    yield 0.0


def _shuffled(it: Theatre, client: redis.Redis, key: str) -> None:
    def again(pipe: redis.client.Pipeline) -> None:
        found = cast("list[bytes]", pipe.lrange(key, 0, -1))
        pipe.multi()
        if found:
            pipe.delete(key)
            many = [_twin(message) for message in found for _ in range(TIMES)]
            it.rng.shuffle(many)
            pipe.rpush(key, *many)

    with contextlib.suppress(redis.WatchError, redis.ResponseError):
        client.transaction(again, key)


def _twin(message: bytes) -> bytes:
    """The same message, as another delivery of it; what is none stays as it is."""
    try:
        told = json.loads(message)
        told["properties"]["delivery_tag"] = str(uuid.uuid4())
    except (ValueError, TypeError, KeyError, RecursionError):
        return message
    return json.dumps(told).encode()


def flood(it: Theatre, world: World) -> Iterator[float]:
    """Messages come twice, too early or too late."""
    for canvas in world.canvases():
        nodes = [node.id for node in canvas.plan.nodes]
        with contextlib.suppress(Exception):  # Redis may be away or full just now
            chords.send(canvas, [*it.rng.sample(nodes, min(6, len(nodes))), "@integrate"])
    yield 0.0


def pour_poison(it: Theatre, world: World) -> Iterator[float]:
    """Some bad messages, on each queue."""
    with it.server.client() as client, contextlib.suppress(redis.ConnectionError):
        for queue in world.queues:
            every = poison.messages(world.role, world.runs()[0], "n0")
            some = {name: every[name] for name in it.rng.sample(sorted(every), 8)}
            with contextlib.suppress(redis.ResponseError):  # a full Redis takes nothing
                poison.pour(client, queue, some, it.rng)
    yield 0.0


def fill_redis(it: Theatre, world: World) -> Iterator[float]:
    """Redis is at its limit of memory (noeviction) for a while."""
    del world
    it.server.fill()
    yield it.rng.uniform(0.5, 3.0)
    it.server.relieve()


def fill_disk(it: Theatre, world: World) -> Iterator[float]:
    """No space is left where one worker has its workspaces."""
    del world
    machine: Machine = next(m for m in it.machines if m.small)
    ballast = machine.home / "ballast"
    try:
        with ballast.open("ab", buffering=0) as stream:
            while True:
                stream.write(b"x" * 65536)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    yield it.rng.uniform(0.5, 3.0)
    ballast.unlink(missing_ok=True)


def drain(it: Theatre, world: World) -> Iterator[float]:
    """A run is drained by its user, and goes on again."""
    world.control("drain")
    yield it.rng.uniform(0.0, 1.0)
    world.control("continue")


def cancel(it: Theatre, world: World) -> Iterator[float]:
    """Another run is submitted, and cancelled in the middle of it."""
    run = world.open_another()
    yield it.rng.uniform(0.3, 2.0)
    world.cancel(run)


TO_THE_SERVER: tuple[Fault, ...] = (kill_redis, cut_tail, lose_redis, fill_redis)
#: Those that any world takes; a world names the others that it takes too.
EVERYWHERE: tuple[Fault, ...] = (
    kill_worker, kill_worker, terminate_worker, stop_worker, stop_worker, kill_redis, cut_tail, partition,
    deaf, mute, cut, shuffle, flood, pour_poison, fill_redis,
)  # fmt: skip
EVERY: tuple[Fault, ...] = (*EVERYWHERE, kill_agents, kill_submitter, lose_redis, fill_disk, drain, cancel)
