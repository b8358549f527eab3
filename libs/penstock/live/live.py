"""Live updates: what one connection after another is sent of what happens, from where it left off.

A position is an epoch and the entry up to which all of each stream has been told. Whoever comes back with one gets
all that was told since, or the word that it is not known any more; never part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from penstock.client.feed import Feed
from penstock.errors import InvalidEvent
from penstock.event import Event, decode
from penstock.jobs.progress import Progress
from penstock.jobs.record import Job
from penstock.jobs.watch import STATES
from penstock.keys import EVENTS, Keys
from penstock.live.connection import Connection, Follower, Message
from penstock.live.registry import Registry
from penstock.live.topic import Filter, Topic, Viewer, text
from penstock.redis.connection import AsyncRedis
from penstock.tasks import end
from penstock.times import entry_order, is_entry_id
from penstock.topology import Topology
from penstock.web.jobs import asked_job, unknown_job

_MOST_BEHIND = 10_000  # entries that are looked through for somebody who comes back
_MOST_TOLD = 16_000_000  # bytes that somebody who comes back is told
_PAGE = 100
_LOOKS = 4  # at once, for those who come back together
_log = structlog.get_logger("penstock.live")
_ENDS = frozenset({"job.completed", "job.dead", "job.cancelled"})


class _Followers:
    """Who is told what. Those who want the same are asked once, and those who want one job only of that one."""

    def __init__(self) -> None:
        self._by_job: dict[str | None, dict[Filter, set[Follower]]] = {}

    def add(self, follower: Follower) -> None:
        self._by_job.setdefault(follower.filter.job, {}).setdefault(follower.filter, set()).add(follower)

    def discard(self, follower: Follower) -> None:
        same = self._by_job.get(follower.filter.job, {})
        of_filter = same.get(follower.filter, set())
        of_filter.discard(follower)
        if not of_filter:
            same.pop(follower.filter, None)
        if not same:
            self._by_job.pop(follower.filter.job, None)

    def of(self, job_id: str | None) -> Iterable[tuple[Filter, set[Follower]]]:
        """Return who may want what is told of a job, or of none."""
        everything = self._by_job.get(None, {}).items()
        return everything if job_id is None else itertools.chain(everything, self._by_job.get(job_id, {}).items())

    def __iter__(self) -> Iterator[Follower]:
        return (one for same in self._by_job.values() for some in same.values() for one in some)

    def __bool__(self) -> bool:
        return bool(self._by_job)


class Live:
    """Sends what the one feed of a process reads to all who follow; without any connection it reads nothing."""

    def __init__(
        self,
        client: AsyncRedis,
        keys: Keys,
        topology: Topology,
        *,
        stopping: asyncio.Event,
        registry: Registry | None = None,
    ) -> None:
        """Tell what is on the streams that report on work, and on `events`. All ends when `stopping` is set.

        Connections are known to others through the registry, if there is one.
        """
        streams = {topology.reports(stream) for stream in topology.work} | {EVENTS} & set(topology.streams)
        named = sorted(filter(None, streams))
        self._client = client
        self._keys = keys
        self._topology = topology
        self._names = {keys.stream(name): name for name in named}
        self._mesh = hashlib.blake2b("\0".join(named).encode(), digest_size=4).hexdigest()
        self._feed = Feed(client, keys, named, listener=self)
        self._stopping = stopping
        self._registry = registry
        self._connections: set[Connection] = set()
        self._followers = _Followers()
        self._changing = asyncio.Lock()
        self._looking = asyncio.Semaphore(_LOOKS)
        self._ending: asyncio.Task[None] | None = None

    @property
    def position(self) -> str:
        """Up to where all is told."""
        return ".".join((f"{self._feed.epoch}-{self._mesh}", *map(self._feed.position, self._names)))

    @contextlib.asynccontextmanager
    async def open(self, connection: Connection) -> AsyncIterator[None]:
        """Read for as long as the connection is there; it is closed when nothing more will come.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        try:
            async with self._changing:
                await self._feed.follow_progress()
                if self._registry is not None:
                    await self._feed.follow_aside(self._registry.messages, self._take_message)
                await self._feed.start()
                self._connections.add(connection)
                if self._registry is not None:
                    self._registry.add(connection)
                if self._ending is None or self._ending.done():
                    self._ending = asyncio.create_task(self._close_all(), name="live")
            yield
        finally:
            self._connections.discard(connection)
            if self._registry is not None:
                self._registry.discard(connection)
            for follower in list(connection.followers):
                self.leave(follower)
            async with self._changing:
                if not self._connections:
                    await self._stop()

    def follow(self, follower: Follower) -> None:
        """Put into the follower whatever is read from now on, and nothing else; its connection is open."""
        follower.begin_anew()
        self._followers.add(follower)
        if follower not in follower.connection.followers:
            follower.connection.followers[follower] = None
            follower.connection.changed()

    def leave(self, follower: Follower) -> None:
        """Put nothing into it any more, and drop what waits."""
        self._followers.discard(follower)
        if follower.connection.followers.pop(follower, follower) is None:
            follower.connection.changed()
        follower.take()

    def is_level(self, follower: Follower) -> bool:
        """Whether the follower has been told all, up to just here."""
        come = [key for key, at in follower.after.items() if entry_order(self._feed.position(key)) >= at]
        for key in come:
            del follower.after[key]
        return follower.is_level

    async def check(self, topic: Topic, viewer: Viewer) -> Filter:
        """Return what a viewer is told of a topic.

        Raises:
            Problem: 400 it is none, 403 it is not for the viewer; and as for `find`.
            redis.exceptions.RedisError: Redis is away.
        """
        if topic.job is None:
            return topic.filtered(viewer)
        return topic.of_job(await self.find(topic, viewer))

    async def find(self, topic: Topic, viewer: Viewer) -> Job:
        """Return what has become of a topic's job.

        Raises:
            Problem: 404 nothing is known of it, or it is not for the viewer; 409 there are several of that id.
            redis.exceptions.RedisError: Redis is away.
        """
        assert topic.job is not None
        bound = None if viewer.all_tenants else viewer.tenant
        found = asked_job(self._client, self._keys, self._topology, topic.job, source=topic.source, tenant=bound)
        job = await found
        if not viewer.may_see(job.tenant):
            raise unknown_job()
        return job

    async def resume(self, follower: Follower, position: str) -> list[Message] | None:
        """Return what was told since a position, or None if that is not known any more; follow from there.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        async with self._looking:  # what comes while it waits for its turn is not to make it miss anything
            self.follow(follower)
            here = {key: self._feed.position(key) for key in self._names}
            before = self.position
            epoch, *entries = position.split(".")
            if epoch != before.partition(".")[0] or len(entries) != len(here) or not all(map(is_entry_id, entries)):
                return None
            asked = dict(zip(here, entries, strict=True))
            order = {key: entry_order(at) for key, at in asked.items()}
            follower.after = {key: at for key, at in order.items() if at > entry_order(here[key])}
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
        for wanted, followers in self._followers.of(event.cause):
            if not wanted.takes(event):
                continue
            message = message or _message(self.position, event)
            for follower in followers:
                if key in follower.after:
                    if entry_order(entry_id) <= follower.after[key]:
                        continue
                    del follower.after[key]
                follower.put(message, event.cause if event.type in STATES else None)

    def take_progress(self, job_id: str, progress: Progress, fields: Mapping[bytes, bytes]) -> None:
        """Tell progress to whoever wants it."""
        message: Message | None = None
        for wanted, followers in self._followers.of(job_id):
            if wanted.takes_progress(job_id, progress.tenant, fields):
                message = message or Message("progress", msgspec.json.encode(_said(job_id, progress, fields)))
                for follower in followers:
                    follower.put_progress(message, job_id)

    def _take_message(self, _: str, fields: Mapping[bytes, bytes]) -> None:
        if self._registry is not None:
            self._registry.take(fields)

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
        for connection in self._connections:
            connection.close()

    async def _stop(self) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            await end([ending])
        if self._registry is not None:
            await self._registry.stop()
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
    data = msgspec.json.encode({**told, "data": _data(event)})
    return Message("message", data, position=position, ends=event.type in _ENDS)


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
        "job_type": text(fields.get(b"type")),
        "attempt": progress.attempt,
        "progress": progress.share,
        "note": progress.note or None,
        "subject": text(fields.get(b"subject")),
        "tenant": progress.tenant,
    }
    return {name: value for name, value in said.items() if value is not None}


def _flat(fields: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for field in fields.items() for part in field]
