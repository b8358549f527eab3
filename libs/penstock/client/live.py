"""Live updates: what one connection after another is sent of what happens, from where it left off.

A position is an epoch and the entry up to which all of each stream has been told. Whoever comes back with one gets
all that was told since, or the word that it is not known any more; never part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from penstock.client.feed import Feed
from penstock.errors import InvalidEvent
from penstock.event import Event, decode
from penstock.jobs.progress import Progress
from penstock.jobs.watch import STATES
from penstock.keys import EVENTS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.tasks import end
from penstock.times import entry_order, is_entry_id
from penstock.topology import Topology

_MOST_WAITING = 256  # messages that one connection may be behind
_MOST_BYTES = 4_000_000  # of those messages, but for a single one that is larger
_MOST_BEHIND = 10_000  # entries that are looked through for somebody who comes back
_MOST_TOLD = 16_000_000  # bytes that somebody who comes back is told
_PAGE = 100
_LOOKS = 4  # at once, for those who come back together
_log = structlog.get_logger("penstock.live")
_ENDS = frozenset({"job.completed", "job.dead"})


class Message(NamedTuple):
    """Something to send. `position` is up to where all is told with it; None where a message counts for none."""

    position: str | None
    data: bytes
    ends: bool = False


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, and whose progress, somebody wants: of one job, or all that `wants` says of type and subject.

    `tenant` None means those of all tenants, `source` None a job of whatever source.
    """

    job: str | None = None
    source: str | None = None
    tenant: str | None = None
    any_tenant: bool = False
    wants: Callable[[str, str | None], bool] = lambda _type, _subject: True

    def takes(self, event: Event) -> bool:
        """Whether this is one of them."""
        if not self.any_tenant and event.tenant != self.tenant:
            return False
        if self.job is None:
            return self.wants(event.type, event.subject)
        return event.type in STATES and event.cause == self.job and self._is_source(event.causesource)

    def takes_progress(self, job_id: str, tenant: str | None, fields: Mapping[bytes, bytes]) -> bool:
        """Whether this is of one of them."""
        if not self.any_tenant and tenant != self.tenant:
            return False
        if self.job is None:
            return self.wants("progress", _text(fields.get(b"subject")))
        return job_id == self.job and self._is_source(_text(fields.get(b"source")))

    def _is_source(self, source: str | None) -> bool:
        return self.source is None or source in (None, self.source)


class Follower:
    """What waits to be sent over one connection: events in their order, of each job's progress the last.

    What it falls behind by is bounded. Beyond that it is told that it missed something, instead of events.
    """

    def __init__(self, wanted: Filter) -> None:
        self.filter = wanted
        self.closed = False
        self.missed = False
        self.after: dict[str, tuple[int, int]] = {}
        """Up to where it was told before it came here, by stream, if that is further than the feed has come."""
        self._events: deque[Message] = deque()
        self._size = 0  # bytes of these
        self._progress: dict[str, Message] = {}
        self._ready = asyncio.Event()

    def put(self, message: Message, job_id: str | None) -> None:
        """Have an event sent; what was said of that job's progress before is of no use any more."""
        if job_id is not None:
            self._progress.pop(job_id, None)
        if self.missed:
            return
        self._events.append(message)
        self._size += len(message.data)
        self._ready.set()
        if len(self._events) > _MOST_WAITING or (self._size > _MOST_BYTES and len(self._events) > 1):
            self.miss()

    def put_progress(self, message: Message, job_id: str) -> None:
        """Have progress sent, instead of what waits of that job's."""
        if job_id in self._progress or len(self._progress) < _MOST_WAITING:
            self._progress[job_id] = message
            self._ready.set()

    def miss(self) -> None:
        """Take note that it misses events."""
        self.missed = True
        self.take()
        self._ready.set()

    def begin_anew(self) -> None:
        """Forget what was missed: what happens from now on is put here again."""
        self.missed = False
        self.after = {}
        self.take()

    @property
    def is_level(self) -> bool:
        """Whether it has come as far as the feed, and no further."""
        return not (self._events or self.missed or self.after)

    def close(self) -> None:
        """End it."""
        self.closed = True
        self._ready.set()

    def take(self) -> list[Message]:
        """Return what waits to be sent."""
        taken = [*self._events, *self._progress.values()]
        self._events.clear()
        self._size = 0
        self._progress.clear()
        self._ready.clear()
        return taken

    async def wait(self) -> None:
        """Return once there is something: to send, that it missed something, or that it has ended."""
        await self._ready.wait()


