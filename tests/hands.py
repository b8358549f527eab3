"""A consumer group worked by hand, for tests of one script at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, client
from penstock.streams.commit import Committer, Entry, Output, Settled, Source, UnitOfWork
from tests.servers import Server

Raw: TypeAlias = Any  # redis-py annotates every reply as a union over all its modes

STREAM, GROUP, ME, OTHER = "ingest", "worker", "me", "other"
KEYS = Keys()
RETRY_STREAM, DELAYED = KEYS.retry(STREAM, GROUP), KEYS.delayed(STREAM, GROUP)
SOURCES = [
    Source(0, STREAM, RETRY_STREAM, DELAYED, is_retry=True),
    Source(1, STREAM, STREAM, DELAYED, is_retry=False),
]
PARKED, FRESH = SOURCES


def make_groups(raw: Raw) -> None:
    for source in SOURCES:
        raw.xgroup_create(source.key, GROUP, "0", mkstream=True)


def add(raw: Raw, count: int = 1, /, *, key: str = STREAM, **fields: Any) -> list[str]:
    """Add entries to a stream; return their ids."""
    return [raw.xadd(key, {"type": "t", **fields}).decode() for _ in range(count)]


def take(raw: Raw, count: int = 100, *, consumer: str = ME, key: str = STREAM) -> list[str]:
    """Read entries into the hands of `consumer`; return their ids."""
    found = raw.xreadgroup(GROUP, consumer, {key: ">"}, count=count)
    return [entry_id.decode() for _, rows in found for entry_id, _ in rows]


def taken(raw: Raw, count: int = 1, /, **fields: Any) -> list[str]:
    """Add entries, and take them."""
    add(raw, count, **fields)
    return take(raw, count)


def pending(raw: Raw, key: str = STREAM) -> dict[str, str]:
    """Return who has which entry in hand."""
    rows = raw.xpending_range(key, GROUP, "-", "+", 100_000)
    return {row["message_id"].decode(): row["consumer"].decode() for row in rows}


def fields_of(raw: Raw, key: str) -> list[dict[str, str]]:
    """Return the fields of every entry of a stream."""
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in raw.xrange(key)]


def snapshot(raw: Raw) -> dict[str, Any]:
    """Return all that is stored, but for idle times and the like."""
    found: dict[str, Any] = {}
    for key in sorted(raw.keys()):
        if raw.type(key) == b"stream":
            groups = raw.xinfo_groups(key)
            hands = [(group["name"], raw.xpending_range(key, group["name"], "-", "+", 10_000)) for group in groups]
            for _, rows in hands:
                for row in rows:
                    del row["time_since_delivered"]
            found[key.decode()] = (raw.xrange(key), hands)
        else:
            found[key.decode()] = raw.dump(key)
    return found


def done(entry_id: str, *, source: Source = FRESH) -> Entry:
    return Entry(source.index, entry_id)


def unit(*entries: Entry, outputs: list[Output] | None = None, operations: list[list[Any]] | None = None) -> UnitOfWork:
    return UnitOfWork(list(entries), outputs or [], operations or [])


def event(event_type: str = "out", *, key: str = "events", delay_ms: int = 0) -> Output:
    return Output(key, ["type", event_type], delay_ms)


@asynccontextmanager
async def connected(server: Server | str) -> AsyncIterator[AsyncRedis]:
    made = client(server if isinstance(server, str) else server.url)
    try:
        yield made
    finally:
        await made.aclose()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they end: `asyncio.wait_for` of Python 3.11, which redis-py uses, may swallow a cancel."""
    remaining = set(tasks)
    while remaining:
        for task in remaining:
            task.cancel()
        _, remaining = await asyncio.wait(remaining, timeout=0.1)


class Hand:
    """A committer under way, and what became of the units it was given."""

    def __init__(self, redis_client: AsyncRedis, *, consumer: str = ME, dead_letters: str = "dlq") -> None:
        self.reports: list[Settled] = []
        self.committer = Committer(
            redis_client,
            group=GROUP,
            consumer=consumer,
            sources=SOURCES,
            dead_letters=dead_letters,
        )

    async def settle(self, *units: UnitOfWork) -> list[Settled]:
        """Settle units as one batch; return what became of each."""
        commits = [self.committer.submit(one) for one in units]
        run = asyncio.create_task(self.committer.run())
        drain = asyncio.create_task(self.committer.drain())
        try:
            await asyncio.wait([run, drain], return_when=asyncio.FIRST_COMPLETED)
            if run.done():
                run.result()  # it only ends by an error
        finally:
            await end(run, drain)
        self.reports += [commit.settled for commit in commits if commit.settled is not None]
        return self.reports


@asynccontextmanager
async def hand(server: Server, *, consumer: str = ME, dead_letters: str = "dlq") -> AsyncIterator[Hand]:
    async with connected(server) as redis_client:
        yield Hand(redis_client, consumer=consumer, dead_letters=dead_letters)
