"""Git packs on their way between machines, in chunks, each with a TTL.

| key | type | holds | TTL | owner |
|---|---|---|---|---|
| `af:pack:<scope>:<commit>` | hash | see `PackRecord`; lists as lines | `ttl_s` | the scope |
| `af:pack:<scope>:<commit>:<writer>:<n>` | string | 1 MB of the pack | 6 h, then `ttl_s` | the scope |
| `af:packs:<scope>` | zset | commit -> when it came (ms) | `ttl_s` | the scope |

A scope is a run, or a project (the bases that its runs start from). The hash is written last, so a pack is
there whole or not at all. Two writers of one commit (a zombie and its successor) write different chunks
(`writer`); whoever names them first wins. Chunks that nobody ever names (their writer died) go after 6 hours.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import redis

from agentflow.errors import InfraError
from agentflow.store.client import connect_binary

CHUNK_BYTES = 1 << 20
#: Share of Redis' memory above which nothing large is put in: what runs must still be able to end.
FULL_SHARE = 0.8
#: The same for the work of runs that are under way: without it they could not end.
WORK_SHARE = 0.95
#: Seconds that chunks live before their pack is named.
UPLOAD_TTL_S = 6 * 3600
_PREFIX = "af:pack:"
_INDEX = "af:packs:"


@dataclass(frozen=True, slots=True)
class PackRecord:
    """A pack that can be had.

    `needs` are commits whose objects the receiver must have before; `ends` are commits in it whose parents
    nobody sends, `goes_on` such as ended so far whose parents come with it; `remote` is set when the objects
    are not in Redis but in that git remote.
    """

    commit: str
    size: int = 0
    needs: tuple[str, ...] = ()
    remote: str = ""
    chunks: int = 0
    sha256: str = ""
    writer: str = ""
    ends: tuple[str, ...] = ()
    goes_on: tuple[str, ...] = ()


class FullError(InfraError):
    """Redis has no room for what it was to take."""

    code = "AF-INFRA-041"


class Packs:
    """Packs of one scope on one Redis. Safe to share between threads."""

    def __init__(self, url: str, scope: str, *, ttl_s: int, full_share: float = FULL_SHARE) -> None:
        self._client = connect_binary(url)
        self._scope = scope
        self._ttl_s = ttl_s
        self._full_share = full_share

    def find(self, commit: str) -> PackRecord | None:
        """The record of a commit's pack; None when there is none (or it has expired)."""
        raw = cast("dict[bytes, bytes]", self._client.hgetall(self._key(commit)))
        if not raw:
            return None
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        needs = tuple(fields.get("needs", "").split())
        return PackRecord(
            commit,
            int(fields["size"]),
            needs,
            fields.get("remote", ""),
            int(fields["chunks"]),
            fields["sha256"],
            fields["writer"],
            tuple(fields.get("ends", "").split()),
            tuple(fields.get("goes_on", "").split()),
        )

    def commits(self) -> list[str]:
        """Commits of the scope that have a pack, the newest first."""
        return [c.decode() for c in cast("list[bytes]", self._client.zrevrange(self._index, 0, -1))]

    def put(
        self,
        commit: str,
        pack: Path,
        needs: Sequence[str] = (),
        *,
        ends: Sequence[str] = (),
        goes_on: Sequence[str] = (),
    ) -> PackRecord:
        """Store a pack; the first one for a commit stays. Raises `FullError` when Redis is nearly full."""
        known = self.find(commit)
        if known:
            return known
        size = pack.stat().st_size
        check_room(self._client, size, share=self._full_share)
        writer = secrets.token_hex(4)
        digest = hashlib.sha256()
        count = 0
        with pack.open("rb") as stream, full_is_told():
            for count, chunk in enumerate(_chunks(stream), 1):
                digest.update(chunk)
                ttl_s = min(UPLOAD_TTL_S, self._ttl_s)
                self._client.set(self._chunk(commit, writer, count), chunk, ex=ttl_s)
            return self._name(
                PackRecord(
                    commit,
                    size,
                    tuple(needs),
                    "",
                    count,
                    digest.hexdigest(),
                    writer,
                    tuple(ends),
                    tuple(goes_on),
                )
            )

    def refer(self, commit: str, remote: str) -> PackRecord:
        """Say that a commit is to be fetched from a git remote."""
        return self._name(PackRecord(commit, remote=remote))

    def _name(self, record: PackRecord) -> PackRecord:
        key = self._key(record.commit)
        pipe = self._client.pipeline(transaction=True)
        # The writer's mark decides: with a second writer the fields of the first one stay whole.
        pipe.hsetnx(key, "writer", record.writer)
        for field in ("size", "chunks", "sha256", "remote"):
            pipe.hsetnx(key, field, getattr(record, field))
        for field in ("needs", "ends", "goes_on"):
            pipe.hsetnx(key, field, "\n".join(getattr(record, field)))
        for one in (key, *self._chunk_keys(record)):
            pipe.expire(one, self._ttl_s)
        now = self._client.time()
        pipe.zadd(self._index, {record.commit: now[0] * 1000 + now[1] // 1000})
        pipe.expire(self._index, self._ttl_s)
        # Read back, not taken from the first answer: when that is lost on the way the client sends all of
        # this again, and would find its own mark.
        pipe.hget(key, "writer")
        won = pipe.execute()[-1].decode() == record.writer
        if not won:
            self._drop_chunks(record)
        return record if won else (self.find(record.commit) or record)

    def get(self, record: PackRecord, target: Path) -> None:
        """Write a pack to a file. Raises `InfraError` when a chunk is gone or the whole is not as it was."""
        digest = hashlib.sha256()
        with target.open("wb") as stream:
            for number in range(1, record.chunks + 1):
                chunk = cast(
                    "bytes | None", self._client.get(self._chunk(record.commit, record.writer, number))
                )
                if chunk is None:
                    raise _missing(record.commit, "a part of it is gone")
                digest.update(chunk)
                stream.write(chunk)
        if digest.hexdigest() != record.sha256:
            raise _missing(record.commit, "it is not as it was put in")

    def refresh(self, *records: PackRecord) -> bool:
        """Let packs that are used again live for another `ttl_s`; False when some of them is gone."""
        pipe = self._client.pipeline(transaction=False)
        pipe.expire(self._index, self._ttl_s)
        for record in records:
            for key in (self._key(record.commit), *self._chunk_keys(record)):
                pipe.expire(key, self._ttl_s)
        return all(pipe.execute()[1:])

    def drop(self, commit: str) -> None:
        """Remove a commit's pack (or what there is of it)."""
        record = self.find(commit)
        self._client.delete(self._key(commit))
        self._client.zrem(self._index, commit)
        if record:
            self._drop_chunks(record)

    def forget(self) -> None:
        """Remove every pack of the scope."""
        for commit in self.commits():
            self.drop(commit)
        self._client.delete(self._index)

    def _drop_chunks(self, record: PackRecord) -> None:
        keys = self._chunk_keys(record)
        if keys:
            self._client.unlink(*keys)

    def _chunk_keys(self, record: PackRecord) -> list[str]:
        return [self._chunk(record.commit, record.writer, n) for n in range(1, record.chunks + 1)]

    @property
    def _index(self) -> str:
        return _INDEX + self._scope

    def _key(self, commit: str) -> str:
        return f"{_PREFIX}{self._scope}:{commit}"

    def _chunk(self, commit: str, writer: str, number: int) -> str:
        return f"{self._key(commit)}:{writer}:{number}"


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _missing(commit: str, why: str) -> InfraError:
    return InfraError(
        f"the pack of commit {commit[:12]} cannot be had from Redis",
        why=why,
        fix="`agentflow resume RUN` in the repository sends the base again; see redis.url and its memory",
        code="AF-INFRA-042",
    )


@contextmanager
def full_is_told() -> Iterator[None]:
    """Turn Redis' refusal for want of memory into a `FullError`."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise FullError(
            "Redis has no memory left",
            why=str(error),
            fix="raise maxmemory, or free what closed runs hold: agentflow gc",
        ) from error


def check_room(client: redis.Redis, more_bytes: int = 0, *, share: float = FULL_SHARE) -> None:
    """Raise `FullError` when Redis is, or with `more_bytes` would be, above this share of its memory."""
    memory = cast("dict[str, int]", client.info("memory"))
    used, limit = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
    if limit and used + more_bytes > share * limit:
        raise FullError(
            f"Redis is too full: {(used + more_bytes) >> 20} of {limit >> 20} MiB would be used",
            why=f"above {share:.0%} nothing new is taken, so that what runs can end",
            fix="raise maxmemory, or free what closed runs hold: agentflow gc",
        )