class Live:
    """Sends what the one feed of a process reads to all its followers; without any it reads nothing."""

    def __init__(self, client: AsyncRedis, keys: Keys, topology: Topology, *, stopping: asyncio.Event) -> None:
        """Tell what is on the streams that report on work, and on `events`. All ends when `stopping` is set."""
        streams = {topology.reports(stream) for stream in topology.work} | {EVENTS} & set(topology.streams)
        named = sorted(filter(None, streams))
        self._client = client
        self._names = {keys.stream(name): name for name in named}
        self._mesh = hashlib.blake2b("\0".join(named).encode(), digest_size=4).hexdigest()
        self._feed = Feed(client, keys, named, listener=self)
        self._stopping = stopping
        self._followers: set[Follower] = set()
        self._changing = asyncio.Lock()
        self._looking = asyncio.Semaphore(_LOOKS)
        self._ending: asyncio.Task[None] | None = None

    @property
    def position(self) -> str:
        """Up to where all is told."""
        return ".".join((f"{self._feed.epoch}-{self._mesh}", *map(self._feed.position, self._names)))

    @contextlib.asynccontextmanager
    async def followed_by(self, follower: Follower) -> AsyncIterator[None]:
        """Have what happens put into the follower.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        try:
            async with self._changing:
                await self._feed.follow_progress()
                await self._feed.start()
                self._followers.add(follower)
                if self._ending is None or self._ending.done():
                    self._ending = asyncio.create_task(self._close_all(), name="live")
            yield  # nothing is told between being taken in and what the caller does first
        finally:
            self._followers.discard(follower)
            async with self._changing:
                if not self._followers:
                    await self._stop()

    async def resume(self, follower: Follower, position: str) -> list[Message] | None:
        """Return what was told since a position and is not in the follower, or None if that is not known any more.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        here = {key: self._feed.position(key) for key in self._names}
        before = self.position
        epoch, *entries = position.split(".")
        if epoch != before.partition(".")[0] or len(entries) != len(here) or not all(map(is_entry_id, entries)):
            return None
        asked = dict(zip(here, entries, strict=True))
        follower.after = {key: entry_order(at) for key, at in asked.items() if entry_order(at) > entry_order(here[key])}
        async with self._looking:
            found = await self._since(asked, here, follower.filter)
        if found is None or follower.missed or before.partition(".")[0] != self.position.partition(".")[0]:
            return None
        told: list[Message] = []
        for key, event in sorted(found, key=lambda one: entry_order(one[1].entry_id)[0]):
            asked = {**asked, key: event.entry_id}
            told.append(_message(".".join((epoch, *asked.values())), event))
        return told

    async def catch_up(self) -> None:
        """Return once all is told that is there now.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        await self._feed.catch_up()

    # What the feed reads

    def take(self, key: str, entry_id: str, fields: list[bytes]) -> None:
        """Tell an entry to whoever wants it."""
        event = self._read(key, entry_id, fields) if self._followers else None
        if event is None:
            return
        message: Message | None = None
        for follower in self._followers:
            if key in follower.after:
                if entry_order(entry_id) <= follower.after[key]:
                    continue
                del follower.after[key]
            if follower.filter.takes(event):
                message = message or _message(self.position, event)
                follower.put(message, event.cause if event.type in STATES else None)

    def take_progress(self, job_id: str, progress: Progress, fields: Mapping[bytes, bytes]) -> None:
        """Tell progress to whoever wants it."""
        message: Message | None = None
        for follower in self._followers:
            if follower.filter.takes_progress(job_id, progress.tenant, fields):
                message = message or Message(None, msgspec.json.encode(_said(job_id, progress, fields)))
                follower.put_progress(message, job_id)

    def miss(self) -> None:
        """Tell everybody that they missed something."""
        for follower in self._followers:
            follower.after = {}
            follower.miss()

    def _read(self, key: str, entry_id: str, fields: Sequence[bytes]) -> Event | None:
        try:
            return decode(self._names[key], entry_id, fields)
        except InvalidEvent:  # it is none
            return None

    async def _since(
        self, asked: Mapping[str, str], here: Mapping[str, str], wanted: Filter
    ) -> list[tuple[str, Event]] | None:
        """Return the events between two positions that are wanted, None if some may be gone, or are too many."""
        found: list[tuple[str, Event]] = []
        looked = size = 0
        for key, begin in asked.items():
            at, rows = begin, None
            while rows is None or len(rows) == _PAGE:
                rows = await self._page(key, at, here[key])
                if rows is None:
                    return None
                for entry_id, fields in rows:
                    at = entry_id.decode()
                    event = self._read(key, at, _flat(fields))
                    if event is not None and wanted.takes(event):
                        found.append((key, event))
                        size += len(event.data)
                looked += len(rows)
                if looked > _MOST_BEHIND or size > _MOST_TOLD:
                    return None
        return found

    async def _page(self, key: str, at: str, here: str) -> list[tuple[bytes, dict[bytes, bytes]]] | None:
        """Return entries behind `at`, None if others were there that are gone."""
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xrange(key, count=1)
            pipeline.xrevrange(key, count=1)
            pipeline.xrange(key, f"({at}", here, count=_PAGE)
            oldest, newest, rows = await pipeline.execute()
        if at == "0-0":
            return rows if await self._is_whole(key) else None
        first = entry_order(oldest[0][0]) if oldest else (0, 0)
        last = entry_order(newest[0][0]) if newest else (0, 0)
        return None if first > entry_order(at) or last < entry_order(at) else rows

    async def _is_whole(self, key: str) -> bool:
        """Whether nothing of a stream is gone: asked where somebody has nothing of it yet."""
        if not await self._client.exists(key):
            return True
        about = await self._client.xinfo_stream(key)
        return bool(about["length"] == about["entries-added"])

    # Its end

    async def _close_all(self) -> None:
        """End all followers when the process stops, or nothing is read any more."""
        stopping, failing = asyncio.create_task(self._stopping.wait()), asyncio.create_task(self._feed.failure())
        try:
            await asyncio.wait([stopping, failing], return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                _log.error("live streams end: they cannot be read", exc_info=failing.result())
        finally:
            stopping.cancel()
            failing.cancel()
        for follower in self._followers:
            follower.close()

    async def _stop(self) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            await end([ending])
        await self._feed.aclose()


def _message(position: str, event: Event) -> Message:
    told: dict[str, Any] = {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": event.time,
        "subject": event.subject,
        "tenant": event.tenant,
        "cause": event.cause,
        "trace_id": event.trace.trace_id,
    }
    told = {name: value for name, value in told.items() if value is not None}
    return Message(position, msgspec.json.encode({**told, "data": _data(event)}), ends=event.type in _ENDS)


def _data(event: Event) -> Any:
    """Return data as it is to be written: on one line, and as text where it is no JSON."""
    try:
        msgspec.json.decode(event.data)
    except (ValueError, RecursionError):
        return event.data.decode(errors="replace")
    return msgspec.Raw(event.data.replace(b"\n", b" ").replace(b"\r", b" "))


def _said(job_id: str, progress: Progress, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "job_id": job_id,
        "job_type": _text(fields.get(b"type")),
        "attempt": progress.attempt,
        "progress": progress.share,
        "note": progress.note or None,
        "subject": _text(fields.get(b"subject")),
        "tenant": progress.tenant,
    }
    return {name: value for name, value in said.items() if value is not None}


def _flat(fields: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for field in fields.items() for part in field]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
